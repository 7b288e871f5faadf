"""Plain chains of Dense layers by hand, on the CPU: gradients, clipped sums and local SGD of many clients in NumPy.

At the size of federated models TensorFlow spends most of its time on starting operations: a private step of a small
perceptron takes 60 of them, 2 to 5 microseconds each, and a call of the graph 100 more. A chain of Dense layers needs
no tape: forward, backward, the norms of all per-example gradients and their clipped sum are a dozen batched matrix
products (book-keeping, Bu et al., arXiv:2210.00038; norms of rank-one gradients, Goodfellow, arXiv:1510.01799).

The loss is softmax cross-entropy of logits, as in `dpaudit.federated.clients`. Everything is float32; weights are
flat vectors in the order of `trainable_variables`, one row per *stack* (a client, a model): all functions take stacks.

    chain = DenseChain.of(model)
    sums, norms = chain.clipped_sums(weights, x, y, mask=mask, clip_norm=1.0)
    updates = chain.local_updates(start, all_x, all_y, index=index, shares=shares)
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.federated.bookkeeping import ROUNDING
from dpaudit.federated.dense_links import Link, links_of
from dpaudit.federated.layer_rules import TINY

Floats = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]
_STATE_BYTES = 2**21
"""Clients are trained in groups whose weights and gradients fit in a processor's cache."""
_HELD = 2**20
_EPS = 2.0**-24
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


_ACTIVATIONS: dict[str, tuple[Callable[[Floats], None], Callable[[Floats, Floats], None]]] = {
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


_SPACE = _Space()


class DenseChain:
    """The passes of one chain; holds sizes and no weights, so that one object serves any number of stacks."""

    def __init__(self, links: tuple[Link, ...], *, scale: float = 1.0, offset: float = 0.0) -> None:
        """Describe a chain whose input is multiplied by `scale`, then raised by `offset`."""
        self.links, self._scale, self._offset = links, np.float32(scale), np.float32(offset)
        self.parameters = sum(link.parameters for link in links)
        longest = max(link.inputs + link.units for link in links)
        self._raise = np.float32(1.0 + max(ROUNDING, (longest + 8) * _EPS / 2))

    @classmethod
    def of(cls, model: Any) -> "DenseChain":
        """Return the chain of a built Keras model; raises `Unsupported`, which says why, where it is none.

        See `dpaudit.federated.dense_links` for what is recognised; the activations are those known here.
        """
        links, scale, offset = links_of(model, activations=frozenset(_ACTIVATIONS))
        return cls(links, scale=scale, offset=offset)

    @property
    def scale(self) -> float:
        """What the input is multiplied by."""
        return float(self._scale)

    @property
    def offset(self) -> float:
        """By what the input is then raised."""
        return float(self._offset)

    @property
    def floats(self) -> int:
        """About how many numbers per example are held at a time."""
        return 3 * self.links[0].inputs + 4 * sum(link.units for link in self.links)

    def clipped_sums(
        self, weights: Floats, x: Floats, y: Ints, *, clip_norm: float, mask: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Return each stack's sum of clipped per-example gradients, (stacks, parameters), and norms, (stacks, batch).

        A norm is never below the true one: it is raised by `bookkeeping.ROUNDING`, or by what rounding can hide in
        sums as long as the chain's widest layer, in whatever order they are added, if that is more. Where a norm is
        NaN or infinite (also: beyond about 1e19, where its square is) the sum of its stack is of no use; the caller
        must look. An empty batch gives zeros.

        Args:
            weights: (stacks, parameters).
            x: (stacks, batch, ...) inputs of the model.
            y: (stacks, batch) labels.
            clip_norm: the largest norm of one example's contribution.
            mask: (stacks, batch), 1 for examples; 0 for padding, which adds exactly nothing whatever it holds, and
                whose norm is 0. None: no padding.

        Raises: DataError for a label that is no class.
        """
        with np.errstate(all="ignore"):
            batch = _Batch(self.links, weights, x.shape[1], data=self._inputs(x, mask))
            batch.run(self._chosen(y[None])[0], _ONE)
            norms: Floats = np.sqrt(batch.squares()) * self._raise
            factors: Floats = np.asarray(clip_norm / np.maximum(norms, np.float32(clip_norm)), np.float32)
            if mask is not None:
                np.multiply(factors, mask, out=factors)
                norms[mask == 0] = _ZERO
            sums = np.empty((x.shape[0], self.parameters), np.float32)
            batch.scale(factors)
            batch.products(_views(self.links, sums))
        return sums, norms

    def gradients(self, weights: Floats, x: Floats, y: Ints, shares: Floats) -> Floats:
        """Return each stack's gradient of the sum of losses times `shares` (stacks, batch): (stacks, parameters)."""
        found = np.empty((x.shape[0], self.parameters), np.float32)
        with np.errstate(all="ignore"):
            batch = _Batch(self.links, weights, x.shape[1], data=self._inputs(x, shares))
            batch.run(self._chosen(y[None])[0], shares.ravel())
            batch.products(_views(self.links, found))
        return found

    def local_updates(self, start: Floats, x: Floats, y: Ints, *, index: Ints, shares: Floats) -> Floats:
        """Return local minus global weights, (clients, parameters), after local SGD of every client from `start`.

        Args:
            start: (parameters,) the global weights.
            x: inputs of all examples (N, ...).
            y: labels of all examples (N,).
            index: (clients, steps, batch) positions of examples, in the order in which they are used.
            shares: the same shape; what an example's loss is multiplied by: the learning rate over the number of
                examples of its batch, 0 for padding.

        Raises: DataError for a label that is no class, or a position below 0.
        """
        if index.size and int(index.min()) < 0:
            raise DataError(f"positions of examples must be at least 0; got {int(index.min())}.")
        flat = x.reshape(len(x), self.links[0].inputs)
        updates = np.empty((len(index), self.parameters), np.float32)
        groups = -(-len(index) // max(8, _STATE_BYTES // (8 * self.parameters)))
        with np.errstate(all="ignore"):
            for number in range(groups):
                group = slice(number * len(index) // groups, (number + 1) * len(index) // groups)
                positions = np.ascontiguousarray(index[group].transpose(1, 0, 2), np.intp)
                weights = np.ascontiguousarray(shares[group].transpose(1, 0, 2))
                self._train(updates[group], start, flat, positions, self._chosen(y.take(positions)), weights)
        return updates

    def _train(self, updates: Floats, start: Floats, x: Floats, index: Ints, chosen: Ints, shares: Floats) -> None:
        """Write the updates (clients, parameters) of a group; index and shares are (steps, clients, batch)."""
        local, steps = (_SPACE.array(name, *updates.shape) for name in ("local", "steps"))
        local[:] = start
        batch, targets = _Batch(self.links, local, index.shape[2]), _views(self.links, steps)
        padded = bool((shares == 0).any())
        for step in range(len(index)):
            x.take(index[step], axis=0, out=batch.data, mode="clip")  # "raise" would copy; y.take has looked
            self._prepare(batch.data, shares[step] if padded else None)
            batch.run(chosen[step], shares[step].reshape(-1))
            batch.products(targets)
            np.subtract(local, steps, out=local)
        np.subtract(local, start, out=updates)

    def _inputs(self, x: Floats, mask: Floats | None) -> Floats:
        """Return the input of the first Dense layer (stacks, batch, inputs); the caller's array is left alone."""
        flat = x.reshape(*x.shape[:2], self.links[0].inputs)
        if mask is None and self._scale == 1 and self._offset == 0:
            return flat
        return self._prepare(flat.copy(), mask)

    def _prepare(self, data: Floats, mask: Floats | None) -> Floats:
        """Rescale, and put zeros where the mask is zero, in place.

        Padding points at some example or other: if that one holds a NaN, multiplying by zero would spread it.
        """
        if self._scale != 1 or self._offset != 0:
            np.multiply(data, self._scale, out=data)
            np.add(data, self._offset, out=data)
        if mask is not None:
            data[mask == 0] = _ZERO
        return data

    def _chosen(self, labels: Ints) -> Ints:
        """Return where (steps, stacks x batch) the labels (steps, stacks, batch) stand in logits, classes first."""
        classes = self.links[-1].units
        if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= classes):
            raise DataError(f"labels must lie in 0..{classes - 1}; got {int(labels.min())} to {int(labels.max())}.")
        count = labels.shape[1] * labels.shape[2]
        chosen: Ints = labels.reshape(len(labels), count).astype(np.intp) * count + np.arange(count)
        return chosen


def _views(links: tuple[Link, ...], weights: Floats) -> list[tuple[Floats, Floats | None]]:
    """Return kernels (stacks, inputs, units) and biases (stacks, 1, units) as views of the rows of `weights`."""
    found: list[tuple[Floats, Floats | None]] = []
    first = 0
    for link in links:
        middle, end = first + link.inputs * link.units, first + link.parameters
        kernel = weights[:, first:middle].reshape(-1, link.inputs, link.units)
        found.append((kernel, weights[:, None, middle:end] if link.bias else None))
        first = end
    return found


class _Batch:
    """The arrays of one batch of every stack, laid out once and used at every step.

    At this size looking arrays up costs as much as filling them. Logits have the classes first, where reductions over
    classes are fast.
    """

    def __init__(self, links: tuple[Link, ...], weights: Floats, batch: int, *, data: Floats | None = None) -> None:
        """Lay out arrays for `weights` (stacks, parameters), which are looked at again at every run."""
        stacks, units = len(weights), [link.units for link in links]
        self.data = _SPACE.array("data", stacks, batch, links[0].inputs) if data is None else data
        hidden = [_SPACE.array(f"hidden {at}", stacks, batch, size) for at, size in enumerate(units[:-1])]
        logits = _SPACE.array("logits", units[-1], stacks, batch)
        self._links, self._inputs = links, [self.data, *hidden]
        self._turned = [inputs.swapaxes(1, 2) for inputs in self._inputs]
        self._flat, self._line = logits.reshape(units[-1], -1), logits.reshape(-1)
        self._d = [_SPACE.array(f"back {at}", stacks, batch, size) for at, size in enumerate(units[:-1])]
        self._d.append(logits.transpose(1, 2, 0))
        self._kernels, biases = zip(*_views(links, weights), strict=True)
        self._back = [kernel.swapaxes(1, 2) for kernel in self._kernels]
        last = None if biases[-1] is None else biases[-1].transpose(2, 0, 1)
        self._shifts = [*zip(hidden, biases[:-1], strict=True), (logits, last)]  # each in the order of its memory
        self._targets = [*hidden, self._d[-1]]
        self._acts = [_ACTIVATIONS[link.activation] for link in links]
        self._ones = np.ones((1, batch), np.float32)

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
        """Return the squared norms of the per-example gradients (stacks, batch): ||d||^2 (||inputs||^2 + 1)."""
        total = np.zeros(self.data.shape[:2], np.float32)
        for link, inputs, d in zip(self._links, self._inputs, self._d, strict=True):
            one, hidden = np.float32(TINY * link.inputs + link.bias), np.float32(TINY * link.units)
            total += (np.einsum("sbi,sbi->sb", inputs, inputs) + one) * (np.einsum("sbi,sbi->sb", d, d) + hidden)
        return total

    def scale(self, factors: Floats) -> None:
        """Multiply what every example adds to `products` by its factor (stacks, batch)."""
        for d in self._d:
            np.multiply(d, factors[..., None], out=d)

    def products(self, targets: list[tuple[Floats, Floats | None]]) -> None:
        """Write the sums over examples of the gradients of all kernels and biases into `targets`."""
        for turned, d, (kernel, bias) in zip(self._turned, self._d, targets, strict=True):
            np.matmul(turned, d, out=kernel)
            if bias is not None:
                np.matmul(self._ones, d, out=bias)
