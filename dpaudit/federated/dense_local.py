"""Local SGD and DP-SGD of many clients in a plain chain of Dense layers, in NumPy, laid out for a processor's cache.

The passes are those of `dpaudit.federated.dense_chain`: forward, backward, the norms of all per-example gradients, and
their clipped sum (book-keeping). What is different: a bias is one more row of its kernel, whose input is 1, as it lies
in the flat vector; hidden layers have the units first, so that every operation on them runs over all examples of all
clients at once; inputs are prepared once for all rounds, their squared norms too; arrays are laid out once for every
width of a batch. A group of clients is so small that all it needs, its noise included, stays in the cache.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.federated.aligned import aligned
from dpaudit.federated.dense_chain import DenseChain
from dpaudit.federated.dense_layout import Layouts
from dpaudit.federated.layer_rules import TINY

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
_GROUP_BYTES = 2**22
"""What a group of clients may hold, noise included: more falls out of the cache, less starts more operations."""
_PLAIN_BYTES = 3 * 2**19
"""The same without noise and clip, where the weights are the most of it."""
_ONE = np.float32(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """All examples as the chain takes them, and behind them one of zeros, to fill up short batches with.

    `x` (N + 1, inputs, and 1 where there is a bias), `squares` (N + 1,) the squared norms of its rows, `y` (N + 1,).
    """

    x: Floats
    squares: Floats
    y: NDArray[np.intp]


class DenseLocal:
    """The local steps of one chain; memory is held from call to call, by thread."""

    def __init__(self, chain: DenseChain) -> None:
        """Take the sizes of `chain`."""
        self._chain, self._links = chain, chain.links
        self._layouts = Layouts(chain.links, chain._rows)

    def place(self, x: NDArray[Any], y: NDArray[Any]) -> Examples:
        """Prepare all examples: `x` (N, ...) and labels `y` (N,). Raises DataError for a label that is no class."""
        first, classes = self._links[0], self._links[-1].units
        if y.size and (int(y.min()) < 0 or int(y.max()) >= classes):
            raise DataError(f"labels must lie in 0..{classes - 1}; got {int(y.min())} to {int(y.max())}.")
        rows = aligned(len(x) + 1, first.inputs + first.bias)
        rows[:, first.inputs :], rows[-1] = _ONE, np.float32(0.0)
        inputs = rows[:-1, : first.inputs]
        with np.errstate(all="ignore"):
            inputs[:] = x.reshape(len(x), first.inputs)
            if self._chain.scale != 1 or self._chain.offset != 0:
                np.multiply(inputs, np.float32(self._chain.scale), out=inputs)
                np.add(inputs, np.float32(self._chain.offset), out=inputs)
            squares = np.einsum("ij,ij->i", rows, rows) + np.float32(TINY * first.inputs)
        return Examples(x=rows, squares=np.asarray(squares, np.float32), y=np.append(y, 0).astype(np.intp))

    def clients_at_a_time(self, *, steps: int, width: int) -> int:
        """Return how many clients a group should have whose local batches are `width` wide."""
        numbers = self._chain.parameters * (steps + 5) + self._chain.floats * width
        return max(1, _GROUP_BYTES // (4 * numbers))

    def descend(self, start: Floats, examples: Examples, *, index: Ints, shares: Floats) -> Floats:
        """Return local minus global weights, (clients, parameters), after local SGD of every client from `start`.

        Args:
            start: (parameters,) the global weights.
            examples: what `place` returned.
            index: (clients, steps, batch) positions of examples, in the order in which they are used.
            shares: the same shape; what an example's loss is multiplied by: the learning rate over the number of
                examples of its batch, 0 for padding.

        Raises: DataError for a position that is none.
        """
        padding = len(examples.x) - 1
        self._check_positions(index, padding)
        if not shares.all():  # padding points at some example or other: if that holds a NaN, 0 times it would spread
            index = np.where(shares == 0, padding, index)
        updates = np.empty((len(index), start.size), np.float32)
        each = 4 * (2 * start.size + self._chain.floats * index.shape[2])
        clients, groups = len(index), -(-len(index) // max(1, _PLAIN_BYTES // each))
        for number in range(groups):
            group = slice(number * clients // groups, (number + 1) * clients // groups)
            self._descend(updates[group], start, examples, index[group], shares[group])
        return updates

    def _descend(self, updates: Floats, start: Floats, examples: Examples, index: Ints, shares: Floats) -> None:
        """Write the updates of a group of clients."""
        clients, steps, width = index.shape
        layout, padding = self._layouts.of(clients, max(1, width)), len(examples.x) - 1
        positions = np.ascontiguousarray(index.swapaxes(0, 1), np.intp)
        share_of = np.ascontiguousarray(shares.swapaxes(0, 1))
        with np.errstate(all="ignore"):
            layout.weights[:] = start
            for step in range(steps):
                at, share = layout.filled(positions[step], padding), layout.filled(share_of[step], 0)
                layout.gradient(examples.x, examples.y, at=at, shares=share)
                np.subtract(layout.weights, layout.sums, out=layout.weights)
            np.subtract(layout.weights, start, out=updates)

    @staticmethod
    def _check_positions(index: Ints, padding: int) -> None:
        if index.size and (int(index.min()) < 0 or int(index.max()) > padding):
            raise DataError(f"positions must lie in 0..{padding}; got {index.min()} to {index.max()}.")

    def train(
        self, start: Floats, examples: Examples, *, index: Ints, mask: Floats, noise: Floats, clip_norm: float,
        step_size: float,
    ) -> tuple[Floats, Floats, Floats]:  # fmt: skip
        """Take the local steps of a group of clients from `start`; n >= 1.

        Returns the updates (n, parameters), the clipped sums of all steps without noise (n, parameters), and the norms
        of all gradients (n, steps, batch), each never below the true one (see `DenseChain.clipped_sums`), anything
        for padding. A client with a norm that is NaN or infinite is of no use; the others are not touched by it.

        Args:
            start: (parameters,) the weights that all begin with.
            examples: what `place` returned.
            index: (n, steps, batch) which examples, N for the one of zeros.
            mask: the same shape, 1 for an example; 0 for padding, which must point at a finite one.
            noise: (n, steps, >= parameters) what is added to each sum.
            clip_norm: the largest norm of one example's contribution.
            step_size: what a noised sum is multiplied by before it is taken off the weights.

        Raises: DataError for a position that is none.
        """
        clients, padding, size = len(index), len(examples.x) - 1, np.float32(step_size)
        self._check_positions(index, padding)
        updates, sums = (np.empty((clients, start.size), np.float32) for _ in range(2))
        norms = np.zeros(index.shape, np.float32)
        positions, present_in = np.ascontiguousarray(index.swapaxes(0, 1), np.intp), mask.swapaxes(0, 1)
        begin = np.broadcast_to(start, updates.shape).copy()  # adding row by row takes twice as long
        with np.errstate(all="ignore"):
            for step, width in enumerate(_widths(mask)):
                layout = self._layouts.of(clients, width)
                if step == 0:
                    layout.weights[:] = begin
                else:
                    np.add(updates, begin, out=layout.weights)
                at, present = layout.filled(positions[step], padding), layout.filled(present_in[step], 0)
                found = layout.clip(
                    examples.x, examples.squares, examples.y, at=at, present=present, clip_norm=np.float32(clip_norm),
                    upwards=self._chain._raise,
                )  # fmt: skip
                norms[:, step, :width] = found[:, :width]
                self._add(step, layout.sums, noise[:, step, : start.size], size, updates=updates, sums=sums)
        return updates, sums, norms

    @staticmethod
    def _add(step: int, found: Floats, noise: Floats, size: np.float32, *, updates: Floats, sums: Floats) -> None:
        """Add the clipped sums `found`, which are lost, to `sums`, and take them with noise off the updates."""
        if step == 0:
            sums[:] = found
            np.multiply(np.add(found, noise, out=found), -size, out=updates)
        else:
            np.add(sums, found, out=sums)
            np.multiply(np.add(found, noise, out=found), size, out=found)
            np.subtract(updates, found, out=updates)


def _widths(mask: Floats) -> list[int]:
    """Return how wide the batches of all clients (n, steps, batch) are in each step; at least 1."""
    used = np.maximum.reduce(mask, axis=0) > 0
    widths = np.where(used.any(axis=1), used.shape[1] - used[:, ::-1].argmax(axis=1), 1)
    return [int(width) for width in widths]
