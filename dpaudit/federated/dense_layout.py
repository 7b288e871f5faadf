"""The arrays of a group of clients in a chain of Dense layers, and the passes over them: for `dense_local`."""

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated.aligned import aligned
from dpaudit.federated.dense_batch import ACTIVATIONS
from dpaudit.federated.dense_links import Link
from dpaudit.federated.layer_rules import TINY

Floats = NDArray[np.float32]
Indices = NDArray[np.integer[Any]]
_HELD = 2**21
"""Numbers of a layout that is held for the next call; larger ones are laid out anew."""
_LAYOUTS, _LINE = 256, 16
_ONE = np.float32(1.0)


class Weights:
    """The weights of a group of clients and the sums of their gradients, (clients, parameters), with views by layer."""

    def __init__(self, links: tuple[Link, ...], memory: "_Memory", clients: int) -> None:
        """Take the arrays of so many clients from `memory`."""
        parameters = sum(link.parameters for link in links)
        self.weights, self.sums = memory.take(clients, parameters), memory.take(clients, parameters)
        self.kernels: list[Floats] = []
        self.kernels_back: list[Floats] = []
        self.gradients: list[Floats] = []
        first = 0
        for link in links:
            shape, end = (clients, 1, link.inputs + link.bias, link.units), first + link.parameters
            kernel = self.weights[:, first:end].reshape(shape)
            self.kernels.append(kernel)
            self.kernels_back.append(kernel[:, :, : link.inputs].swapaxes(2, 3))
            self.gradients.append(self.sums[:, first:end].reshape(shape))
            first = end


class Layout:
    """The arrays of one batch of every client of a group, in memory that other layouts of the group use as well.

    Examples are (clients, pieces, rows), the batch cut into pieces and filled up. Inputs have the examples first, as
    they are gathered; hidden layers and logits have the units first, so that what is done to each number, and sums over
    units, run along all examples. A bias is a row of its kernel, and the unit that it multiplies is 1.
    """

    def __init__(
        self, links: tuple[Link, ...], weights: Weights, memory: "_Memory", lead: tuple[int, int, int]
    ) -> None:
        """Take the arrays of `lead`, clients, pieces and rows, from `memory`."""
        count, self.weights, self.sums = math.prod(lead), weights.weights, weights.sums
        self._links, self._of, self._lead, self.size = links, weights, lead, lead[1] * lead[2]
        self._acts = [ACTIVATIONS[link.activation] for link in links]
        self._data = memory.take(*lead, links[0].inputs + links[0].bias)
        self._total, self._factors, self._along = (memory.take(count) for _ in range(3))
        self._column = np.arange(count)
        self._wide = memory.take(max(link.units for link in links), count)
        nexts = [link.bias for link in links[1:]] + [False]
        blocks = [memory.take(link.units + more, count) for link, more in zip(links, nexts, strict=True)]
        self._out = [block[: link.units] for block, link in zip(blocks, links, strict=True)]
        self._ones = [block[link.units :] for block, link in zip(blocks, links, strict=True)]
        self._back = [memory.take(link.units, count) for link in links[:-1]] + [self._out[-1]]
        self._scaled = [self._wide.reshape(-1)[: link.units * count].reshape(*lead, link.units) for link in links]
        self._logits = self._out[-1].reshape(-1)
        self._lay(blocks)

    def _lay(self, blocks: list[Floats]) -> None:
        """Lay the views that products take: examples first, in whatever order they lie in memory."""
        inputs = [self._data, *[self._by_example(block) for block in blocks[:-1]]]
        self._inputs, self._turned = inputs, [each.swapaxes(2, 3) for each in inputs]
        self._targets, self._d = ([self._by_example(part) for part in parts] for parts in (self._out, self._back))

    def _by_example(self, block: Floats) -> Floats:
        return block.reshape(len(block), *self._lead).transpose(1, 2, 3, 0)

    def filled(self, values: NDArray[Any], fill: int) -> NDArray[Any]:
        """Return values (clients, batch), cut or filled up to what is laid out, and flat."""
        short = self.size - values.shape[1]
        if short > 0:
            values = np.pad(values, [(0, 0), (0, short)], constant_values=fill)
        return values[:, : self.size].reshape(-1)

    def clip(
        self, x: Floats, squares: Floats, labels: Indices, *, at: Indices, present: Floats, clip_norm: np.float32,
        upwards: np.float32,
    ) -> Floats:  # fmt: skip
        """Write each client's clipped sum to `sums`; return the norms of the gradients (clients, size).

        Args:
            x: (N, inputs, and 1 where there is a bias) all examples.
            squares: (N,) the squared norms of these rows.
            labels: (N,).
            at: (clients x size,) which examples.
            present: (clients x size,) 1 for an example; 0 for padding, which must be a finite row.
            clip_norm: the largest norm of one example's contribution.
            upwards: what norms are multiplied by.
        """
        self._passes(x, labels, at, _ONE)
        norms = np.sqrt(self._squared_norms(squares.take(at)))
        np.multiply(norms, upwards, out=norms)
        factors = np.maximum(norms, clip_norm, out=self._factors)
        np.divide(clip_norm, factors, out=factors)
        np.multiply(factors, present, out=factors)
        for flat in self._back:
            np.multiply(flat, factors, out=flat)
        self._products()
        return norms.reshape(-1, self.size)

    def gradient(self, x: Floats, labels: Indices, *, at: Indices, shares: Floats) -> None:
        """Write each client's gradient of the sum of losses times `shares` (clients x size,) to `sums`; see `clip`."""
        self._passes(x, labels, at, shares)
        self._products()

    def _passes(self, x: Floats, labels: Indices, at: Indices, shares: Floats | np.float32) -> None:
        """Fill the inputs of all layers, and the gradients of their outputs of losses times `shares`."""
        chosen = labels.take(at)
        np.add(np.multiply(chosen, at.size, out=chosen), self._column, out=chosen)
        x.take(at.reshape(self._lead), axis=0, out=self._data, mode="clip")
        self._forward()
        self._backward(chosen, shares)

    def _products(self) -> None:
        """Write the sums over examples of the gradients of all kernels and biases to `sums`."""
        for turned, d, scaled, target in zip(self._turned, self._d, self._scaled, self._of.gradients, strict=True):
            np.copyto(scaled, d)  # examples first: the product is so much faster that it pays
            if self._lead[1] == 1:
                np.matmul(turned, scaled, out=target)
            else:
                np.sum(np.matmul(turned, scaled), axis=1, out=target[:, 0])

    def _forward(self) -> None:
        """Fill the hidden layers and the logits."""
        for inputs, kernel, target, out, ones, (apply, _) in zip(
            self._inputs, self._of.kernels, self._targets, self._out, self._ones, self._acts, strict=True
        ):
            np.matmul(inputs, kernel, out=target)
            apply(out)
            ones.fill(_ONE)

    def _backward(self, chosen: Indices, shares: Floats | np.float32) -> None:
        """Replace logits by the gradients of losses times `shares` by them, and fill those of the hidden layers."""
        flat, along = self._out[-1], self._along
        np.subtract(flat, np.maximum.reduce(flat, axis=0, out=along), out=flat)
        np.exp(flat, out=flat)
        np.divide(shares, np.add.reduce(flat, axis=0, out=along), out=along)
        np.multiply(flat, along, out=flat)
        self._logits[chosen] -= shares
        for at in range(len(self._links) - 1, 0, -1):
            np.matmul(self._d[at], self._of.kernels_back[at], out=self._d[at - 1])
            self._acts[at - 1][1](self._back[at - 1], self._out[at - 1])

    def _squared_norms(self, squares: Floats) -> Floats:
        """Return the sums over layers of ||d||^2 (||inputs||^2 + 1), valid until the next call."""
        total, of_d, of_inputs = self._total, self._along, squares
        for at, (link, d) in enumerate(zip(self._links, self._back, strict=True)):
            if at:
                of_inputs = self._sums_of_squares(self._out[at - 1], self._factors)
                np.add(of_inputs, np.float32(TINY * link.inputs + link.bias), out=of_inputs)
            np.add(self._sums_of_squares(d, of_d), np.float32(TINY * link.units), out=of_d)
            if at:
                np.add(total, np.multiply(of_inputs, of_d, out=of_d), out=total)
            else:
                np.multiply(of_inputs, of_d, out=total)
        return total

    def _sums_of_squares(self, rows: Floats, out: Floats) -> Floats:
        """Write the sums over the first axis to `out`."""
        squares = np.multiply(rows, rows, out=self._wide[: len(rows)])
        return np.asarray(np.add.reduce(squares, axis=0, out=out))


class _Memory:
    """Memory that is given out piece by piece, each beginning at a cache line."""

    def __init__(self, flat: Floats) -> None:
        self._flat, self._first = flat, 0

    def take(self, *shape: int) -> Floats:
        """Return the next piece, of undefined content."""
        first, size = self._first, math.prod(shape)
        self._first += -(-size // _LINE) * _LINE
        return self._flat[first : first + size].reshape(shape)


class Layouts(threading.local):
    """The layouts that a thread has made, by clients, pieces and rows; all of them in the same memory."""

    def __init__(self, links: tuple[Link, ...], rows: int) -> None:
        """Hold no memory yet; a piece of a batch has at most `rows` rows."""
        self._links, self._rows, self._memory = links, rows, (aligned(0), aligned(0))
        self._weights: dict[int, Weights] = {}
        self._held: dict[tuple[int, int, int], Layout] = {}

    def of(self, clients: int, width: int) -> Layout:
        """Return a layout for batches of at least `width`, valid until the next call."""
        width += width % 2  # fewer layouts
        pieces = -(-width // self._rows)
        lead = clients, pieces, -(-width // pieces)
        found = self._held.get(lead)
        return self._new(lead) if found is None else found

    def _new(self, lead: tuple[int, int, int]) -> Layout:
        """Make a layout; hold it if there is room, and give up the others where their memory is too small for it."""
        links, clients, memory = self._links, lead[0], self._memory
        need = 2 * clients * sum(link.parameters for link in links) + _LINE, _numbers(links, lead)
        if sum(need) > _HELD:
            weights, rest = (_Memory(aligned(numbers)) for numbers in need)
            return Layout(links, Weights(links, weights, clients), rest, lead)
        sizes = memory[0].size, memory[1].size
        if need[0] > sizes[0] or need[1] > sizes[1] or len(self._held) == _LAYOUTS:
            self._weights.clear()
            self._held.clear()
            self._memory = memory = aligned(max(need[0], sizes[0])), aligned(max(need[1], sizes[1]))
        if clients not in self._weights:
            self._weights[clients] = Weights(links, _Memory(memory[0]), clients)
        found = self._held[lead] = Layout(links, self._weights[clients], _Memory(memory[1]), lead)
        return found


def _numbers(links: tuple[Link, ...], lead: tuple[int, int, int]) -> int:
    """Return at least what a layout takes of its memory, beside its weights."""
    units = [link.units for link in links]
    each = links[0].inputs + 1 + 3 + max(units) + sum(2 * size + 1 for size in units)
    return math.prod(lead) * each + _LINE * (2 * len(links) + 5)
