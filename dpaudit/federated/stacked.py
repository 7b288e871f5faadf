"""Many clients in one batch: a network whose only parameters are in Dense layers, with weights that differ by client.

The examples of all clients pass through the model as one batch; a Dense layer takes the batch apart by client and
multiplies each part by that client's kernel, in one batched product. `tf.vectorized_map` over clients computes the
same with many more small operations. Only for models that `bookkeeping.check_layers` knows: no layer may let the
examples of a batch, which here are those of different clients, meet.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from dpaudit.federated.bookkeeping import check_layers, replaced
from dpaudit.federated.layer_rules import Unsupported

_OTHER = ("MultiHeadAttention", "Dropout")


def check_stackable(model: Any) -> None:
    """Raise Unsupported unless every trainable parameter is the kernel or the bias of a plain Dense layer."""
    check_layers(model)
    found: set[int] = set()
    for layer in model._flatten_layers(include_self=False):
        if type(layer).__name__ in _OTHER:
            raise Unsupported(f"layer {layer.name!r} ({type(layer).__name__}) is not stacked by client")
        if type(layer).__name__ == "Dense":
            found |= {id(layer.kernel), id(layer.bias)}
    others = [variable.path for variable in model.trainable_variables if id(variable) not in found]
    if others:
        raise Unsupported(f"parameters outside Dense layers: {', '.join(others)}")


def not_stackable(model: Any) -> str | None:
    """Return why the Dense layers of a model cannot be stacked; None where they can."""
    try:
        check_stackable(model)
    except Unsupported as reason:
        return str(reason)
    return None


@contextmanager
def stacked(model: Any, weights: Sequence[Any]) -> Iterator[None]:
    """Let the Dense layers use `weights`, one (clients, *shape) per trainable variable, while the block runs.

    The model must be called with (clients x batch, ...) examples, those of a client together.
    """
    of_variable = {id(v): weight for v, weight in zip(model.trainable_variables, weights, strict=True)}
    with ExitStack() as stack:
        for layer in model._flatten_layers(include_self=False):
            if type(layer).__name__ == "Dense" and id(layer.kernel) in of_variable:
                bias = None if layer.bias is None else of_variable[id(layer.bias)]
                stack.enter_context(replaced(layer, call=_dense(layer, of_variable[id(layer.kernel)], bias)))
        yield


def _dense(layer: Any, kernel: Any, bias: Any) -> Callable[..., Any]:
    import tensorflow as tf

    def call(inputs: Any, training: bool | None = None) -> Any:
        del training
        by_client = tf.reshape(inputs, [tf.shape(kernel)[0], -1, kernel.shape[1]])
        output = tf.matmul(by_client, kernel)
        output = output if bias is None else output + bias[:, None]
        middle = tf.shape(inputs)[1:-1] if None in inputs.shape[1:-1] else inputs.shape[1:-1]
        output = tf.reshape(output, tf.concat([[-1], middle, [kernel.shape[2]]], axis=0))
        output.set_shape([None, *inputs.shape[1:-1], kernel.shape[2]])
        return output if layer.activation is None else layer.activation(output)

    return call
