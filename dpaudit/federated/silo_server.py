"""The server of dp-local: it tells clients what to do, averages what they send, and adds no noise of its own.

One round is: the cohort (public coins) -> local steps on every client -> screen and sum -> ledger line -> server
optimizer. Examples are protected before anything leaves a device, also from the server; every local iterate counts as
released in the ledger, so that what the server does with the updates is post-processing.

Every noised sum is divided by one number for all clients, q N / K: the batch that the average client expects. So the
noise of every update is the same, an example weighs the same in a small silo as in a large one, and the mechanism
depends on nobody's number of examples, but for the public N and K of the ledger's header.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import UsageError
from dpaudit.events import Gaussian
from dpaudit.federated import mechanism
from dpaudit.federated.aggregation import Aggregator
from dpaudit.federated.clipping import Block, Rejected, clipped_sum, screen
from dpaudit.federated.local_engine import canaries_in
from dpaudit.federated.local_sampling import Holdings
from dpaudit.federated.local_task import DeviceGaussian, LocalBlock, LocalTask
from dpaudit.federated.optimizers import ServerOptimizer
from dpaudit.federated.rounds import Collected, Plan, Release, only_invited
from dpaudit.federated.sampling import Cohort
from dpaudit.federated.server import Contribution, Server
from dpaudit.ledger import PrivacyLedger

Vector = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """What a round showed to the auditor, beside the updates.

    `observed` float32 (steps, m): the noised sum of a canary's client on its coordinate, in clip norms; 0 where the
    client was not there. `members` (steps, units) and `canaries` (steps, m) took part. `clients` (K,) sent an update.
    `noise` (K,): the sum of squares of the noise in a client's update, over all steps and model coordinates, in clip
    norms and per step; NaN where there is none. `noise_of_sum` is the same of the sum of all updates, per client.
    """

    observed: NDArray[np.float32]
    members: Bools
    canaries: Bools
    clients: Bools
    noise: Vector
    noise_of_sum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCollected(Collected):
    """The updates of a round, summed (`total`), with what the auditor sees and the digest of all that was released."""

    audit: LocalRound
    digest: str


class SiloServer(Server):
    """The server of a dp-local run; the interface of `Server`."""

    _aggregator: DeviceGaussian

    def task(self, cohort: Cohort, attempt: int) -> LocalTask:
        """Return what the clients of a cohort are told."""
        plan, training = self._plan, self._plan.training
        return LocalTask(
            number=cohort.number, sampled=cohort.sampled, answered=cohort.answered, units=cohort.units,
            attempt=attempt, steps=training.local_steps, rate=training.example_sampling_rate,
            learning_rate=training.local_learning_rate, divisor=local_divisor(plan), mechanism=self._aggregator,
            canaries=plan.canaries,
        )  # fmt: skip

    def run_round(
        self, number: int, run_cohort: Callable[[Vector, Cohort], Iterable[Contribution | Rejected]]
    ) -> tuple[Collected, Release]:
        """Do one whole round; a round that the ledger already holds is reproduced, or redone with fresh noise.

        Raises: UsageError when the engine is none for dp-local.
        """
        cohort, known = self.cohort(number), list(self._recorded.of(number))
        for attempt, stated in enumerate([*known, None]):
            self._on_draw(number, attempt)
            task = self.task(cohort, attempt)
            collected = self._gather(task, run_cohort(self.weights, task))
            if stated in (collected.digest, None):
                break
        if stated is None:
            self._write_down(collected, attempt)
        release = Release(number=number, attempt=attempt, vector=collected.total, replayed=stated is not None)
        self.apply(release)
        return collected, release

    def _gather(self, task: LocalTask, blocks: Iterable[object]) -> LocalCollected:
        """Screen and sum the updates of a task, and take down what the auditor sees."""
        plan, width = self._plan, self.weights.size
        sent = np.zeros(plan.population.clients, dtype=np.bool_)
        notes = _Notes(plan, task)
        total, accepted, rejected = np.zeros(width), 0, list[Rejected]()
        digest = hashlib.sha256()
        for block in blocks:
            if isinstance(block, Rejected):
                rejected.append(block)
                continue
            if not isinstance(block, LocalBlock):
                raise UsageError(
                    f"the engine answers dp-local with {type(block).__name__}: it does not run local DP-SGD. Use "
                    "the engine in-process."
                )
            for array in (block.units, block.rows, block.seen):
                digest.update(np.ascontiguousarray(array).data)
            asked, strangers = only_invited(Block(units=block.units, rows=block.rows), task, sent)
            rows, units, unfit = screen(asked, width=width)
            rejected += [*strangers, *unfit]
            accepted += len(rows)
            total += self._sum(rows)
            notes.take(block, units, noise_scale=task.divisor / task.learning_rate)
        return LocalCollected(
            cohort=task, total=total, clip_norm=self._aggregator.clip_norm, arrived=sent, accepted=accepted,
            rejected=tuple(rejected), weights=self.weights,
            canaries=np.asarray(notes.canaries.any(axis=0)), audit=notes.result(sent),
            digest=digest.hexdigest(),
        )  # fmt: skip

    def _sum(self, rows: NDArray[np.float32]) -> Vector:
        limit = self._plan.training.update_limit
        if limit is None:
            return np.asarray(rows.sum(axis=0, dtype=np.float64))
        return clipped_sum(rows, clip_norm=limit)

    def _write_down(self, collected: LocalCollected, attempt: int) -> None:
        """Record the round: S local steps of the clients that were asked, and what they did."""
        training, number = self._plan.training, collected.cohort.number
        event = Gaussian(noise_multiplier=self._aggregator.noise_multiplier)
        # A further attempt falls on the same clients: whoever takes part pays for it whole, by no public coin.
        whole = mechanism.sampled(training, event) if attempt == 0 else mechanism.in_client(training, event)
        self._write(
            collected,
            whole,
            attempt,
            local_steps=training.local_steps,
            local_divisor=local_divisor(self._plan),
            realised_examples=np.count_nonzero(collected.audit.members, axis=1).tolist(),
            noise_stddev=self._aggregator.noise_stddev,
            release_sha256=collected.digest,
        )
        self._recorded.add(number, collected.digest)


class _Notes:
    """Collects what the auditor sees of a round, block by block."""

    def __init__(self, plan: Plan, task: LocalTask) -> None:
        count, people = plan.canaries.count, plan.population.clients
        self._task, self._fakes = task, Holdings.of(task.canaries.client, clients=people)
        self._observed = np.zeros((task.steps, count), dtype=np.float32)
        self._members = np.zeros((task.steps, plan.population.units), dtype=np.bool_)
        self.canaries = np.zeros((task.steps, count), dtype=np.bool_)
        self._noise = np.full(people, np.nan)
        self._sum: Vector | None = None
        self._summed = 0

    def take(self, block: LocalBlock, units: NDArray[np.int64], *, noise_scale: float) -> None:
        """Take down a block of which the updates of `units` were accepted."""
        task = self._task
        self._members[block.members[:, 0], block.members[:, 1]] = True
        client, step, place, canary = canaries_in(block.batches, self._fakes)
        self._observed[step, canary] = block.seen[client, step, place]
        drawn = block.batches.canaries[client, step, place]
        self.canaries[step, canary] = drawn & task.canaries.coins[canary]
        rows, sums, known = block.rows, block.sums, block.units
        if units.size < known.size:
            kept = np.isin(known, units)
            rows, sums, known = rows[kept], sums[kept], known[kept]
        if not known.size:
            return
        noise = np.multiply(rows, np.float32(-noise_scale))
        np.subtract(noise, sums, out=noise)
        np.divide(noise, np.float32(task.mechanism.clip_norm), out=noise)
        self._noise[known] = _sums_of_squares(noise) / task.steps
        together = noise.sum(axis=0, dtype=np.float64)
        self._sum = together if self._sum is None else self._sum + together
        self._summed += known.size

    def result(self, sent: Bools) -> LocalRound:
        """Return what was taken down; `sent` (K,) are the clients that answered."""
        of_sum = np.nan if self._sum is None else float(self._sum @ self._sum) / self._summed / self._task.steps
        return LocalRound(
            observed=self._observed, members=self._members, canaries=self.canaries, clients=sent, noise=self._noise,
            noise_of_sum=of_sum,
        )  # fmt: skip


def _sums_of_squares(rows: NDArray[np.float32]) -> Vector:
    """Return the sum of squares of each row; in float64 where float32, which takes half the time, is too small."""
    with np.errstate(over="ignore"):
        found = np.einsum("ij,ij->i", rows, rows)
    if not np.isfinite(found).all():
        found = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return np.asarray(found, np.float64)


def local_divisor(plan: Plan) -> float:
    """Return q N / K, which every noised sum on a device is divided by: fixed and public, never a realised batch."""
    population = plan.population
    return plan.training.example_sampling_rate * population.units / population.clients


def make_server(
    plan: Plan,
    *,
    aggregator: Aggregator,
    optimizer: ServerOptimizer,
    weights: Vector,
    ledger: PrivacyLedger,
    on_draw: Callable[[int, int], None] | None = None,
) -> Server:
    """Return the server of the configured algorithm; the arguments are those of `Server`."""
    kind = SiloServer if plan.training.local_steps else Server
    return kind(plan, aggregator=aggregator, optimizer=optimizer, weights=weights, ledger=ledger, on_draw=on_draw)
