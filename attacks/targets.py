"""Models to query: a Keras 3 file, a run folder, or any callable `module:function`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit._objects import is_object_name, load_object
from dpaudit.attacks.files import Examples
from dpaudit.attacks.outputs import as_logits
from dpaudit.errors import DataError, MissingDependency, UsageError

Model = Callable[[NDArray[Any]], Any]


def needs_keras(target: str) -> bool:
    """Return whether a target is a Keras model (a file, or a folder that holds one)."""
    return _keras_path(target) is not None


def _keras_path(target: str) -> Path | None:
    path = Path(target)
    path = path / "model.keras" if path.is_dir() else path
    return path if path.suffix == ".keras" else None


def load_target(target: str, *, batch_size: int = 1024) -> Model:
    """Return a function from records to outputs.

    Args:
        target: path of a `.keras` file, of a folder that holds `model.keras`, or `module:function` (imported with
            the current folder on the path), a callable that takes x and returns logits or probabilities.
        batch_size: records per call of a Keras model.

    Raises:
        UsageError: neither a file nor a callable.  DataError: an unreadable model.
        MissingDependency: a Keras file without Keras installed.
    """
    path = _keras_path(target)
    if path is not None:
        return _keras(path, batch_size)
    if is_object_name(target):
        return _callable(target)
    raise UsageError(
        f"the target {target!r} must be a .keras file, a folder with model.keras, module:function, or an .npz, .csv or "
        ".parquet file of outputs."
    )


def _keras(path: Path, batch_size: int) -> Model:
    if not path.is_file():
        raise DataError(f"there is no model file {path}.")
    try:
        import keras
    except ImportError as error:
        raise MissingDependency("a .keras model needs Keras: pip install 'dpaudit[train]'.") from error
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise DataError(f"{path} cannot be loaded as a Keras model: {error}") from error
    return lambda x: model.predict(x, batch_size=batch_size, verbose=0)


def _callable(target: str) -> Model:
    found = load_object(target)
    if not callable(found):
        raise UsageError(f"{target!r} must be callable; got {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def query(model: Model, sides: tuple[Examples, Examples], *, kind: str = "auto") -> NDArray[np.float64]:
    """Query a model with members and then non-members; return logits (n, classes) in that order.

    Raises: DataError when the model raises, or returns something of the wrong shape or without finite values.
    """
    raw = [_ask(model, side.x) for side in sides]
    if raw[0].shape[1:] != raw[1].shape[1:]:
        raise DataError(f"the model returned shapes {raw[0].shape} and {raw[1].shape} for members and non-members.")
    return as_logits(np.concatenate(raw), kind=kind)


def _ask(model: Model, x: NDArray[Any]) -> NDArray[Any]:
    try:
        outputs = np.asarray(model(x))
    except Exception as error:
        raise DataError(f"the model failed on records of shape {x.shape}: {type(error).__name__}: {error}") from error
    if outputs.ndim < 1 or len(outputs) != len(x):
        raise DataError(f"the model must return one row per record, {len(x)}; got shape {outputs.shape}.")
    return outputs
