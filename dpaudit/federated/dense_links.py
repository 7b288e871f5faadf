"""Which Keras models are plain chains of Dense layers, and what the chain is: for `dpaudit.federated.dense_chain`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dpaudit.federated.bookkeeping import check_layers
from dpaudit.federated.layer_rules import Unsupported

_FRONT = ("InputLayer", "Flatten", "Reshape", "Identity", "Rescaling")
_RULES = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One Dense layer: a kernel (inputs, units), then perhaps a bias (units,), in the flat vector."""

    inputs: int
    units: int
    bias: bool
    activation: str

    @property
    def parameters(self) -> int:
        """How many numbers of the flat vector belong to it."""
        return (self.inputs + self.bias) * self.units


def links_of(model: Any, *, activations: frozenset[str]) -> tuple[tuple[Link, ...], float, float]:
    """Return the Dense layers of a built model, and by what its input is multiplied and then raised.

    A chain is Dense layers one after the other on plain vectors, each used once, the last one without an activation,
    behind layers that only reshape or rescale the input. Raises `Unsupported`, which says why, for anything else: what
    `bookkeeping.check_layers` refuses, layers in between (dropout), activations not in `activations`, Dense layers
    that are frozen, adapted, quantized or applied at several positions, regularizers and constraints.
    """
    check_layers(model)
    links: list[Link] = []
    scale, offset, own = 1.0, 0.0, []
    for layer in _in_a_row(model):
        kind = type(layer).__name__
        own += layer.variables
        if kind == "Dense":
            links.append(_link(layer, activations))
        elif links or kind not in _FRONT:
            raise Unsupported(f"layer {layer.name!r} ({kind}) stands in a chain of Dense layers")
        elif kind == "Rescaling":
            scale, offset = _rescaled(layer, scale, offset)
    if [id(variable) for variable in own] != [id(variable) for variable in model.trainable_variables]:
        raise Unsupported("some variables are not the trainable kernels and biases of Dense layers")
    fits = all(before.units == after.inputs for before, after in itertools.pairwise(links))
    if not links or not fits or links[-1].activation != "linear":
        raise Unsupported("the model does not end in a Dense layer that gives logits")
    return tuple(links), scale, offset


def _in_a_row(model: Any) -> Iterator[Any]:
    """Yield the layers of a functional or sequential model in order; raise Unsupported unless each feeds the next."""
    graph = getattr(model, "_functional", None) or model
    if "call" in vars(model):
        raise Unsupported("the model has a call of its own")
    before = None
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        nodes = graph._nodes_by_depth[depth]
        inputs, outputs = nodes[0].input_tensors, nodes[0].output_tensors
        follows = (
            len(nodes) == 1
            and len(outputs) == 1
            and [id(t) for t in inputs] == ([id(before)] if before is not None else [])
        )
        if not follows or len(nodes[0].operation._inbound_nodes) != 1:
            raise Unsupported("the layers are not one after the other, each used once")
        before = outputs[0]
        yield nodes[0].operation
    if [id(t) for t in graph.outputs] != [id(before)]:
        raise Unsupported("the output is not that of the last layer")


def _link(layer: Any, activations: frozenset[str]) -> Link:
    named = f"layer {layer.name!r}"
    name = getattr(layer.activation, "__name__", "") if layer.activation is not None else "linear"
    if name not in activations:
        raise Unsupported(f"{named}: the activation {name!r} is not written out by hand")
    if len(layer.input.shape) != 2:
        raise Unsupported(f"{named} is applied at several positions")
    if layer.lora_enabled or layer.quantization_mode is not None or "call" in vars(layer):
        raise Unsupported(f"{named} is adapted, quantized or has a call of its own")
    ruled = [rule for rule in _RULES if getattr(layer, rule, None) is not None]
    if ruled:
        raise Unsupported(f"{named} has a {ruled[0]}")
    inputs, units = (int(size) for size in layer.kernel.shape)
    return Link(inputs=inputs, units=units, bias=layer.bias is not None, activation=name)


def _rescaled(layer: Any, scale: float, offset: float) -> tuple[float, float]:
    if not all(isinstance(value, int | float) for value in (layer.scale, layer.offset)):
        raise Unsupported(f"layer {layer.name!r} rescales by more than two numbers")
    return scale * layer.scale, offset * layer.scale + layer.offset
