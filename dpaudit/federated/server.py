"""The server: it alone owns what privacy rests on.

Cohorts over stable ids, the finite check, the clip, the sum, the noise on the sum, the fixed public denominator, the
optimizer on the noised mean, and the ledger. Engines bring contributions and nothing else.

One round is: `cohort` -> an engine -> `collect` (screen, clip, sum; exact, in memory, never leaves) -> `release`
(noise, ledger line) -> `apply`. What leaves the server is the noised vector only.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dpaudit.events import Event, NoOp, ShuffledBatches
from dpaudit.federated import canaries as canary
from dpaudit.federated import sampling
from dpaudit.federated.aggregation import Aggregator, Noised, State
from dpaudit.federated.canary_families import Family
from dpaudit.federated.canary_sources import Moment
from dpaudit.federated.clipping import NOT_FINITE, Block, ClippedSum, Rejected, SecureSum, screen, screen_sum
from dpaudit.federated.distributed_noise import SharesNoise
from dpaudit.federated.mechanism import released_again, sampled
from dpaudit.federated.optimizers import ServerOptimizer
from dpaudit.federated.replay import WITHHELD, OfRounds, digest_of, noted_rounds, recorded_passes, recorded_rounds
from dpaudit.federated.rounds import Collected, Plan, Release, only_invited
from dpaudit.federated.sampling import Cohort
from dpaudit.ledger import PrivacyLedger

Vector = NDArray[np.float64]
Contribution = Block | ClippedSum | SecureSum
_NAMED = 20


class Server:
    """The server of one run. Its state: `weights` float64 (parameters,), the optimizer's, and `aggregator_state`."""

    def __init__(
        self,
        plan: Plan,
        *,
        aggregator: Aggregator,
        optimizer: ServerOptimizer,
        weights: Vector,
        ledger: PrivacyLedger,
        on_draw: Callable[[int, int], None] | None = None,
    ) -> None:
        """Set up.

        Args:
            plan: what does not change.
            aggregator: clips, sums and noises.
            optimizer: applied to the noised mean.
            weights: initial weights (parameters,).
            ledger: where every release is recorded before it is used; rounds it already holds are replayed.
            on_draw: called with (round, attempt) before each draw of noise.
        """
        self.weights, self.optimizer = weights, optimizer
        self._plan, self._aggregator, self._ledger = plan, aggregator, ledger
        self._shares = aggregator if isinstance(aggregator, SharesNoise) else None  # asked once: it takes 40 us
        self._width = weights.size + plan.canaries.count
        self.aggregator_state: State = aggregator.start(width=self._width, root=plan.root)
        self._on_draw = on_draw or (lambda _number, _attempt: None)
        entries = ledger.entries
        self._recorded = OfRounds(ledger, recorded_rounds, entries=entries)
        self._passes = OfRounds(ledger, recorded_passes, entries=entries)
        self._noted = OfRounds(ledger, noted_rounds, entries=entries)

    def cohort(self, number: int) -> Cohort:
        """Draw the cohort of round `number`, with the canaries among those who may be drawn."""
        plan = self._plan
        return sampling.draw(plan.training, plan.population, root=plan.root, number=number, canaries=plan.all_canaries)

    def _canaries(self, cohort: Cohort) -> NDArray[np.bool_]:
        """Return (m,) which canaries take part: by their own coins of the round, or by the sampler's slots."""
        plan = self._plan
        if cohort.draw is None:
            return canary.takes_part(plan.canaries, plan.training, cohort, root=plan.root)
        first = plan.population.units
        chosen = cohort.draw.chosen[first : first + plan.canaries.count] & plan.canaries.coins
        if plan.canaries.example_level:
            chosen &= cohort.answered[plan.canaries.client]
        return np.asarray(chosen)

    def collect(self, cohort: Cohort, blocks: Iterable[Contribution | Rejected]) -> Collected:
        """Screen, clip and sum the contributions of a cohort and of the canaries that take part.

        A unit counts once: what was not invited or comes again is rejected, as is what `screen` rejects, and what an
        engine reports as failed counts as having come and been rejected.
        """
        plan, parameters = self._plan, self.weights.size
        present = self._canaries(cohort)
        arrived = np.zeros(plan.population.units, dtype=np.bool_)
        clip_norm = self._aggregator.clip_norm_of(self.aggregator_state)
        total = self._clipped_sum(np.zeros((0, parameters), dtype=np.float32))
        accepted = 0
        rejected: list[Rejected] = []
        for block in blocks:
            if isinstance(block, Rejected):
                rejected.append(block)
                arrived[cohort.units[cohort.units == block.unit]] = True
                continue
            part, count, refused = self._accept(block, cohort, arrived)
            total[: part.size] += part
            accepted += count
            rejected += refused
        for block in canary.contributions(plan.canaries, present, parameters=parameters, clip_norm=clip_norm):
            rows, _, unfit = screen(block, width=self._width)
            total += self._clipped_sum(rows)
            rejected += unfit
        took_part = tuple(family.takes_part(plan.training, cohort) for family in plan.families)
        at = Moment(number=cohort.number, weights=self.weights, clip_norm=clip_norm)
        for family, there in zip(plan.families, took_part, strict=True):
            rejected += self._add_family(total, family, np.flatnonzero(there), at)
        if self._shares is not None:  # a device sends zeros with its share in place of what is not fit
            refused_there = sum(item.reason == NOT_FINITE and item.unit >= 0 for item in rejected)
            total = self._shares.with_shares(total, accepted + refused_there)
        return Collected(
            cohort=cohort, total=total, clip_norm=clip_norm, arrived=arrived, accepted=accepted,
            rejected=tuple(rejected), canaries=present, weights=self.weights, families=took_part,
        )  # fmt: skip

    def _add_family(self, total: Vector, family: Family, wanted: NDArray[np.int64], at: Moment) -> list[Rejected]:
        """Add to `total` what canaries of a family contribute, through the gates of all; return what was rejected.

        Their units are numbered as those of the Dirac canaries: -1, -2, ... in the order of the slots.
        """
        last, rejected = self._plan.population.units - family.slot - 1, []
        for block in family.source.contributions(wanted, at):
            refused = [block] if isinstance(block, Rejected) else []
            if not isinstance(block, Rejected):
                part, _, refused = self._summed(block)
                total[: part.size] += part
            rejected += [replace(item, unit=last - item.unit) for item in refused]
        return rejected

    def _clipped_sum(self, rows: NDArray[np.float32]) -> Vector:
        return self._aggregator.clipped_sum(rows, width=self._width, state=self.aggregator_state)

    def _accept(
        self, block: Contribution, cohort: Cohort, arrived: NDArray[np.bool_]
    ) -> tuple[Vector, int, list[Rejected]]:
        """Return the clipped sum of what may be summed of a block, of how many units, and what was rejected.

        Nothing can be taken out of a sum, so that one with a stranger in it is left out whole; and where there are not
        as many rows as units nobody knows whose they are.
        """
        if isinstance(block, SecureSum) or getattr(self._aggregator, "secure", False):
            return self._accept_secure(block, cohort, arrived)
        sent = len(block.rows) if isinstance(block, Block) else len(block.norms)
        if sent != block.units.size:
            return self._left_out(block, f"{sent} contributions for {block.units.size} units")
        if isinstance(block, Block):
            invited, strangers = only_invited(block, cohort, arrived)
            total, accepted, unfit = self._summed(invited)
            return total, accepted, [*strangers, *unfit]
        _, strangers = only_invited(Block(units=block.units, rows=block.norms[:, None]), cohort, arrived)
        if not strangers:
            return self._summed(block)
        return self._left_out(block, f"summed with unit {strangers[0].unit}: {strangers[0].reason}")

    def _accept_secure(
        self, block: Contribution, cohort: Cohort, arrived: NDArray[np.bool_]
    ) -> tuple[Vector, int, list[Rejected]]:
        """Return a sum that came with its noise, where such sums and nothing else are expected."""
        if not isinstance(block, SecureSum) or not getattr(self._aggregator, "secure", False):
            return self._left_out(block, "a sum from secure aggregation, or anything else where one was expected")
        _, strangers = only_invited(
            Block(units=block.units, rows=np.zeros((block.units.size, 1), np.float32)), cohort, arrived
        )
        if strangers:
            return self._left_out(block, f"summed with unit {strangers[0].unit}: {strangers[0].reason}")
        if block.total.shape != (self._width,) or not np.isfinite(block.total).all():
            return self._left_out(
                block, f"a sum of shape {block.total.shape} instead of ({self._width},), or not finite"
            )
        return block.total, block.units.size, []

    def _summed(self, block: Block | ClippedSum) -> tuple[Vector, int, list[Rejected]]:
        """Screen, clip and sum a block; return the sum, of how many rows, and what was rejected."""
        width = self.weights.size
        if isinstance(block, Block):
            rows, _, unfit = screen(block, width=width)
            return self._clipped_sum(rows), len(rows), list(unfit)
        wrong = screen_sum(block, width=width, clip_norm=getattr(self._aggregator, "clip_norm", None))
        if wrong is None:
            return block.total, block.units.size, []
        return self._left_out(block, wrong)

    def _left_out(self, block: Contribution, reason: str) -> tuple[Vector, int, list[Rejected]]:
        rejected = [Rejected(unit=int(unit), reason=reason) for unit in block.units]
        return np.zeros(self.weights.size), 0, rejected

    def release(self, collected: Collected) -> Release:
        """Noise the sum and record the release; a release that the ledger already holds is reproduced, not repeated.

        A replayed round draws the noise that it drew before. If the result has the recorded digest it is the very
        same release, and costs nothing more. If not (another machine, another library: the sum differs in its last
        bits), showing the same noise on another sum would reveal their difference, so the round is noised afresh
        as the next attempt and recorded as one more event, without credit for a sample that is not drawn anew.
        """
        number = collected.cohort.number
        known = self._recorded.of(number)
        if self._shares is not None and (reason := self._shares.too_few(collected.total)):
            return self._withhold(collected, reason)
        for attempt, stated in enumerate(known):
            if stated == WITHHELD:
                continue
            noised = self._noise(collected.total, number, attempt)
            if digest_of(noised.vector) == stated:
                self.aggregator_state = noised.state
                return Release(number=number, attempt=attempt, vector=noised.vector, replayed=True)
        attempt = len(known)
        noised = self._noise(collected.total, number, attempt)
        self._record(collected, noised, attempt)
        self.aggregator_state = noised.state
        return Release(number=number, attempt=attempt, vector=noised.vector, replayed=False)

    def _withhold(self, collected: Collected, reason: str) -> Release:
        """Record that a round releases nothing, once in a row, and so costs nothing.

        That it does not is public: it depends on who answered, which does not depend on data.
        """
        number = collected.cohort.number
        known = self._recorded.of(number)
        attempt, replayed = len(known), known[-1:] == [WITHHELD]
        if replayed:
            attempt -= 1
        else:
            self._write(collected, NoOp(), attempt, withheld=reason)
            self._recorded.add(number, WITHHELD)
        vector = np.zeros(self._width)
        return Release(number=number, attempt=attempt, vector=vector, replayed=replayed, withheld=True)

    def _noise(self, total: Vector, number: int, attempt: int) -> Noised:
        self._on_draw(number, attempt)
        return self._aggregator.noised(
            total, state=self.aggregator_state, root=self._plan.root, number=number, attempt=attempt
        )

    def _note_once(self, what: str, number: int, **facts: object) -> None:
        if what not in self._noted.of(number):
            self._ledger.note(what, round=number, **facts)
            self._noted.add(number, what)

    def _record(self, collected: Collected, noised: Noised, attempt: int) -> None:
        number, digest = collected.cohort.number, digest_of(noised.vector)
        event, covered_by = self._event_of(noised, number, attempt)
        facts = {} if covered_by is None else {"covered_by_round": covered_by}
        stddev = noised.noise_stddev
        self._write(collected, event, attempt, noise_stddev=stddev, release_sha256=digest, **facts, **noised.facts)
        self._recorded.add(number, digest)

    def _write(self, collected: Collected, event: Event, attempt: int, **facts: object) -> None:
        """Append the line of a round to the ledger, and first a note of what was rejected in it."""
        cohort, refused = collected.cohort, collected.rejected
        if refused:
            named = [{"unit": item.unit, "reason": item.reason} for item in refused[:_NAMED]]
            self._note_once("contributions rejected before the sum", cohort.number, count=len(refused), first=named)
        self._ledger.record(
            event,
            round=cohort.number,
            **({} if attempt == 0 else {"attempt": attempt}),
            expected=self._plan.denominator,
            realised_clients=int(np.count_nonzero(cohort.answered)),
            realised_units=collected.accepted,
            dropouts=cohort.dropouts,
            rejected=len(refused),
            clip_norm=collected.clip_norm,
            **facts,
        )

    def _event_of(self, noised: Noised, number: int, attempt: int) -> tuple[Event, int | None]:
        """Return the event of a release, and the round whose event pays for it already, if one does.

        A pass over shuffled batches costs what its dearest batch costs, and is recorded with its first release. A later
        round is covered by it if it is like the first; a further attempt is a further release on the same units.
        """
        training = self._plan.training
        if any(stated != WITHHELD for stated in self._recorded.of(number)):
            return released_again(training, noised.event), noised.covered_by
        event = sampled(training, noised.event, slots=self._plan.slots)
        if not isinstance(event, ShuffledBatches):
            return event, noised.covered_by
        if attempt:
            return noised.event, None
        first = number - number % event.batches
        known = self._passes.of(first)
        payer = next((earlier for paid, earlier in known if paid == event), None)
        if payer is not None:
            return NoOp(), payer
        if known:
            return noised.event, None
        self._passes.add(first, (event, number))
        return event, None

    def apply(self, release: Release) -> None:
        """Divide the model's part of the release by the fixed denominator and step the optimizer, if there is one."""
        if release.withheld:
            return
        mean = release.vector[: self.weights.size] / self._plan.denominator
        self.weights = self.optimizer.step(self.weights, self._plan.direction * mean)

    def run_round(
        self, number: int, run_cohort: Callable[[Vector, Cohort], Iterable[Contribution | Rejected]]
    ) -> tuple[Collected, Release]:
        """Do one whole round with an engine's `run_cohort`; return what was collected and released."""
        cohort = self.cohort(number)
        collected = self.collect(cohort, run_cohort(self.weights, cohort))
        release = self.release(collected)
        self.apply(release)
        return collected, release
