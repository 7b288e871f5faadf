"""The global and sample states of DPQueries as plain arrays, and what their fields say of clip and noise."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import UsageError

Vector = NDArray[np.float64]


def to_arrays(query: Any, state: Any) -> dict[str, NDArray[Any]]:
    """Return a global state as arrays named by position; raise UsageError for what is not a tensor."""
    import tensorflow as tf

    arrays = {f"{index:03d}": np.asarray(leaf) for index, leaf in enumerate(tf.nest.flatten(state))}
    odd = [name for name, array in arrays.items() if array.dtype == object]
    if odd:
        raise UsageError(
            f"the state of {type(query).__name__} holds things that are not tensors (leaves {', '.join(odd)}); "
            "a checkpoint cannot save them."
        )
    return arrays


def from_arrays(structure: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the global state of the given structure; the inverse of `to_arrays`."""
    import tensorflow as tf

    leaves = tf.nest.flatten(structure)
    values = [tf.constant(arrays[f"{i:03d}"], dtype=tf.as_dtype(np.asarray(x).dtype)) for i, x in enumerate(leaves)]
    return tf.nest.pack_sequence_as(structure, values)


def check_sample(query: Any, sample: Any, *, width: int) -> None:
    """Raise UsageError unless the query accumulates one vector of `width` numbers, and what else is small counts."""
    import tensorflow as tf

    shapes = [tuple(np.shape(leaf)) for leaf in tf.nest.flatten(sample)]
    if not shapes or shapes[0] != (width,):
        raise UsageError(
            f"{type(query).__name__} accumulates {shapes or 'nothing'}; a server needs one vector of {width} numbers, "
            "first in the sample state."
        )


def flatten_sample(sample: Any) -> Vector:
    """Return a sample state as one float64 vector: the sum first, then what else is counted."""
    import tensorflow as tf

    return np.concatenate([np.asarray(leaf, dtype=np.float64).ravel() for leaf in tf.nest.flatten(sample)])


def unflatten_sample(empty: Any, total: Vector) -> Any:
    """Return the sample state of the shape of `empty` that `total` flattens."""
    import tensorflow as tf

    leaves, start = [], 0
    for leaf in tf.nest.flatten(empty):
        shape = np.shape(leaf)
        size = math.prod(shape)
        leaves.append(tf.cast(tf.constant(total[start : start + size].reshape(shape)), tf.as_dtype(leaf.dtype)))
        start += size
    return tf.nest.pack_sequence_as(empty, leaves)


def _fields(state: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value, owner) of every named field of a state, depth first."""
    for name in getattr(state, "_fields", ()):
        value = getattr(state, name)
        yield name, value, state
        yield from _fields(value)


def _first(state: Any, *names: str) -> tuple[float, Any] | None:
    for name, value, owner in _fields(state):
        if name in names and np.ndim(value) == 0:
            return float(np.asarray(value)), owner
    return None


def clip_norm(state: Any) -> float | None:
    """Return the L2 clip norm that a state names, if it does; 0 is not one."""
    found = _first(state, "l2_norm_clip", "clip_value")
    return found[0] if found is not None and found[0] > 0 else None


def noise_stddev(state: Any) -> float | None:
    """Return the standard deviation of the Gaussian noise on the sum that a state names beside its clip norm.

    For trees it differs from round to round with the number of nodes, and is None.
    """
    found = _first(state, "l2_norm_clip")
    stddev = getattr(found[1], "stddev", None) if found is not None else None
    return None if stddev is None else float(np.asarray(stddev))


def denominator(state: Any) -> float:
    """Return what a query divides its sum by: that of a NormalizedQuery at the top, else 1."""
    found = getattr(state, "denominator", None)
    return 1.0 if found is None else float(np.asarray(found))


def is_cumulative(query: Any) -> bool:
    """Return whether a query releases the sum over all rounds so far, and not that of the round."""
    inner = getattr(query, "_inner_query", query)
    return type(inner).__name__ == "TreeCumulativeSumQuery"
