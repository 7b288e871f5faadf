"""The arrays of a chain of Dense layers and the operations on them: for `dpaudit.federated.dense_chain`."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated.dense_links import Link
from dpaudit.federated.layer_rules import TINY

Floats = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]
_HELD = 2**20
_ONE, _ZERO = np.float32(1.0), np.float32(0.0)


def _linear(z: Floats) -> None:
    """Change nothing."""
    del z


def _through_linear(d: Floats, out: Floats) -> None:
    """Change nothing."""
    del d, out


def _relu(z: Floats) -> None:
    np.maximum(z, _ZERO, out=z)


def _tanh(z: Floats) -> None:
    np.tanh(z, out=z)


def _sigmoid(z: Floats) -> None:
    np.negative(z, out=z)
    np.exp(z, out=z)
    np.divide(_ONE, z + _ONE, out=z)


def _elu(z: Floats) -> None:
    np.copyto(z, np.expm1(np.minimum(z, _ZERO)), where=z < 0)


def _through_relu(d: Floats, out: Floats) -> None:
    np.multiply(d, out > 0, out=d)


def _through_tanh(d: Floats, out: Floats) -> None:
    np.multiply(d, _ONE - out * out, out=d)


def _through_sigmoid(d: Floats, out: Floats) -> None:
    np.multiply(d, out * (_ONE - out), out=d)


def _through_elu(d: Floats, out: Floats) -> None:
    np.multiply(d, np.minimum(out, _ZERO) + _ONE, out=d)


ACTIVATIONS: dict[str, tuple[Callable[[Floats], None], Callable[[Floats, Floats], None]]] = {
    "linear": (_linear, _through_linear),
    "relu": (_relu, _through_relu),
    "tanh": (_tanh, _through_tanh),
    "sigmoid": (_sigmoid, _through_sigmoid),
    "elu": (_elu, _through_elu),
}
"""In place: the activation, and the gradient of its input from that of its output and the output itself."""


class _Space(threading.local):
    """Memory that a thread uses again in every call, so that its pages are there and in the cache."""

    def __init__(self) -> None:
        self._held: dict[str, Floats] = {}

    def array(self, name: str, *shape: int) -> Floats:
        """Return an array of undefined content, valid until the name is asked for again; large ones are not held."""
        size = math.prod(shape)
        if size > _HELD:
            return np.empty(shape, np.float32)
        flat = self._held.get(name)
        if flat is None or flat.size < size:
            flat = self._held[name] = np.empty(size + size // 4, np.float32)
        return flat[:size].reshape(shape)


SPACE = _Space()


def views(links: tuple[Link, ...], weights: Floats) -> list[tuple[Floats, Floats | None]]:
    """Return kernels (stacks, inputs, units) and biases (stacks, 1, units) as views of the rows of `weights`."""
    found: list[tuple[Floats, Floats | None]] = []
    first = 0
    for link in links:
        middle, end = first + link.inputs * link.units, first + link.parameters
        kernel = weights[:, first:middle].reshape(-1, link.inputs, link.units)
        found.append((kernel, weights[:, None, middle:end] if link.bias else None))
        first = end
    return found


class Batch:
    """The arrays of one batch of every stack, laid out once and used at every step.

    At this size looking arrays up costs as much as filling them. Arrays are (stacks, pieces, rows, numbers), the
    batch cut into pieces and filled up; logits have the classes first, where reductions over classes are fast.
    """

    def __init__(self, links: tuple[Link, ...], weights: Floats, batch: int, rows: int) -> None:
        """Lay out arrays for `weights` (stacks, parameters), which are looked at again at every run."""
        pieces = max(1, -(-batch // rows))
        lead = (len(weights), pieces, -(-batch // pieces))
        self.size, self._links = lead[1] * lead[2], links
        *inner, classes = [link.units for link in links]
        self.data = SPACE.array("data", *lead, links[0].inputs)
        hidden = [SPACE.array(f"hidden {at}", *lead, size) for at, size in enumerate(inner)]
        logits = SPACE.array("logits", classes, *lead)
        self._inputs = [self.data, *hidden]
        self._turned = [inputs.swapaxes(2, 3) for inputs in self._inputs]
        self._flat, self._line = logits.reshape(classes, -1), logits.reshape(-1)
        self._d = [SPACE.array(f"back {at}", *lead, size) for at, size in enumerate(inner)]
        self._d.append(logits.transpose(1, 2, 3, 0))
        layers = views(links, weights)
        self._kernels = [kernel[:, None] for kernel, _ in layers]
        self._back = [kernel.swapaxes(2, 3) for kernel in self._kernels]
        biases = [None if bias is None else bias[:, None] for _, bias in layers]
        last = None if biases[-1] is None else biases[-1].transpose(3, 0, 1, 2)
        self._shifts = [*zip(hidden, biases[:-1], strict=True), (logits, last)]  # each in the order of its memory
        self._targets = [*hidden, self._d[-1]]
        self._acts = [ACTIVATIONS[link.activation] for link in links]
        self._ones = np.ones((1, lead[2]), np.float32)

    def padded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (..., batch) with zeros up to the size of the pieces together."""
        missing = self.size - values.shape[-1]
        return values if missing == 0 else np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])

    def run(self, chosen: Ints, share: Floats | np.float32) -> None:
        """Fill, per layer, the gradient of its output before the activation, of losses times `share`."""
        for inputs, kernel, out, (raised, bias), (apply, _) in zip(
            self._inputs, self._kernels, self._targets, self._shifts, self._acts, strict=True
        ):
            np.matmul(inputs, kernel, out=out)
            if bias is not None:
                np.add(raised, bias, out=raised)
            apply(out)
        flat = self._flat
        np.subtract(flat, flat.max(axis=0), out=flat)
        np.exp(flat, out=flat)
        np.multiply(flat, share / flat.sum(axis=0), out=flat)
        self._line[chosen] -= share
        for at in range(len(self._d) - 1, 0, -1):
            np.matmul(self._d[at], self._back[at], out=self._d[at - 1])
            self._acts[at - 1][1](self._d[at - 1], self._inputs[at])

    def squares(self) -> Floats:
        """Return the squared norms of the per-example gradients (stacks, pieces, rows): ||d||^2 (||inputs||^2 + 1)."""
        total = np.zeros(self.data.shape[:-1], np.float32)
        for link, inputs, d in zip(self._links, self._inputs, self._d, strict=True):
            one, hidden = np.float32(TINY * link.inputs + link.bias), np.float32(TINY * link.units)
            total += (_square_sums(inputs) + one) * (_square_sums(d) + hidden)
        return total

    def scale(self, factors: Floats) -> None:
        """Multiply what every example adds to `products` by its factor (stacks, batch)."""
        by_row = factors.reshape(*self.data.shape[:-1], 1)
        for d in self._d:
            np.multiply(d, by_row, out=d)

    def products(self, targets: list[tuple[Floats, Floats | None]]) -> None:
        """Write the sums over examples of the gradients of all kernels and biases into `targets`."""
        for turned, d, (kernel, bias) in zip(self._turned, self._d, targets, strict=True):
            _summed_product(turned, d, kernel)
            if bias is not None:
                _summed_product(self._ones, d, bias)


def _square_sums(rows: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", rows, rows))


def _summed_product(left: Floats, right: Floats, out: Floats) -> None:
    """Write the sum over pieces (axis 1) of the products of two stacks of matrices."""
    if right.shape[1] == 1:
        np.matmul(left, right, out=out[:, None])
    else:
        np.sum(np.matmul(left, right), axis=1, out=out)
