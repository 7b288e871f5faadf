"""Models to query: files of Keras 3, TensorFlow, LiteRT and ONNX, a run folder, or any callable `module:function`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit._objects import is_object_name, load_object
from dpaudit.attacks import target_files
from dpaudit.attacks.files import Examples
from dpaudit.attacks.outputs import as_logits
from dpaudit.errors import DataError, MissingDependency, UsageError

Model = Callable[[NDArray[Any]], Any]


def needs_tensorflow(target: str) -> bool:
    """Return whether TensorFlow is needed to open a target (which the command line loads quietly, first)."""
    return keras_path(target) is not None or _is_saved_model(target)


def keras_path(target: str) -> Path | None:
    """Return the Keras file of a target, or of a folder of a run; None for targets of other kinds."""
    path = Path(target)
    if path.is_dir() and not _is_saved_model(target):
        path = path / "model.keras"
    return path if path.suffix == ".keras" else None


def _is_saved_model(target: str) -> bool:
    return (Path(target) / "saved_model.pb").is_file()


def load_target(target: str, *, batch_size: int = 1024) -> Model:
    """Return a function from records to outputs.

    Args:
        target: path of a `.keras`, `.tflite` or `.onnx` file, of a SavedModel folder, of a folder that holds
            `model.keras`, or `module:function` (imported with the current folder on the path), a callable that takes
            x and returns logits or probabilities.
        batch_size: records per call of a model file.

    Raises:
        UsageError: neither a file nor a callable.  DataError: an unreadable model.
        MissingDependency: what opens the file is not installed.
    """
    path = keras_path(target)
    if path is not None:
        model = load_keras(path)
        return lambda x: model.predict(x, batch_size=batch_size, verbose=0)
    if _is_saved_model(target):
        return target_files.saved_model(Path(target), batch_size=batch_size)
    openers = {".tflite": target_files.litert, ".onnx": target_files.onnx}
    suffix = Path(target).suffix
    if suffix in openers:
        if not Path(target).is_file():
            raise DataError(f"there is no model file {target}.")
        return openers[suffix](Path(target), batch_size=batch_size)
    if is_object_name(target):
        return _callable(target)
    raise UsageError(
        f"the target {target!r} must be a .keras, .tflite or .onnx file, a SavedModel folder, a folder with "
        "model.keras, module:function, or an .npz, .csv or .parquet file of outputs."
    )


def load_keras(path: Path) -> Any:
    """Load a .keras file; raise DataError or MissingDependency."""
    if not path.is_file():
        raise DataError(f"there is no model file {path}.")
    try:
        import keras
    except ImportError as error:
        raise MissingDependency("a .keras model needs Keras: pip install 'dpaudit[train]'.") from error
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise DataError(f"{path} cannot be loaded as a Keras model: {error}") from error


def _callable(target: str) -> Model:
    found = load_object(target)
    if not callable(found):
        raise UsageError(f"{target!r} must be callable; got {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def query(model: Model, sides: Sequence[Examples], *, kind: str = "auto") -> NDArray[np.float64]:
    """Query a model with the records of each side in turn; return logits (n, classes) in that order.

    Raises: DataError when the model raises, or returns something of the wrong shape or without finite values.
    """
    raw = [_ask(model, side.x) for side in sides]
    shapes = {one.shape[1:] for one in raw}
    if len(shapes) > 1:
        raise DataError(f"the model returned rows of shapes {sorted(shapes)} for the files of records.")
    return as_logits(np.concatenate(raw), kind=kind)


def query_records(model: Model, x: NDArray[Any], *, kind: str = "auto") -> NDArray[np.float64]:
    """Query a model with records; return logits (n, classes). Raises as `query`."""
    return as_logits(_ask(model, x), kind=kind)


def label_oracle(model: Model, *, kind: str = "auto") -> Callable[[NDArray[Any]], NDArray[np.int64]]:
    """Return a function from records to predicted classes: all that a label-only attacker may ask."""

    def predicted(x: NDArray[Any]) -> NDArray[np.int64]:
        outputs = _ask(model, x)
        if outputs.ndim == 1 or outputs.shape[1] == 1:  # the positive class alone: its sign needs the scale
            outputs = as_logits(outputs, kind=kind)
        return np.asarray(outputs.argmax(axis=1), dtype=np.int64)

    return predicted


def _ask(model: Model, x: NDArray[Any]) -> NDArray[Any]:
    try:
        outputs = np.asarray(model(x))
    except Exception as error:
        raise DataError(f"the model failed on records of shape {x.shape}: {type(error).__name__}: {error}") from error
    if outputs.ndim < 1 or len(outputs) != len(x):
        raise DataError(f"the model must return one row per record, {len(x)}; got shape {outputs.shape}.")
    return outputs
