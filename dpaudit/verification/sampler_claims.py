"""Recorded batches against the sampler that the events of a ledger are accounted with.

Poisson sampling goes to `check_counts`; fixed-size samples without replacement and epochs of shuffled batches have
their own laws here. A sampler that looks like the claimed one and is not (the same batches in every epoch, fixed sizes
for Poisson) has another epsilon, often a far larger one (Annamalai et al., arXiv:2411.10614).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit import events as ev
from dpaudit.errors import DataError, UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import CheckResult, Status
from dpaudit.verification._counts import counts_of_batches
from dpaudit.verification._cumulants import Law
from dpaudit.verification._results import DETECTION, check_level, inconclusive
from dpaudit.verification.sampling import check_counts

Batches = Sequence[NDArray[np.int64]]
Sampler = ev.PoissonSampled | ev.SampledWithoutReplacement | ev.ShuffledBatches

_PERMUTATIONS = 999


def claimed_sampler(ledger: PrivacyLedger) -> Sampler:
    """Return the one sampler that all events of a ledger take credit for.

    Raises: DataError when events differ, or none says; UsageError for a sampler that no record of batches can test.
    """
    found = {repr(sampler): sampler for entry in ledger.events() for sampler in [_sampler(entry.event)]}
    if len(found) != 1:
        raise DataError(f"the ledger must claim one sampler for all its events; it claims {len(found)}.")
    ((_, sampler),) = found.items()
    if sampler is None:
        raise UsageError("the ledger takes no credit for sampling, or for one that batches cannot test (two stages).")
    return sampler


def _sampler(event: ev.Event | None) -> Sampler | None:
    """Return the sampler around the noise of an event, the noise itself left out; None where there is none."""
    if isinstance(event, ev.SelfComposed):
        return _sampler(event.event)
    if isinstance(event, ev.PoissonSampled):
        return ev.PoissonSampled(sampling_rate=event.sampling_rate, event=ev.NoOp())
    if isinstance(event, ev.SampledWithoutReplacement):
        return ev.SampledWithoutReplacement(population=event.population, sample_size=event.sample_size, event=ev.NoOp())
    if isinstance(event, ev.ShuffledBatches):
        return ev.ShuffledBatches(event=ev.NoOp(), batches=event.batches)
    return None


def check_sampler(
    batches: Batches, *, population: int, sampler: Sampler, significance: float = 0.01, seed: int = 0
) -> list[CheckResult]:
    """Test recorded batches against a claimed sampler.

    Args:
        batches: indices in 0..population-1 of the units in each batch, in order.
        population: number of units.
        sampler: PoissonSampled, SampledWithoutReplacement or ShuffledBatches; the event inside does not matter.
        significance: false-alarm probability of all results together.
        seed: of the permutation test of shuffled epochs.

    Raises:
        DataError: indices out of range or twice in a batch.  UsageError: a sampler that is none of the three.
    """
    check_level(significance)
    if isinstance(sampler, ev.PoissonSampled):
        counts = counts_of_batches(batches, population)
        return check_counts(counts, sampling_rate=sampler.sampling_rate, significance=significance)
    if isinstance(sampler, ev.SampledWithoutReplacement):
        return _without_replacement(batches, population, sampler, significance)
    if isinstance(sampler, ev.ShuffledBatches):
        return _shuffled(batches, population, sampler, significance, seed)
    raise UsageError(f"no record of batches can test {type(sampler).__name__}.")


def _exact(name: str, wrong: int, what: str, refuted: str, n: int) -> CheckResult:
    return CheckResult(
        id=f"sampling.{name}",
        status=Status.FAIL if wrong else Status.PASS,
        statistic=float(wrong),
        threshold=0.0,
        detail=f"{wrong} of {n} {what}; minimum_detectable is their number.",
        minimum_detectable=1.0,
        refuted=refuted if wrong else None,
        n=n,
    )


# Fixed size without replacement


def _overlap_law(population: int, size: int, pairs: float, triples: float) -> Law:
    """Return the law of the sum of overlaps over pairs of independent samples of fixed size.

    Overlaps of two samples are hypergeometric and pairwise independent, which gives mean and variance; with the
    centred indicators v of covariance c I, E[<v1,v2><v2,v3><v3,v1>] = (N - 1) c^3 gives the third cumulant.
    """
    n, p = population, size / population
    c = size * (1 - p) / (n - 1)
    variance = (n - 1) * c**2
    third = variance * (n - 2 * size) ** 2 / (n * (n - 2)) if n > 2 else 0.0
    return Law(pairs * size * p, pairs * variance, pairs * third + 6 * triples * (n - 1) * c**3)


def _without_replacement(
    batches: Batches, population: int, sampler: ev.SampledWithoutReplacement, significance: float
) -> list[CheckResult]:
    size, rounds = sampler.sample_size, len(batches)
    refuted = f"samples of {size} out of {sampler.population} without replacement"
    if population != sampler.population:
        raise DataError(f"the record has {population} units, the claim {sampler.population}.")
    counts = counts_of_batches(batches, population)
    wrong = int(np.count_nonzero(counts.batch_sizes != size))
    fixed = _exact("batch-size", wrong, f"batches do not hold {size} units", refuted, rounds)
    if wrong or size == population:
        return [fixed]
    inclusions = counts.inclusions.astype(np.float64)
    overlaps = float((inclusions**2).sum() - inclusions.sum()) / 2
    pairs, triples = rounds * (rounds - 1) / 2, rounds * (rounds - 1) * (rounds - 2) / 6
    share = significance / 2
    epochs = _fewest_overlaps(population, size, rounds)
    every = _law_test("inclusion", overlaps, _overlap_law(population, size, pairs, triples), share, refuted, epochs)
    law = _overlap_law(population, size, rounds - 1, 0)
    return [fixed, every, _law_test("repeats", float(counts.repeats), law, share, refuted, 0.0)]


def _fewest_overlaps(population: int, size: int, rounds: int) -> float:
    """Return the overlaps of epochs of shuffled data: every unit as often as every other, or once more."""
    each, more = divmod(rounds * size, population)
    return more * (each + 1) * each / 2 + (population - more) * each * (each - 1) / 2


def _law_test(name: str, value: float, law: Law, share: float, refuted: str, broken: float) -> CheckResult:
    """Test a number of units that two batches share, two-sided; `broken` is what shuffled epochs would give."""
    check = f"sampling.{name}"
    if law.variance <= 0:
        return inconclusive(check, "too few batches to compare.", significance=share)
    p_value = min(1.0, 2 * min(law.below(value + 0.5), law.above(value - 0.5)))
    unseen = 2 * law.below(broken + 0.5) >= share
    status = Status.FAIL if p_value < share else Status.INCONCLUSIVE if unseen else Status.PASS
    note = "too few batches to tell independent samples from epochs: " if status == Status.INCONCLUSIVE else ""
    return CheckResult(
        id=check,
        status=status,
        statistic=value,
        threshold=law.quantile(share / 2 if value < law.mean else 1 - share / 2),
        p_value=p_value,
        detail=f"{note}batches share {value:.6g} units, {law.mean:.6g} expected (epochs: {broken:.6g}); "
        "minimum_detectable is a relative change of that number.",
        minimum_detectable=(law.quantile(DETECTION) - law.quantile(share / 2)) / law.mean if law.mean > 0 else None,
        refuted=refuted if status == Status.FAIL else None,
        significance=share,
    )


# Epochs of shuffled batches


def _shuffled(
    batches: Batches, population: int, sampler: ev.ShuffledBatches, significance: float, seed: int
) -> list[CheckResult]:
    """Each epoch must be a partition, and a fresh one."""
    per, refuted = sampler.batches, f"epochs of {sampler.batches} freshly shuffled batches"
    epochs = [batches[start : start + per] for start in range(0, len(batches) - per + 1, per)]
    if not epochs:
        return [inconclusive("sampling.epochs", f"fewer than one epoch of {per} batches.", significance=significance)]
    counts_of_batches(batches, population)  # refuses what is no record
    wrong = sum(len(np.unique(np.concatenate(epoch))) != sum(map(len, epoch)) for epoch in epochs)
    partition = _exact("epochs", wrong, "epochs hold a unit twice", refuted, len(epochs))
    if len(epochs) < 2 or per < 2:
        few = inconclusive("sampling.shuffle", "fewer than two epochs to compare.", significance=significance)
        return [partition, few]
    return [partition, _fresh(epochs, population, refuted, significance, seed)]


def _fresh(epochs: Sequence[Batches], population: int, refuted: str, significance: float, seed: int) -> CheckResult:
    """Test that batches of consecutive epochs are independent: a permutation test of their squared overlaps.

    Batches that stay together from epoch to epoch share all their units or none. Under fresh shuffles the units of
    the later epoch are exchangeable, so the p-value is exact whatever the sizes.
    """
    labels = [_labels(epoch, population) for epoch in epochs]
    rng = _rng.stream(seed, "shuffle-test")
    per = len(epochs[0])
    observed = sum(_alike(a, b, per) for a, b in pairwise(labels))
    repeats = min(_PERMUTATIONS, max(199, int(5e7 / (population * len(epochs)))))
    above = below = 1
    for _ in range(repeats):
        other = sum(_alike(a, rng.permutation(a), per) for a in labels[:-1])
        above, below = above + (other >= observed), below + (other <= observed)
    p_value = min(1.0, 2 * min(above, below) / (repeats + 1))
    least = 2 / (repeats + 1)
    status = Status.FAIL if p_value <= significance else Status.PASS
    if status == Status.PASS and (least > significance or population < 2 * per):
        status = Status.INCONCLUSIVE
    return CheckResult(
        id="sampling.shuffle",
        status=status,
        statistic=float(observed),
        p_value=p_value,
        detail=f"{len(epochs)} epochs: units that stay together from one epoch to the next, against {repeats} fresh "
        "shuffles.",
        refuted=refuted if status == Status.FAIL else None,
        significance=significance,
        n=len(epochs),
    )


def _labels(epoch: Batches, population: int) -> NDArray[np.int64]:
    """Return the batch of each unit; units that are in none share a label."""
    labels = np.full(population, len(epoch), dtype=np.int64)
    for number, batch in enumerate(epoch):
        labels[batch] = number
    return labels


def _alike(before: NDArray[np.int64], after: NDArray[np.int64], per: int) -> float:
    """Return the sum of squared overlaps between the batches of two epochs, plus those of batches with one number.

    The first shows batches that travel together, the second an order that hardly changes.
    """
    together = before * (per + 1) + after
    table = np.bincount(together) if per**2 <= 4 * len(before) else np.unique(together, return_counts=True)[1]
    return float((table.astype(np.float64) ** 2).sum() + math.sqrt(len(before)) * np.count_nonzero(before == after))
