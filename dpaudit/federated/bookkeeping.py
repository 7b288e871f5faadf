"""Clipped sums of per-example gradients at about the cost of an ordinary gradient: book-keeping.

One forward and one backward pass over the batch leave, at every layer, its inputs and the gradients of its outputs;
from these come the norm of every example's gradient and, with the clip factors as weights, the clipped sum
(Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", ICML 2023,
arXiv:2210.00038). No per-example gradient of the whole model is held.

This is only right if every parameter is used in one known way and no layer lets examples meet. So models are taken
apart before they are trusted: functional or sequential, every layer of a known built-in type (subclasses may do
anything and are not), every activation a Keras function, every layer called once, every parameter accounted for.
Anything else raises `Unsupported`, whose message is recorded, and the caller takes `tf.vectorized_map`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dpaudit.federated import layer_rules as rules
from dpaudit.federated import recurrent_rules as recurrent
from dpaudit.federated.layer_rules import Part, Unsupported

ROUNDING = 2.0**-18
"""Norms are raised by this factor, so that what float32 rounds away never lets a contribution exceed the clip norm."""

_Parts = Callable[[Any, Any, Any], list[Part]]
_LINEAR: dict[str, _Parts] = {
    "Dense": rules.dense_parts,
    "EinsumDense": rules.einsum_parts,
    "Conv1D": rules.conv_parts,
    "Conv2D": rules.conv_parts,
    "DepthwiseConv1D": rules.depthwise_parts,
    "DepthwiseConv2D": rules.depthwise_parts,
    "Embedding": rules.embedding_parts,
}
_SCALES: _Parts = rules.normalisation_parts
_NORMALISING = ("LayerNormalization", "GroupNormalization")
_PLAIN = frozenset({
    "InputLayer", "Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Activation", "ReLU", "LeakyReLU", "ELU",
    "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D",
    "UpSampling1D", "UpSampling2D", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Masking",
    "Rescaling", "Dropout", "Concatenate", "Softmax", "Sequential", "Functional", "MultiHeadAttention",
    "GroupedQueryAttention", "Attention", "AdditiveAttention", "Bidirectional", *recurrent.CELLS,
})  # fmt: skip
_ATTENTION = ("MultiHeadAttention", "GroupedQueryAttention", "Attention", "AdditiveAttention")
_ELEMENTWISE = frozenset({"Add", "Subtract", "Multiply", "NotEqual", "LogicalOr", "LogicalAnd"})
"""Operations of keras.ops that may stand between layers (a sum of two tensors, the masks of embeddings)."""


def check_layers(model: Any) -> None:
    """Raise Unsupported unless every layer is of a known kind, in a configuration that keeps examples apart."""
    if type(model).__name__ not in {"Functional", "Sequential"} or not _is_builtin(model):
        raise Unsupported(f"the model is a {type(model).__name__}, neither functional nor sequential")
    for layer in [model, *model._flatten_layers(include_self=False)]:
        _check_layer(layer)
        for operation in getattr(layer, "operations", []):
            if not hasattr(operation, "trainable_variables"):
                _check_operation(operation)


def _is_builtin(thing: Any) -> bool:
    return str(type(thing).__module__).startswith("keras.src.")


def _check_layer(layer: Any) -> None:
    kind, named = type(layer).__name__, f"layer {layer.name!r} ({type(layer).__name__})"
    known = kind in _PLAIN or kind in _LINEAR or kind in _NORMALISING or kind in recurrent.RECURRENT
    if not known or not _is_builtin(layer):
        raise Unsupported(f"{named} has no book-keeping rule")
    if layer.compute_dtype != "float32":
        raise Unsupported(f"{named} computes in {layer.compute_dtype}")
    activation = getattr(layer, "activation", None)
    if activation is not None and not str(getattr(activation, "__module__", "")).startswith("keras.src.activations"):
        raise Unsupported(f"{named} has an activation of its own")
    if kind in {"Softmax", "Concatenate"} and not _spares_the_batch(layer.axis):
        raise Unsupported(f"{named} works along axis {layer.axis}")
    if kind in _NORMALISING and layer.axis not in (-1, [-1]):
        raise Unsupported(f"{named} normalises along axis {layer.axis}")
    if kind == "LayerNormalization" and layer.rms_scaling:
        raise Unsupported(f"{named} has rms_scaling")
    if kind in recurrent.RECURRENT:
        recurrent.check_recurrent(layer)
    if kind in _ATTENTION and layer.dropout:
        raise Unsupported(f"{named} drops attention weights at random")
    if kind == "Dropout" and layer.noise_shape is not None:
        raise Unsupported(f"{named} has a noise_shape")


def _spares_the_batch(axis: Any) -> bool:
    """Say whether an axis, or all of several, is the last or counted from the front and not the first."""
    return all(each == -1 or each > 0 for each in (axis if isinstance(axis, (list, tuple)) else [axis]))


def _check_operation(operation: Any) -> None:
    """Raise Unsupported unless an operation between layers is elementwise and broadcasts nothing over the batch."""
    kind = type(operation).__name__
    if kind == "Any" and _is_builtin(operation) and operation.axis in (-1, [-1], (-1,)):
        return  # the mask of the layer Masking: an example's steps, each by its own features
    elementwise = kind in _ELEMENTWISE and _is_builtin(operation)
    for node in operation._inbound_nodes:
        tensors = [*node.input_tensors, *node.output_tensors]
        aligned = len({len(tensor.shape) for tensor in tensors}) == 1
        if not elementwise or not aligned or any(tensor.shape[0] is not None for tensor in tensors):
            raise Unsupported(f"the operation {operation.name!r} ({kind}) is not a layer")


class Trace:
    """What the tapped layers of one traced call left behind."""

    def __init__(self, model: Any, tape: Any) -> None:
        """Prepare to trace `model` under an active gradient tape."""
        self._model, self._tape = model, tape
        self._taps: list[tuple[Any, Any, Any]] = []

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Replace the calls of the layers with parameters while the block runs, and put them back."""
        with ExitStack() as stack:
            for layer in self._model._flatten_layers(include_self=False):
                kind = type(layer).__name__
                if kind in _LINEAR:
                    stack.enter_context(replaced(layer, call=self._linear(layer), activation=None))
                elif kind in recurrent.RECURRENT:
                    tapped = recurrent.recurrent_call(layer, self._tape.watch, self._record)
                    stack.enter_context(replaced(layer, call=tapped))
                elif kind in _NORMALISING:
                    stack.enter_context(replaced(layer, call=self._normalising(layer)))
                elif kind == "Dropout":
                    stack.enter_context(replaced(layer, call=_same_mask_for_all(layer)))
            yield

    def _record(self, layer: Any, inputs: Any, output: Any) -> Any:
        if any(known is layer for known, _, _ in self._taps):
            raise Unsupported(f"layer {layer.name!r} is used more than once")
        self._tape.watch(output)
        self._taps.append((layer, inputs, output))
        return output

    def _linear(self, layer: Any) -> Callable[..., Any]:
        original, activation = layer.call, getattr(layer, "activation", None)

        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            output = self._record(layer, inputs, original(inputs, *args, **kwargs))
            return output if activation is None else activation(output)

        return call

    def _normalising(self, layer: Any) -> Callable[..., Any]:
        original, absent = layer.call, dict[str, Any](gamma=None, beta=None)
        if type(layer).__name__ == "GroupNormalization":
            absent |= {"scale": False, "center": False}

        def call(inputs: Any) -> Any:
            gamma, beta = layer.gamma, layer.beta
            with replaced(layer, **absent):
                normal = original(inputs)
            output = normal if gamma is None else normal * gamma
            output = output if beta is None else output + beta
            return self._record(layer, normal, output)

        return call

    def parts(self, loss: Any, *, largest: float | None = None) -> list[Part]:
        """Return one part per trainable parameter, in the order of the model; `loss` is the sum over examples.

        With `largest`, an example with a larger magnitude in it, or NaN, has a gradient of zero: for runtimes in which
        the square of a large number is not infinite.
        """
        import tensorflow as tf

        outputs = [output for _, _, output in self._taps]
        gradients = self._tape.gradient(loss, outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        taps = [(layer, inputs, gradient) for (layer, inputs, _), gradient in zip(self._taps, gradients, strict=True)]
        if largest is not None:
            taps = _without_larger(taps, largest)
        found: dict[int, Part] = {}
        for layer, inputs, gradient in taps:
            kind = type(layer).__name__
            rule = recurrent.recurrent_parts if kind in recurrent.RECURRENT else _LINEAR.get(kind, _SCALES)
            found |= {id(part.variable): part for part in rule(layer, inputs, gradient)}
        missing = [variable.path for variable in self._model.trainable_variables if id(variable) not in found]
        if missing:
            raise Unsupported(f"parameters without a book-keeping rule: {', '.join(missing)}")
        return [found[id(variable)] for variable in self._model.trainable_variables]

    @property
    def floats(self) -> int:
        """How many numbers per example the forward and the backward pass hold at the tapped layers."""
        import tensorflow as tf

        tensors = tf.nest.flatten([(inputs, output) for _, inputs, output in self._taps])
        return 3 * sum(rules.numbers_in(tensor) for tensor in tensors)


def _without_larger(taps: list[tuple[Any, Any, Any]], largest: float) -> list[tuple[Any, Any, Any]]:
    """Return the taps with zeros for every example that has a larger magnitude, or NaN, in one of them."""
    import tensorflow as tf

    sizes = [tensor for layer, *pair in taps for tensor in pair[type(layer).__name__ == "Embedding" :]]
    strange = tf.add_n([tf.reduce_sum(1.0 - tf.cast(tf.abs(rules.flat(t)) <= largest, tf.float32), 1) for t in sizes])

    def kept(tensor: Any) -> Any:
        fit = tf.reshape(strange <= 0.0, [-1, *[1] * (tensor.shape.rank - 1)])
        return tf.where(fit, tensor, tf.zeros_like(tensor))

    return [(layer, kept(inputs), kept(gradient)) for layer, inputs, gradient in taps]


@contextmanager
def replaced(layer: Any, **values: Any) -> Iterator[None]:
    """Set attributes of one layer, past Keras's tracking, while the block runs."""
    before = {name: vars(layer)[name] for name in values if name in vars(layer)}
    vars(layer).update(values)
    try:
        yield
    finally:
        for name in values:
            vars(layer).pop(name, None)
        vars(layer).update(before)


def _same_mask_for_all(layer: Any) -> Callable[..., Any]:
    """Return a call of Dropout that draws one mask for all examples, as the path of one example at a time does."""
    original = layer.call

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with replaced(layer, noise_shape=(1, *inputs.shape[1:])):
            return original(inputs, *args, **kwargs)

    return call


def clip_factors(norms: Any, clip_norm: Any) -> Any:
    """Return min(1, clip_norm / norm) for each norm; 1 for a zero."""
    import tensorflow as tf

    return clip_norm / tf.maximum(norms, clip_norm)


def clipped_sum(parts: list[Part], *, clip_norm: Any, mask: Any = 1.0) -> tuple[Any, Any]:
    """Return the clipped sum (parameters,) and the norms (batch,) of the per-example gradients, in float32.

    `mask` (batch,) is 0 for padding, whose share in the sum is then exactly zero, and 1 for examples.
    An example whose norm is not finite has no place here: the caller must look at the norms, and leave the sum
    unused if one of them is NaN or infinite.
    """
    import tensorflow as tf

    norms = tf.sqrt(tf.add_n([part.squares() for part in parts])) * (1.0 + ROUNDING)
    factors = mask * clip_factors(norms, clip_norm)
    return tf.concat([tf.reshape(part.weighted(factors), [-1]) for part in parts], axis=0), norms
