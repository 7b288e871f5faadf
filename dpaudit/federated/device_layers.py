"""Which Keras layers can be trained on a device, and their activations with gradients that LiteRT can run.

LiteRT has the forward operations of a network, but of the backward operations only those that are made of arithmetic:
there is no gradient of a convolution, of pooling, of a slice, nor of ReLU. The built-in operators are enough for the
layers below; TensorFlow's own operators ("Select TF ops", Flex) are not an answer, because the runtime of a device
refuses to run them. Where only the gradient is missing, the activation is replaced while the graph is traced by one
that computes the same numbers and has its gradient written out. The user's model is not changed.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dpaudit.errors import UsageError
from dpaudit.federated.bookkeeping import replaced

TRAINABLE = frozenset({
    "InputLayer", "Flatten", "Reshape", "Permute", "Identity", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax",
    "Dense", "EinsumDense", "LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization",
    "Normalization", "Rescaling", "Embedding", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "ZeroPadding1D", "ZeroPadding2D", "Add", "Subtract", "Multiply",
    "Average", "Maximum", "Minimum", "Concatenate", "MultiHeadAttention", "Sequential", "Functional",
})  # fmt: skip
_OPERATIONS = frozenset({"Add", "Subtract", "Multiply", "NotEqual", "LogicalOr", "LogicalAnd"})
"""Operations of keras.ops that may stand between layers."""
_PLAIN_ACTIVATIONS = frozenset({
    "linear", "selu", "celu", "silu", "softplus", "tanh", "sigmoid", "hard_tanh", "exponential", "softmax",
    "log_softmax", "mish", "sparse_plus", "squareplus", "log_sigmoid", "tanh_shrink", "soft_shrink", "hard_shrink",
})  # fmt: skip
_KNOWN = "Dense, EinsumDense, Embedding, MultiHeadAttention, LayerNormalization and GlobalAveragePooling among others"
_INSTEAD = (
    ("Conv", "LiteRT has no gradient of a convolution: use Reshape to patches and Dense, or features made beforehand"),
    ("RNN", "LiteRT cannot differentiate through steps: use Flatten and Dense, or MultiHeadAttention over the steps"),
    ("LSTM", "LiteRT cannot differentiate through steps: use Flatten and Dense, or MultiHeadAttention over the steps"),
    ("GRU", "LiteRT cannot differentiate through steps: use Flatten and Dense, or MultiHeadAttention over the steps"),
    ("Bidirectional", "use Flatten and Dense, or MultiHeadAttention over the steps"),
    ("TimeDistributed", "Dense works on the last axis by itself"),
    ("GlobalAveragePooling3D", "use Reshape and GlobalAveragePooling2D"),
    ("Pooling", "LiteRT has no gradient of local pooling: use GlobalAveragePooling, or Dense on patches"),
    ("Cropping", "LiteRT has no gradient of a slice: crop the data beforehand"),
    ("UpSampling", "use Dense and Reshape"),
    ("Dropout", "LiteRT draws no random numbers: leave it out (the noise of the training regularises too)"),
    ("Noise", "LiteRT draws no random numbers: leave it out (the noise of the training regularises too)"),
    ("PReLU", "use LeakyReLU, whose slope is fixed"),
    ("Lambda", f"use built-in layers ({_KNOWN})"),
    ("Attention", "use MultiHeadAttention"),
)


def check_trainable(model: Any) -> None:
    """Raise UsageError, with every layer at fault and what to use instead, unless a device can train `model`."""
    if type(model).__name__ not in {"Functional", "Sequential"} or not _is_builtin(model):
        problems = [f"the model is a {type(model).__name__}: make it functional or sequential, of built-in layers"]
    else:
        problems = list(dict.fromkeys([*_problems(model), *_hidden_embeddings(model)]))
    if problems:
        raise UsageError("this model cannot be trained by LiteRT on a device:\n  " + "\n  ".join(problems))


def vocabulary(model: Any) -> int | None:
    """Return below which number all inputs of a model must be, as tokens of its embeddings; None without embeddings."""
    sizes = [int(layer.input_dim) for layer in _embeddings(model)]
    return min(sizes) if sizes else None


def _embeddings(model: Any) -> list[Any]:
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if type(layer).__name__ == "Embedding"]


def _hidden_embeddings(model: Any) -> list[str]:
    """Say which embeddings look up something that was computed: a device could not check it beforehand."""
    given = {id(tensor) for tensor in model.inputs}
    return [
        f"layer {layer.name!r} (Embedding): it must read the model's input, and nothing that was computed from it"
        for layer in _embeddings(model)
        if not all(id(tensor) in given for node in layer._inbound_nodes for tensor in node.input_tensors)
    ]


def _problems(layer: Any) -> list[str]:
    """Return what is wrong with a layer, or else with the layers and the operations inside."""
    found = _problem(layer)
    if found is not None or not hasattr(layer, "trainable_variables"):
        return [] if found is None else [found]
    inner = [thing for thing in getattr(layer, "operations", []) if not hasattr(thing, "trainable_variables")]
    inner += layer._flatten_layers(include_self=False, recursive=False)
    return [problem for thing in inner for problem in _problems(thing)]


def _is_builtin(thing: Any) -> bool:
    return str(type(thing).__module__).startswith("keras.src.")


def _problem(layer: Any) -> str | None:
    kind, named = type(layer).__name__, f"layer {layer.name!r} ({type(layer).__name__})"
    if not hasattr(layer, "trainable_variables"):
        return None if kind in _OPERATIONS and _is_builtin(layer) else f"operation {layer.name!r} ({kind}): use a layer"
    if kind == "Dropout" and not layer.rate:
        return None
    if kind not in TRAINABLE or not _is_builtin(layer):
        own = f"a class of its own: use built-in layers ({_KNOWN})" if not _is_builtin(layer) else None
        known = next((text for part, text in _INSTEAD if part in kind), f"use other layers ({_KNOWN})")
        return f"{named}: {own or known}"
    if layer.compute_dtype != "float32":
        return f"{named}: it computes in {layer.compute_dtype}; use dtype='float32'"
    if kind == "MultiHeadAttention" and layer.dropout:
        return f"{named}: it drops attention weights at random; use dropout=0"
    if kind == "ReLU" and (layer.max_value is not None or layer.negative_slope or layer.threshold):
        return f"{named}: of ReLU without options; use LeakyReLU, or the activation 'relu6'"
    activation = getattr(layer, "activation", None)
    if activation is None or _name(activation) in _PLAIN_ACTIVATIONS or _name(activation) in _rewritten():
        return None
    return f"{named}: the activation {_name(activation) or activation!r}; use relu, tanh, gelu or silu"


def _name(activation: Any) -> str | None:
    """Return the name of a Keras activation; None for a function of the user's."""
    own = not str(getattr(activation, "__module__", "")).startswith("keras.src.activations")
    return None if own else str(activation.__name__)


@contextmanager
def trainable_activations(model: Any) -> Iterator[None]:
    """Let every activation of `model` have a gradient that LiteRT can run, while a graph is traced."""
    with ExitStack() as stack:
        for layer in model._flatten_layers(include_self=False):
            function = _of_layer(layer)
            if function is not None:
                stack.enter_context(replaced(layer, call=function))
            found = _rewritten().get(_name(getattr(layer, "activation", None)) or "")
            if found is not None:
                stack.enter_context(replaced(layer, activation=found))
        yield


def _of_layer(layer: Any) -> Callable[[Any], Any] | None:
    kind = type(layer).__name__
    if kind == "ReLU":
        return _relu
    if kind == "LeakyReLU":
        return lambda x: _leaky(x, float(layer.negative_slope))
    if kind == "ELU":
        return lambda x: _elu(x, float(layer.alpha))
    return None


def _rewritten() -> dict[str, Callable[[Any], Any]]:
    """Return the activations whose gradient has to be written out, by their name in Keras."""
    return {
        "relu": _relu,
        "relu6": _relu6,
        "leaky_relu": lambda x: _leaky(x, 0.2),
        "elu": lambda x: _elu(x, 1.0),
        "gelu": _gelu,
        "softsign": _softsign,
        "hard_sigmoid": lambda x: _relu6(x + 3.0) / 6.0,
        "hard_silu": lambda x: x * (_relu6(x + 3.0) / 6.0),
    }


def _with_gradient(x: Any, y: Any, slope: Any) -> Any:
    """Return `y`, whose derivative by `x` is declared to be `slope`."""
    import tensorflow as tf

    return tf.custom_gradient(lambda _: (tf.stop_gradient(y), slope))(x)


def _relu(x: Any) -> Any:
    import tensorflow as tf

    return _with_gradient(x, tf.nn.relu(x), lambda dy: tf.where(x > 0, dy, tf.zeros_like(dy)))


def _relu6(x: Any) -> Any:
    import tensorflow as tf

    inside = tf.logical_and(x > 0, x < 6)
    return _with_gradient(x, tf.nn.relu6(x), lambda dy: tf.where(inside, dy, tf.zeros_like(dy)))


def _leaky(x: Any, slope: float) -> Any:
    import tensorflow as tf

    return _with_gradient(x, tf.where(x > 0, x, slope * x), lambda dy: tf.where(x > 0, dy, slope * dy))


def _elu(x: Any, alpha: float) -> Any:
    import tensorflow as tf

    y = tf.nn.elu(x)
    out = y if alpha == 1.0 else tf.where(y > 0, y, alpha * y)
    return _with_gradient(x, out, lambda dy: tf.where(x > 0, dy, dy * alpha * (y + 1.0)))


def _softsign(x: Any) -> Any:
    import tensorflow as tf

    scale = 1.0 + tf.abs(x)
    return _with_gradient(x, x / scale, lambda dy: dy / tf.square(scale))


_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _gelu(x: Any) -> Any:
    """Return x Phi(x); the error function by formula 7.1.26 of Abramowitz and Stegun, to 1.5e-7."""
    import tensorflow as tf

    size = tf.abs(x) / math.sqrt(2.0)
    t = 1.0 / (1.0 + 0.3275911 * size)
    polynomial = tf.zeros_like(t)
    for coefficient in reversed(_ERF):
        polynomial = t * (coefficient + polynomial)
    bell = tf.exp(-tf.square(size))
    tail = 0.5 * polynomial * bell
    below = tf.where(x > 0, 1.0 - tail, tail)
    density = bell / math.sqrt(2.0 * math.pi)
    return _with_gradient(x, x * below, lambda dy: dy * (below + x * density))
