"""One step of DP-SGD on many devices at a time (dp-local): per-example clipping and noise inside each client.

A plain chain of Dense layers is computed by hand on the CPU (`dpaudit.federated.dense_local`), for groups of clients.
Where every parameter sits in a Dense layer on plain vectors, clients are stacked and clipped by book-keeping in one
graph (`dpaudit.federated.many`). Other models take one client after the other: by book-keeping where it knows the
layers, else with a gradient per example. All ways give the same numbers, up to rounding.

A client's update is kept apart from the weights that it started from, so that noise much smaller than the weights is
not lost to float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import UsageError
from dpaudit.federated import bookkeeping
from dpaudit.federated.bookkeeping import ROUNDING, clip_factors
from dpaudit.federated.clients import ClientFunctions, flat_call
from dpaudit.federated.dense_local import DenseLocal, Examples
from dpaudit.federated.many import ManyModels
from dpaudit.federated.per_example import map_examples

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWork:
    """What some clients (n) do in a round: their batches, their noise, and the canaries among their examples.

    `index` and `mask` (n, steps, batch) say which examples, `noise` (n, steps, parameters + most) is added to the sums,
    `canaries` (n, steps, most) are raw contributions in coordinates of their own.
    """

    index: Ints
    mask: Floats
    noise: Floats
    canaries: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """Clip norm, and the step: learning rate over the expected batch."""

    clip_norm: float
    step_size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """What came of it: `updates` (n, parameters), which leave the devices, and what only an auditor sees.

    `sums` (n, parameters) are the clipped sums of all steps without noise, `seen` (n, steps, most) the noised sums on
    the canaries' coordinates, `norms` (n, steps, batch) those of the gradients before the clip.
    """

    updates: Floats
    sums: Floats
    seen: Floats
    norms: Floats


class LocalDpFunctions:
    """The compiled local step of one model."""

    def __init__(self, functions: ClientFunctions, input_shape: tuple[int, ...]) -> None:
        """Declare the step with open leading dimensions; it is traced at its first call."""
        import tensorflow as tf

        self._functions, self._model = functions, functions._model
        self._many = ManyModels(self._model, input_shape)
        one, rows, number = tf.TensorSpec([None]), tf.TensorSpec([None, None]), tf.TensorSpec([])
        x, y = tf.TensorSpec([None, *input_shape]), tf.TensorSpec([None], tf.int32)
        index, seed = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([2], tf.int32)
        signature = [one, rows, rows, x, y, index, rows, rows, rows, number, number, seed]
        self._step = tf.function(self._trace_step, input_signature=signature, autograph=False)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._functions.parameters

    @cached_property
    def unstacked(self) -> str | None:
        """Why clients go one after the other; None where they are stacked."""
        return self._many.unclipped

    @property
    def _by_hand(self) -> DenseLocal | None:
        return self._functions.by_hand

    def groups(self, sizes: Indices, *, steps: int) -> list[Indices]:
        """Return which of n clients (at least one) to run together, from how many examples each draws in all, (n,).

        In NumPy as many as fit in the cache, those with batches of like size together: a batch is padded to the
        widest of its step. Else everybody.
        """
        if self._by_hand is None:
            return [np.arange(sizes.size)]
        most = self._by_hand.clients_at_a_time(steps=steps, width=int(sizes.max()) // steps)
        parts = np.array_split(np.argsort(sizes, kind="stable"), -(-sizes.size // most))
        return [np.sort(part) for part in parts]

    @property
    def path(self) -> str:
        """How examples are clipped, for the ledger."""
        if self._by_hand is not None:
            return "devices: book-keeping, clients stacked (dense chain)"
        if self.unstacked is None:
            return "devices: book-keeping, clients stacked"
        inside = self._functions.no_bookkeeping
        how = "book-keeping" if inside is None else f"one gradient per example: {inside}"
        return f"devices: {how}; clients one after the other: {self.unstacked}"

    def _trace_step(self, weights: Any, update: Any, sums: Any, x: Any, y: Any, *rest: Any) -> Any:
        """Take one local step of all clients; return the new update and sums, what the canaries show, and norms."""
        import tensorflow as tf

        index, mask, noise, canaries, clip_norm, step_size, seed = rest
        local = weights[None] + update
        positions = tf.reshape(index, [-1])
        examples, labels = tf.gather(x, positions), tf.gather(y, positions)
        if self.unstacked is None:
            total, norms = self._many.trace_clipped_sums(local, examples, labels, mask, clip_norm)
        else:
            total, norms = self._sum_of_one(local[0], examples, labels, mask[0], clip_norm, seed)
        planted = canaries * clip_factors(tf.abs(canaries) * (1.0 + ROUNDING), clip_norm)
        noised = tf.concat([total, planted], axis=1) + noise
        model, seen = noised[:, : self.parameters], noised[:, self.parameters :]
        return update - step_size * model, sums + total, seen, norms

    def _sum_of_one(self, flat: Any, examples: Any, labels: Any, mask: Any, clip_norm: Any, seed: Any) -> Any:
        """Return the clipped sum (1, parameters) and the norms (1, batch) of one client's batch."""
        import tensorflow as tf

        if self._functions.no_bookkeeping is None:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                trace = bookkeeping.Trace(self._model, tape)
                with trace.tapped():
                    logits = self._functions._call(flat, examples, seed, training=True)
                loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
            total, norms = bookkeeping.clipped_sum(trace.parts(loss), clip_norm=clip_norm, mask=mask)
            return total[None], norms[None]
        one = tf.ones([1])

        def of_example(pair: Any) -> Any:
            return self._functions._gradient(flat, pair[0][None], pair[1][None], one, seed)

        rows = map_examples(of_example, (examples, labels))
        norms = tf.norm(rows, axis=1) * (1.0 + ROUNDING)
        factors = mask * clip_factors(norms, clip_norm)
        return tf.linalg.matvec(rows, factors, transpose_a=True)[None], norms[None]

    @cached_property
    def _call(self) -> Callable[..., Any]:
        return flat_call(self._step)

    def run(
        self,
        weights: NDArray[np.float64],
        examples: tuple[Any, Any] | Examples,
        work: LocalWork,
        settings: LocalSettings,
        *,
        seed: tuple[int, int],
    ) -> LocalResult:
        """Let the clients of `work` train; n >= 1.

        Args:
            weights: global weights (parameters,).
            examples: what `place` returned; padding must point at a finite one.
            work: who does what.
            settings: clip and step.
            seed: of dropout in this round.
        """
        if isinstance(examples, Examples):
            return self._in_numpy(weights, examples, work, settings)
        x, y = examples
        if self.unstacked is None or len(work.index) == 1:
            return self._together(weights, x, y, work, settings, seed)
        alone = [
            LocalWork(
                index=work.index[i : i + 1],
                mask=work.mask[i : i + 1],
                noise=work.noise[i : i + 1],
                canaries=work.canaries[i : i + 1],
            )
            for i in range(len(work.index))
        ]
        found = [self._together(weights, x, y, one, settings, seed) for one in alone]
        return LocalResult(
            updates=np.concatenate([one.updates for one in found]),
            sums=np.concatenate([one.sums for one in found]),
            seen=np.concatenate([one.seen for one in found]),
            norms=np.concatenate([one.norms for one in found]),
        )

    def _together(
        self, weights: NDArray[np.float64], x: Any, y: Any, work: LocalWork, settings: LocalSettings,
        seed: tuple[int, int],
    ) -> LocalResult:  # fmt: skip
        import tensorflow as tf

        start = tf.constant(weights, tf.float32)
        update = sums = tf.zeros([len(work.index), self.parameters])
        numbers = [tf.constant(v, tf.float32) for v in (settings.clip_norm, settings.step_size)]
        seen, norms = [], []
        for step in range(work.index.shape[1]):
            data = [tf.constant(a[:, step]) for a in (work.index, work.mask, work.noise, work.canaries)]
            dropout = tf.constant((seed[0], (seed[1] + step) % (2**31 - 1)), tf.int32)
            update, sums, shown, sizes = self._call(start, update, sums, x, y, *data, *numbers, dropout)
            seen.append(np.asarray(shown))
            norms.append(np.asarray(sizes))
        return LocalResult(
            updates=np.asarray(update),
            sums=np.asarray(sums),
            seen=np.stack(seen, axis=1),
            norms=np.stack(norms, axis=1),
        )

    def _in_numpy(
        self, weights: NDArray[np.float64], examples: Examples, work: LocalWork, settings: LocalSettings
    ) -> LocalResult:
        """Take the local steps of a chain of Dense layers; see `_trace_step`."""
        if self._by_hand is None:
            raise UsageError("these examples are placed for a chain of Dense layers, which the model is not.")
        clip = np.float32(settings.clip_norm)
        updates, sums, norms = self._by_hand.train(
            np.asarray(weights, dtype=np.float32), examples, index=work.index, mask=work.mask, noise=work.noise,
            clip_norm=settings.clip_norm, step_size=settings.step_size,
        )  # fmt: skip
        with np.errstate(all="ignore"):
            planted = work.canaries * (clip / np.maximum(np.abs(work.canaries) * np.float32(1.0 + ROUNDING), clip))
            seen = np.asarray(planted + work.noise[:, :, self.parameters :], np.float32)
        return LocalResult(updates=updates, sums=sums, seen=seen, norms=norms)
