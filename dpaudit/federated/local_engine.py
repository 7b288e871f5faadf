"""The clients of dp-local in this process: local batches, local noise, and many clients in one graph."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import TrainingSection
from dpaudit.errors import UsageError
from dpaudit.federated.aligned import aligned
from dpaudit.federated.canaries import Canaries
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.data import Dataset
from dpaudit.federated.engine import chunks, round_seeds
from dpaudit.federated.local_dp import LocalDpFunctions, LocalResult, LocalSettings, LocalWork
from dpaudit.federated.local_noise import device_noise
from dpaudit.federated.local_sampling import Holdings, LocalBatches, draw_batches, packed
from dpaudit.federated.local_task import LocalBlock, LocalTask
from dpaudit.federated.sampling import Cohort

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]


class LocalDpEngine:
    """Local steps of DP-SGD on every client of the cohort; the contribution is local minus global weights."""

    name, direction = "in-process", -1.0

    def __init__(
        self,
        functions: ClientFunctions,
        data: Dataset,
        training: TrainingSection,
        *,
        root: int,
        noise_root: int | None = None,
    ) -> None:
        """Place the data once, behind them one example of zeros to pad with; units are client ids of `data.client`.

        `noise_root` is the root of the noise, if it is another one: for tests of a step, which change nothing else.
        """
        del training  # what clients are to do comes with every task
        self._root, self._noise_root = root, root if noise_root is None else noise_root
        self._local = LocalDpFunctions(functions, data.x.shape[1:])
        self._examples, self._padding = functions.place(data.x, data.y), len(data.y)
        self._holdings = Holdings.of(np.asarray(data.client), clients=1)
        self._fakes: tuple[Canaries, Holdings] | None = None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._local.parameters

    @property
    def clipping_path(self) -> str:
        """Where and how examples are clipped."""
        return self._local.path

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[LocalBlock]:
        """Yield what the clients did; nothing for an empty cohort.

        Raises: UsageError for a cohort that is no `LocalTask`: clients must be told the noise that they add.
        """
        if not isinstance(cohort, LocalTask):
            raise UsageError("dp-local is run by the server of dpaudit.federated.silo_server, which tells clients all.")
        fakes = self._fakes_of(cohort.canaries)
        wide = self.parameters + fakes.table.shape[1]
        each = 4 * (3 * cohort.steps * wide + 6 * self.parameters) + 8 * cohort.steps * self._holdings.table.shape[1]
        for units in chunks(cohort.units, each):
            yield from self._run(weights, cohort, units, fakes)

    def _fakes_of(self, canaries: Canaries) -> Holdings:
        """Return which canaries each client holds; those of the last round, as a rule."""
        if self._fakes is None or self._fakes[0] is not canaries:
            self._fakes = canaries, Holdings.of(canaries.client, clients=self._holdings.sizes.size)
        return self._fakes[1]

    def _run(self, weights: Vector, task: LocalTask, units: Indices, fakes: Holdings) -> Iterator[LocalBlock]:
        everybody = draw_batches(
            self._root, task.number, task.attempt, units, rate=task.rate, steps=task.steps, examples=self._holdings,
            canaries=fakes,
        )  # fmt: skip
        index, mask, members = packed(everybody, self._holdings, padding=self._padding)
        sizes = mask.sum(axis=(1, 2), dtype=np.float64).astype(np.int64)
        ends = np.cumsum(sizes)
        groups = self._local.groups(sizes, steps=task.steps)
        wide, mechanism = self.parameters + fakes.table.shape[1], task.mechanism
        memory = aligned(max(group.size for group in groups), task.steps * wide + 1)
        for group in groups:
            batches = everybody.take(group)
            inside = batches.canaries & task.canaries.coins[fakes.table[batches.clients]][:, None, :]
            raw = np.float32(task.canaries.norm_factor * mechanism.clip_norm) * inside
            noise = device_noise(
                self._noise_root, task.number, task.attempt, batches.clients, steps=task.steps, width=wide,
                stddev=mechanism.noise_stddev * mechanism.noise_factor, out=memory,
            )  # fmt: skip
            work = LocalWork(index=index[group], mask=mask[group], noise=noise, canaries=raw)
            found = self._train(weights, task, work)
            yield LocalBlock(
                units=batches.clients, rows=found.updates, sums=found.sums,
                seen=found.seen / np.float32(mechanism.clip_norm),
                members=np.concatenate([members[ends[at] - sizes[at] : ends[at]] for at in group]), batches=batches,
            )  # fmt: skip

    def _train(self, weights: Vector, task: LocalTask, work: LocalWork) -> LocalResult:
        """Run the steps; where an example's gradient is not finite, again without it, which leaves a sum of the rest.

        The other examples of the client, its noise and its batches stay what they are.
        """
        settings = LocalSettings(clip_norm=task.mechanism.clip_norm, step_size=task.learning_rate / task.divisor)
        seed = round_seeds(self._root, task.number).dropout
        found = self._local.run(weights, self._examples, work, settings, seed=seed)
        for _ in range(task.steps):
            if np.isfinite(found.updates).all():
                break
            broken = np.flatnonzero(~np.isfinite(found.updates).all(axis=1))
            left = _without_broken(work, found, broken, self._padding)
            if left is None:
                break
            found = LocalResult(**{name: np.array(getattr(found, name)) for name in _ARRAYS})
            work, again = left[0], self._local.run(weights, self._examples, left[1], settings, seed=seed)
            for name in _ARRAYS:
                getattr(found, name)[broken] = getattr(again, name)
        return found

    def clipped_sum(self, weights: Vector, examples: Indices, *, clip_norm: float) -> Vector:
        """Return the sum of the clipped gradients of these examples at the global weights, (parameters,), no noise.

        As in a local step: by client, with what each holds.
        """
        holdings = self._holdings
        wanted = np.isin(holdings.table, examples) & (np.arange(holdings.table.shape[1]) < holdings.sizes[:, None])
        clients = np.flatnonzero(wanted.any(axis=1))
        none = np.zeros((clients.size, 1, 0), dtype=np.bool_)
        batches = LocalBatches(clients=clients, examples=wanted[clients][:, None], canaries=none)
        index, mask, _ = packed(batches, holdings, padding=self._padding)
        silent = np.zeros((clients.size, 1, self.parameters), dtype=np.float32)
        work = LocalWork(index=index, mask=mask, noise=silent, canaries=silent[:, :, :0])
        settings = LocalSettings(clip_norm=clip_norm, step_size=1.0)
        found = self._local.run(weights, self._examples, work, settings, seed=(0, 0))
        return np.asarray(found.sums.sum(axis=0, dtype=np.float64))


_ARRAYS = ("updates", "sums", "seen", "norms")


def _without_broken(
    work: LocalWork, found: LocalResult, broken: Indices, padding: int
) -> tuple[LocalWork, LocalWork] | None:
    """Take out the examples whose norm is not finite in a broken client's first bad step, and from then on.

    Return the whole work and that of the broken clients; None where nothing can be taken out.
    """
    bad = ~np.isfinite(found.norms[broken]) & (work.mask[broken] > 0)
    steps = bad.any(axis=2)
    if not steps.any():
        return None
    first = steps.argmax(axis=1)
    index, mask = work.index.copy(), work.mask.copy()
    for client, step, which in zip(broken.tolist(), first.tolist(), bad, strict=True):
        taken = index[client, step][which[step]]
        later = np.isin(index[client, step:], taken) & (mask[client, step:] > 0)
        index[client, step:][later], mask[client, step:][later] = padding, 0.0
    whole = replace(work, index=index, mask=mask)
    part = LocalWork(index=index[broken], mask=mask[broken], noise=work.noise[broken], canaries=work.canaries[broken])
    return whole, part


def canaries_in(batches: LocalBatches, fakes: Holdings) -> tuple[Indices, Indices, Indices, Indices]:
    """Return the cells of the last axis of `batches.canaries` that hold a canary: client, step, place, canary."""
    if fakes.table.size == 0:
        none = np.zeros(0, dtype=np.int64)
        return none, none, none, none
    held = np.arange(batches.canaries.shape[2]) < fakes.sizes[batches.clients][:, None]
    client, step, place = np.nonzero(np.broadcast_to(held[:, None], batches.canaries.shape))
    return client, step, place, fakes.table[batches.clients[client], place].astype(np.int64)
