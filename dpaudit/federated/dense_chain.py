"""Plain chains of Dense layers by hand, on the CPU: gradients and clipped sums in NumPy.

At the size of federated models TensorFlow spends most of its time on starting operations: a private step of a small
perceptron takes 60 of them, 2 to 5 microseconds each, and a call of the graph 100 more. A chain of Dense layers needs
no tape: forward, backward, the norms of all per-example gradients and their clipped sum are a dozen batched matrix
products (book-keeping, Bu et al., arXiv:2210.00038; norms of rank-one gradients, Goodfellow, arXiv:1510.01799).

The loss is softmax cross-entropy of logits, as in `dpaudit.federated.clients`. Everything is float32; weights are
flat vectors in the order of `trainable_variables`, one row per *stack* (a client, a model): all functions take stacks.

    chain = DenseChain.of(model)
    sums, norms = chain.clipped_sums(weights, x, y, mask=mask, clip_norm=1.0)

Local training of many clients is in `dpaudit.federated.dense_local`.
"""

from typing import Any

import numpy as np

from dpaudit.errors import DataError
from dpaudit.federated.bookkeeping import ROUNDING
from dpaudit.federated.dense_batch import ACTIVATIONS, Batch, Floats, Ints, views
from dpaudit.federated.dense_links import Link, links_of
from dpaudit.federated.layer_rules import Unsupported

_PRODUCT, _SUM, _ROWS = 2**18, 2**13, 16
"""Largest rows x inputs x units, and rows x units, of one product; and the fewest rows that are worth it.

Above about that size OpenBLAS takes several threads, which wait for each other: on a machine with other work a step
then takes a hundred times as long. Batches are cut into pieces of so many rows, each multiplied on its own.
"""
_EPS = 2.0**-24


class DenseChain:
    """The passes of one chain; holds sizes and no weights, so that one object serves any number of stacks."""

    def __init__(self, links: tuple[Link, ...], *, scale: float = 1.0, offset: float = 0.0) -> None:
        """Describe a chain whose input is multiplied by `scale`, then raised by `offset`."""
        self.links, self._scale, self._offset = links, np.float32(scale), np.float32(offset)
        self.parameters = sum(link.parameters for link in links)
        fit = (min(_PRODUCT // (link.inputs * link.units), _SUM // link.units) for link in links)
        self._rows = max(1, min(fit))
        longest = max(link.inputs + link.units for link in links)
        self._raise = np.float32(1.0 + max(ROUNDING, (longest + 8) * _EPS / 2))

    @classmethod
    def of(cls, model: Any) -> "DenseChain":
        """Return the chain of a built Keras model; raises `Unsupported`, which says why, where it is none.

        See `dpaudit.federated.dense_links` for what is recognised; the activations are those known here. A chain with
        a layer of more than 16,384 weights is left to TensorFlow.
        """
        links, scale, offset = links_of(model, activations=frozenset(ACTIVATIONS))
        chain = cls(links, scale=scale, offset=offset)
        if chain._rows < _ROWS:
            raise Unsupported("a layer is so large that TensorFlow's products are worth their start")
        return chain

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
        sums = np.empty((x.shape[0], self.parameters), np.float32)
        with np.errstate(all="ignore"):
            batch = self._filled(weights, x, mask)
            batch.run(self._chosen(batch.padded(y)[None])[0], np.float32(1.0))
            norms: Floats = np.sqrt(batch.squares()).reshape(len(x), batch.size) * self._raise
            factors: Floats = np.asarray(clip_norm / np.maximum(norms, np.float32(clip_norm)), np.float32)
            present = np.ones(y.shape, np.float32) if mask is None else mask
            batch.scale(factors * batch.padded(present))
            batch.products(views(self.links, sums))
        norms = norms[:, : x.shape[1]]
        if mask is not None:
            norms[mask == 0] = np.float32(0.0)
        return sums, norms

    def gradients(self, weights: Floats, x: Floats, y: Ints, shares: Floats) -> Floats:
        """Return each stack's gradient of the sum of losses times `shares` (stacks, batch): (stacks, parameters)."""
        found = np.empty((x.shape[0], self.parameters), np.float32)
        with np.errstate(all="ignore"):
            batch = self._filled(weights, x, shares)
            batch.run(self._chosen(batch.padded(y)[None])[0], batch.padded(shares).reshape(-1))
            batch.products(views(self.links, found))
        return found

    def _filled(self, weights: Floats, x: Floats, mask: Floats | None) -> Batch:
        """Return a batch whose inputs are `x`, rescaled, and zero where the mask is."""
        batch = Batch(self.links, weights, x.shape[1], self._rows)
        inputs = self.links[0].inputs
        rows = batch.data.reshape(len(x), batch.size, inputs)
        rows[:, : x.shape[1]] = x.reshape(*x.shape[:2], inputs)
        rows[:, x.shape[1] :] = np.float32(0.0)
        self._prepare(rows[:, : x.shape[1]], mask)
        return batch

    def _prepare(self, data: Floats, mask: Floats | None) -> None:
        """Rescale, and put zeros where the mask is zero, in place.

        Padding points at some example or other: if that one holds a NaN, multiplying by zero would spread it.
        """
        if self._scale != 1 or self._offset != 0:
            np.multiply(data, self._scale, out=data)
            np.add(data, self._offset, out=data)
        if mask is not None:
            data[mask == 0] = np.float32(0.0)

    def _chosen(self, labels: Ints) -> Ints:
        """Return where (steps, stacks x batch) the labels (steps, stacks, batch) stand in the logits of a batch."""
        classes = self.links[-1].units
        if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= classes):
            raise DataError(f"labels must lie in 0..{classes - 1}; got {int(labels.min())} to {int(labels.max())}.")
        count = labels.shape[1] * labels.shape[2]
        chosen: Ints = labels.reshape(len(labels), count).astype(np.intp) * count + np.arange(count)
        return chosen
