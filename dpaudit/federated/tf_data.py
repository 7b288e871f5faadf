"""Examples from a `tf.data.Dataset`, or from a function of the user's that returns one (or arrays).

The units of privacy need stable positions, so the examples are taken out of the pipeline once and held in memory. A
dataset that shuffles gives another order in every run: put shuffling and augmentation elsewhere.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit._objects import load_object
from dpaudit.errors import DataError, MissingDependency
from dpaudit.federated import tables

_KEYS = ("x", "y", "client")


def _is_dataset(thing: Any) -> bool:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency(f"reading tf.data needs TensorFlow: pip install 'dpaudit[train]' ({error}).") from error
    return isinstance(thing, tf.data.Dataset)


def arrays_of(dataset: Any) -> tuple[NDArray[Any], ...]:
    """Return what a finite `tf.data.Dataset` holds as arrays: (x, y) or (x, y, client).

    Args:
        dataset: elements are (x, y), (x, y, client), or mappings with these keys; single examples. A
            batched dataset is taken apart first if it shows that it is one: the first axis of its elements is of
            unknown size, or `.batch` was its last step. After `drop_remainder=True` call `.unbatch()` yourself.

    Raises: DataError for anything else, an infinite or an empty dataset.
    """
    if not _is_dataset(dataset):
        raise DataError(f"a tf.data.Dataset of (x, y) is needed; got {type(dataset).__name__}.")
    if int(dataset.cardinality()) == -1:
        raise DataError("the tf.data.Dataset is infinite. Take away .repeat(); epochs are counted by the training.")
    if isinstance(dataset.element_spec, Mapping):
        keys = [key for key in _KEYS if key in dataset.element_spec]
        dataset = dataset.map(lambda element: tuple(element[key] for key in keys))
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or any(not hasattr(part, "shape") for part in spec):
        raise DataError(f"elements of the tf.data.Dataset must be (x, y) or (x, y, client); they are {spec}.")
    if "Batch" in type(dataset).__name__ or all(part.shape.rank and part.shape[0] is None for part in spec):
        dataset = dataset.unbatch()
    rows = list(dataset.as_numpy_iterator())
    if not rows:
        raise DataError("the tf.data.Dataset holds no example.")
    try:
        return tuple(np.stack(column) for column in zip(*rows, strict=True))
    except ValueError as error:
        raise DataError(f"the examples of the tf.data.Dataset differ in shape: {error}. Pad them.") from error


def read_object(name: str, *, client: str | None) -> tables.Table:
    """Return the examples that the function `module:function` gives: a `tf.data.Dataset`, arrays, or a mapping of them.

    Args:
        name: of a function without arguments that returns a `tf.data.Dataset`, a tuple (x, y) or (x, y, client), or a
            mapping with the keys x, y and, if wanted, client and classes.
        client: not None when who holds each example is needed.

    Raises: DataError for anything that cannot be trained on; UsageError when the function cannot be imported.
    """
    found = load_object(name)()
    arrays = dict(found) if isinstance(found, Mapping) else None
    if arrays is None:
        parts = found if isinstance(found, tuple) else arrays_of(found)
        arrays = dict(zip(_KEYS, parts, strict=False))
    missing = [key for key in ("x", "y", *(["client"] if client is not None else [])) if key not in arrays]
    if missing:
        raise DataError(f"{name} gives no {', '.join(missing)}; it gives {', '.join(arrays) or 'nothing'}.")
    held_by = arrays.get("client")
    return tables.checked(
        name,
        np.asarray(arrays["x"]),
        np.asarray(arrays["y"]),
        None if held_by is None else np.asarray(held_by),
        None if arrays.get("classes") is None else int(arrays["classes"]),
    )
