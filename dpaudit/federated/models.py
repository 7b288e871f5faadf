"""Keras models: built, checked for what differential privacy cannot bear, saved, and queried."""

import hashlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import ModelSection
from dpaudit.errors import DataError, MissingDependency, UsageError

Floats = NDArray[np.float32]
_MIXING = {
    "BatchNormalization": "GroupNormalization or LayerNormalization",
    "SyncBatchNormalization": "GroupNormalization or LayerNormalization",
}


def import_keras() -> Any:
    """Return keras on its TensorFlow backend.

    Raises: MissingDependency when TensorFlow or Keras is missing; UsageError when Keras runs on another backend.
    """
    try:
        import keras
        import tensorflow as tf  # noqa: F401 - Keras may have been told to use another backend
    except ImportError as error:
        raise MissingDependency(
            f"training needs TensorFlow and Keras 3: pip install 'dpaudit[train]' ({error})."
        ) from error
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"Keras runs on {keras.backend.backend()!r}; training needs TensorFlow. Set KERAS_BACKEND=tensorflow."
        )
    return keras


def mlp(input_shape: tuple[int, ...], classes: int, *, hidden: tuple[int, ...], root: int) -> Any:
    """Return the built-in multi-layer perceptron: ReLU layers and a linear layer that outputs logits."""
    keras = import_keras()

    def dense(units: int, index: int, activation: str | None) -> Any:
        start = keras.initializers.GlorotUniform(seed=_rng.seed_of(root, "model-init", index))
        return keras.layers.Dense(units, activation=activation, kernel_initializer=start)

    layers = [keras.layers.Flatten()] if len(input_shape) > 1 else []
    layers += [dense(units, index, "relu") for index, units in enumerate(hidden)]
    layers += [dense(classes, len(hidden), None)]
    return keras.Sequential([keras.Input(input_shape), *layers])


def build_model(section: ModelSection, input_shape: tuple[int, ...], classes: int, *, root: int) -> Any:
    """Return the configured Keras model, built and checked; the same root gives the same initial weights.

    Raises: UsageError when the builder cannot be found or called, or the model is not fit (see `check_model`).
    """
    keras = import_keras()
    if section.builder is None:
        model = mlp(input_shape, classes, hidden=section.hidden, root=root)
    else:
        keras.utils.set_random_seed(_rng.seed_of(root, "model-init"))
        model = _builder(section.builder)(input_shape, classes)
    check_model(model, input_shape, classes)
    return model


def _builder(name: str) -> Callable[[tuple[int, ...], int], Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"model.builder = {name!r} cannot be imported ({error}). Write it as 'module:function'; "
            "the module must be on PYTHONPATH."
        ) from error
    if not callable(found):
        raise UsageError(f"model.builder = {name!r} is not callable.")
    return found  # type: ignore[no-any-return]


def check_model(model: Any, input_shape: tuple[int, ...], classes: int) -> None:
    """Build `model` if needed and raise UsageError unless it can be trained with differential privacy.

    Refused, beside what `check_private` refuses: a softmax at the end (the loss takes logits), outputs of another
    shape than (batch, classes).
    """
    output = check_private(model, input_shape, dtype=np.float32)
    keras = import_keras()
    if output != (1, classes):
        raise UsageError(f"the model must map {input_shape} to {classes} logits; its output has shape {output[1:]}.")
    last = model.layers[-1] if model.layers else None
    if getattr(last, "activation", None) is keras.activations.softmax or isinstance(last, keras.layers.Softmax):
        raise UsageError("the model ends in a softmax; the loss takes logits. Leave the last activation out.")


def check_private(model: Any, input_shape: tuple[int, ...], *, dtype: Any) -> tuple[int, ...]:
    """Build `model` if needed; return the shape of its output for one example.

    Raises: UsageError for layers that mix the examples of a batch (one example would change the gradients of all
        others, and the clip would no longer bound what it contributes) or keep state between batches, losses that are
        added beside the main one (regularizers: they would be left out silently), parameters that are not float32.
    """
    keras = import_keras()
    if not isinstance(model, keras.Model):
        raise UsageError(f"the model must be a Keras 3 model; got {type(model).__name__}.")
    output = model(np.zeros((1, *input_shape), dtype), **training_flag(model, False))
    for layer in model._flatten_layers():
        _refuse_mixing(layer)
    if model.losses:
        raise UsageError(
            "the model adds losses of its own (a regularizer, or add_loss), which private training would leave out. "
            "Take them away; for weight decay use the optimizer's, which costs no privacy."
        )
    wrong = [variable.path for variable in model.trainable_variables if str(variable.dtype) != "float32"]
    if wrong or not model.trainable_variables:
        raise UsageError(
            f"trainable parameters must be float32, and there must be some; wrong: {', '.join(wrong) or 'none there'}."
        )
    if not hasattr(output, "shape"):
        raise UsageError(f"the model must have one output; it has {type(output).__name__} of them.")
    return tuple(int(size) for size in output.shape)


def training_flag(model: Any, value: bool) -> dict[str, bool]:
    """Return the keyword `training` for models that take it; a subclassed model's `call` may do without."""
    return {"training": value} if getattr(model, "_call_has_training_arg", True) else {}


def _refuse_mixing(layer: Any) -> None:
    """Raise UsageError for a layer that no clip of single examples can make private."""
    named = f"layer {layer.name!r} is a {type(layer).__name__}"
    replacement = next((_MIXING[kind.__name__] for kind in type(layer).__mro__ if kind.__name__ in _MIXING), None)
    if replacement is not None:
        raise UsageError(
            f"{named}: it mixes the examples of a batch and keeps statistics of them that no noise protects. "
            f"Use {replacement}."
        )
    if getattr(layer, "stateful", False) is True:
        raise UsageError(f"{named} with stateful=True: it carries one batch into the next. Use stateful=False.")


def get_weights(model: Any) -> NDArray[np.float64]:
    """Return all trainable parameters as one float64 vector, in the order of `trainable_variables`."""
    return np.concatenate([np.asarray(v.value, dtype=np.float64).ravel() for v in model.trainable_variables])


def set_weights(model: Any, weights: NDArray[np.float64]) -> None:
    """Write one vector into the trainable parameters."""
    sizes = [int(np.prod(variable.shape, dtype=np.int64)) for variable in model.trainable_variables]
    if sum(sizes) != weights.size:
        raise UsageError(f"the model has {sum(sizes)} parameters; got a vector of {weights.size}.")
    parts = np.split(weights.astype(np.float32), np.cumsum(sizes)[:-1])
    for variable, part in zip(model.trainable_variables, parts, strict=True):
        variable.assign(part.reshape(variable.shape))


def save_model(model: Any, path: Path) -> None:
    """Save as .keras, so that readers see the whole file or none."""
    temporary = path.with_name(f".{path.stem}.part.keras")
    model.save(temporary)
    temporary.replace(path)


def logits_of(model: Any, x: Floats, *, batch: int = 4096) -> Floats:
    """Return the outputs (n, classes) of a model on `x`, without training behaviour."""
    flag = training_flag(model, False)
    parts = [np.asarray(model(x[i : i + batch], **flag), np.float32) for i in range(0, len(x), batch)]
    return np.concatenate(parts)


def load_model(path: Path) -> Any:
    """Load a .keras file; code inside it is not run (Keras safe mode). Raises: DataError when it cannot be read."""
    keras = import_keras()
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a readable .keras model: {error}") from error


def frozen_digest(model: Any) -> str:
    """Return the SHA-256 of what a model does not train (seeds apart): server and clients must have the same."""
    digest = hashlib.sha256()
    for variable in model.non_trainable_variables:
        if "seed_generator_state" not in variable.path:
            digest.update(np.ascontiguousarray(variable.value).tobytes())
    return digest.hexdigest()
