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
_STATE_BYTES = 2**20
"""Clients are trained in groups whose weights and gradients fit in a processor's cache."""
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


_Parameters = list[tuple[Floats, Floats | None]]


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
            parameters = self._views(weights)
            passes = self._passes(parameters, self._masked(x, mask), self._labels(y), None)
            squares = [self._squares(link, *found) for link, found in zip(self.links, passes, strict=True)]
            norms: Floats = np.sqrt(sum(squares, start=_ZERO)) * self._raise
            factors: Floats = np.asarray(clip_norm / np.maximum(norms, np.float32(clip_norm)), np.float32)
            if mask is not None:
                np.multiply(factors, mask, out=factors)
                norms[mask == 0] = _ZERO
            sums = np.empty((x.shape[0], self.parameters), np.float32)
            scaled = [(inputs, d * factors[..., None]) for inputs, d in passes]
            self._products(scaled, self._views(sums))
        return sums, norms

    def gradients(self, weights: Floats, x: Floats, y: Ints, shares: Floats) -> Floats:
        """Return each stack's gradient of the sum of losses times `shares` (stacks, batch): (stacks, parameters)."""
        found = np.empty((x.shape[0], self.parameters), np.float32)
        with np.errstate(all="ignore"):
            self._descend(self._views(weights), self._masked(x, shares), self._labels(y), shares, self._views(found))
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

        Raises: DataError for a label that is no class.
        """
        labels = self._labels(y[index])
        updates = np.empty((len(index), self.parameters), np.float32)
        size = max(8, _STATE_BYTES // (8 * self.parameters))
        for first in range(0, len(index), size):
            group = slice(first, first + size)
            self._train(updates[group], start, x, index[group], labels[group], shares[group])
        return updates

    def _train(self, local: Floats, start: Floats, x: Floats, index: Ints, labels: Ints, shares: Floats) -> None:
        """Turn `local` (clients, parameters) into the updates of a group of clients."""
        local[:] = start
        steps = np.empty_like(local)
        parameters, targets = self._views(local), self._views(steps)
        padded = bool((shares == 0).any())
        with np.errstate(all="ignore"):
            for step in range(index.shape[1]):
                share = shares[:, step]
                data = self._masked(x.take(index[:, step], axis=0), share if padded else None)
                self._descend(parameters, data, labels[:, step], share, targets)
                np.subtract(local, steps, out=local)
            np.subtract(local, start, out=local)

    def _views(self, weights: Floats) -> _Parameters:
        """Return kernels (stacks, inputs, units) and biases (stacks, 1, units) as views of the rows of `weights`."""
        found: _Parameters = []
        first = 0
        for link in self.links:
            middle, end = first + link.inputs * link.units, first + link.parameters
            kernel = weights[:, first:middle].reshape(-1, link.inputs, link.units)
            found.append((kernel, weights[:, None, middle:end] if link.bias else None))
            first = end
        return found

    def _masked(self, x: Floats, mask: Floats | None) -> Floats:
        """Return the input of the first Dense layer (stacks, batch, inputs), with zeros where the mask is zero.

        Padding points at some example or other: if that one holds a NaN, multiplying by zero would spread it.
        """
        flat = x.reshape(*x.shape[:2], self.links[0].inputs)
        if self._scale != 1 or self._offset != 0:
            flat = flat * self._scale + self._offset
        return flat if mask is None else np.where(mask[..., None] == 0, _ZERO, flat)

    def _labels(self, y: Ints) -> Ints:
        classes = self.links[-1].units
        if y.size and (int(y.min()) < 0 or int(y.max()) >= classes):
            raise DataError(f"labels must lie in 0..{classes - 1}; got {int(y.min())} to {int(y.max())}.")
        return y

    def _passes(
        self, parameters: _Parameters, x: Floats, labels: Ints, shares: Floats | None
    ) -> list[tuple[Floats, Floats]]:
        """Return per layer its input and the gradient of its output before the activation, of losses times shares.

        Logits are laid out with the classes first, where reductions over them are fast.
        """
        *hidden, (kernel, bias) = parameters
        inputs = [x]
        for link, (weight, shift) in zip(self.links[:-1], hidden, strict=True):
            z = np.matmul(inputs[-1], weight)
            if shift is not None:
                np.add(z, shift, out=z)
            _ACTIVATIONS[link.activation][0](z)
            inputs.append(z)
        by_class = np.empty((self.links[-1].units, *x.shape[:2]), np.float32)
        d = by_class.transpose(1, 2, 0)
        np.matmul(inputs[-1], kernel, out=d)
        if bias is not None:
            np.add(by_class, bias.transpose(2, 0, 1), out=by_class)
        _softmax_minus_labels(by_class, labels, shares)
        found = [(inputs[-1], d)]
        for position in range(len(hidden), 0, -1):
            d = np.matmul(d, parameters[position][0].swapaxes(1, 2))
            _ACTIVATIONS[self.links[position - 1].activation][1](d, inputs[position])
            found.append((inputs[position - 1], d))
        return found[::-1]

    def _descend(self, parameters: _Parameters, x: Floats, y: Ints, shares: Floats, targets: _Parameters) -> None:
        self._products(self._passes(parameters, x, y, shares), targets)

    def _products(self, passes: list[tuple[Floats, Floats]], targets: _Parameters) -> None:
        """Write the sums over examples of the gradients of all kernels and biases into `targets`."""
        ones = np.ones((1, passes[0][0].shape[1]), np.float32)
        for (inputs, d), (kernel, bias) in zip(passes, targets, strict=True):
            np.matmul(inputs.swapaxes(1, 2), d, out=kernel)
            if bias is not None:
                np.matmul(ones, d, out=bias)

    @staticmethod
    def _squares(link: Link, inputs: Floats, d: Floats) -> Floats:
        """Return the squared norms of the per-example gradients (stacks, batch): ||d||^2 (||inputs||^2 + bias)."""
        one, hidden = np.float32(TINY * link.inputs + link.bias), np.float32(TINY * link.units)
        squares: Floats = (_square_sums(inputs) + one) * (_square_sums(d) + hidden)
        return squares


def _square_sums(rows: Floats) -> Floats:
    return np.asarray(np.einsum("sbi,sbi->sb", rows, rows))


def _softmax_minus_labels(by_class: Floats, labels: Ints, shares: Floats | None) -> None:
    """Turn logits (classes, stacks, batch) into the gradient of cross-entropy times `shares`, in place."""
    flat, chosen = by_class.reshape(len(by_class), -1), labels.ravel()
    np.subtract(flat, flat.max(axis=0), out=flat)
    np.exp(flat, out=flat)
    total, share = flat.sum(axis=0), _ONE if shares is None else shares.ravel()
    np.multiply(flat, share / total, out=flat)
    flat[chosen, np.arange(chosen.size)] -= share
