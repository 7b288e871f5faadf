"""Model files of other formats as functions from records to outputs: SavedModel, LiteRT (.tflite), ONNX."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError, MissingDependency

Model = Callable[[NDArray[Any]], Any]


def in_batches(call: Model, batch_size: int) -> Model:
    """Return a function that asks `call` for at most `batch_size` records at a time."""

    def asked(x: NDArray[Any]) -> NDArray[Any]:
        parts = [np.asarray(call(x[start : start + batch_size])) for start in range(0, len(x), batch_size)]
        return np.concatenate(parts)

    return asked


def saved_model(path: Path, *, batch_size: int) -> Model:
    """Load a TensorFlow SavedModel folder: its `serve` endpoint (Keras export) or `serving_default` signature.

    A SavedModel is a program: load only those that you trust.

    Raises: MissingDependency without TensorFlow; DataError for a folder that cannot be loaded or has no endpoint.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency("a SavedModel needs TensorFlow: pip install 'dpaudit[train]'.") from error
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:
        raise DataError(f"{path} cannot be loaded as a SavedModel: {error}") from error
    signature = getattr(loaded, "signatures", {}).get("serving_default")
    if signature is not None:
        (name, spec), *more = signature.structured_input_signature[1].items()
        if more:
            raise DataError(f"{path} takes {1 + len(more)} inputs; models with one input can be attacked.")
        function = signature

        def call(x: NDArray[Any]) -> Any:
            return _only_matrix(function(**{name: tf.constant(x, dtype=spec.dtype)}), path)

    elif hasattr(loaded, "serve"):
        endpoint = loaded.serve

        def call(x: NDArray[Any]) -> Any:
            return _only_matrix(endpoint(tf.constant(np.asarray(x, dtype=np.float32))), path)

    else:
        raise DataError(f"{path} has neither a 'serving_default' signature nor a 'serve' endpoint. Export one.")
    found = in_batches(call, batch_size)
    found.model = loaded  # type: ignore[attr-defined]  # a signature does not keep the variables alive that it reads
    return found


def _only_matrix(outputs: Any, path: Path) -> NDArray[Any]:
    """Return the one output of a model, out of a tensor, a list or a dictionary."""
    values = list(outputs.values()) if isinstance(outputs, dict) else outputs
    values = list(values) if isinstance(values, list | tuple) else [values]
    if len(values) != 1:
        raise DataError(f"{path} returns {len(values)} outputs; models with one output can be attacked.")
    return np.asarray(values[0])


def litert(path: Path, *, batch_size: int) -> Model:
    """Load a LiteRT (.tflite) file; quantised inputs and outputs are converted to and from numbers.

    Raises: MissingDependency without ai-edge-litert and TensorFlow; DataError for an unreadable file.
    """
    interpreter = _interpreter(path)
    (given,), (out,) = interpreter.get_input_details()[:1], interpreter.get_output_details()[:1]
    if len(interpreter.get_input_details()) != 1 or len(interpreter.get_output_details()) != 1:
        raise DataError(f"{path} must have one input and one output to be attacked.")

    def call(x: NDArray[Any]) -> NDArray[np.float64]:
        interpreter.resize_tensor_input(given["index"], [len(x), *x.shape[1:]], strict=False)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], _quantised(np.asarray(x), given))
        interpreter.invoke()
        return _dequantised(interpreter.get_tensor(out["index"]).copy(), out)

    return in_batches(call, batch_size)


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tensorflow import lite
        except ImportError as error:
            raise MissingDependency("a .tflite file needs LiteRT: pip install 'dpaudit[litert]'.") from error
        Interpreter = lite.Interpreter  # noqa: N806 - a class
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow says that its own interpreter moved to ai-edge-litert
            interpreter = Interpreter(model_path=str(path))
            interpreter.allocate_tensors()
    except Exception as error:
        raise DataError(f"{path} cannot be loaded as a LiteRT model: {error}") from error
    return interpreter


def _quantised(x: NDArray[Any], detail: Any) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    if not scale:
        return x.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    return np.asarray(np.clip(np.round(x / scale + zero), limits.min, limits.max), dtype=detail["dtype"])


def _dequantised(values: NDArray[Any], detail: Any) -> NDArray[np.float64]:
    scale, zero = detail["quantization"]
    wide = values.astype(np.float64)
    return np.asarray(scale * (wide - zero)) if scale else wide


_ONNX_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}


def onnx(path: Path, *, batch_size: int) -> Model:
    """Load an ONNX file; of several outputs the one with probabilities or logits is taken.

    Raises: MissingDependency without onnxruntime; DataError for a file that cannot be loaded or has no such output.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("an .onnx file needs onnxruntime: pip install 'dpaudit[onnx]'.") from error
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise DataError(f"{path} cannot be loaded as an ONNX model: {error}") from error
    given = session.get_inputs()
    if len(given) != 1 or given[0].type not in _ONNX_TYPES:
        raise DataError(f"{path} must have one input of numbers; it has {', '.join(i.type for i in given)}.")
    kind = _ONNX_TYPES[given[0].type]
    return in_batches(lambda x: _scores(session.run(None, {given[0].name: x.astype(kind)}), path), batch_size)


def _scores(outputs: list[Any], path: Path) -> NDArray[np.float64]:
    """Return the output that is one number per class: a matrix of floats, or scikit-learn's list of dictionaries."""
    for value in outputs:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return np.array([[row[key] for key in sorted(row)] for row in value], dtype=np.float64)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 2:
            return value.astype(np.float64)
    raise DataError(f"{path} returns no matrix of numbers, one per record and class.")
