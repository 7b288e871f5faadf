"""Was the sampling what the accounting assumes: every unit independently, with the stated rate, in every round?

Shuffled fixed batches, fixed-size draws, buffered shuffles and wrong rates all look alike in the loss curve and
differ by factors in epsilon (Chua et al., arXiv:2403.17673; Annamalai et al., arXiv:2411.10614). The record of who
took part tells them apart without any training.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincc, ndtri

from dpaudit import _validate
from dpaudit.errors import DataError
from dpaudit.records import CheckResult, Status
from dpaudit.verification._counts import Bools, Ints, SamplingCounts, counts_given, counts_of
from dpaudit.verification._cumulants import Law, log_probability_of_modes, repeats_law, squared_deviations
from dpaudit.verification._results import DETECTION, Z_DETECTION, check_level, inconclusive

BLIND_RATE = 0.5
"""A rate check that could not have seen a rate wrong by half is inconclusive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    """One of the four tests: its name, the claimed rate, its share of the significance, the claim it can refute."""

    check: str
    rate: float
    share: float
    refuted: str


def check_sampling(participation: ArrayLike, *, sampling_rate: float, significance: float = 0.01) -> list[CheckResult]:
    """Test a record of participation against Poisson sampling; four two-sided tests with a quarter of the level each.

    * batch size: variance of the batch sizes (fixed sizes have none);
    * rate: the total number of participations (exact binomial);
    * inclusion: variance of the inclusion counts (epochs of shuffled data have next to none);
    * repeats: units taken in two consecutive rounds (buffers and rotations avoid or favour them).

    Args:
        participation: who took part, bool of shape (rounds, units).
        sampling_rate: claimed probability, in (0, 1]; with 1 everything must take part, exactly.
        significance: false-alarm probability of all results together.

    Raises:
        DataError: not two-dimensional.  UsageError: a rate or significance out of range.
    """
    record = _as_bools("participation", participation)
    if record is None or record.size == 0:
        return [_unusable("", record, significance)]
    return check_counts(counts_of(record), sampling_rate=sampling_rate, significance=significance)


def check_two_stage(
    eligible: ArrayLike,
    participation: ArrayLike,
    client_of: ArrayLike,
    *,
    client_rate: float,
    example_rate: float,
    significance: float = 0.01,
) -> list[CheckResult]:
    """Test two-stage sampling: clients by one coin per round, then each of their examples by its own.

    Args:
        eligible: which clients were there, bool of shape (rounds, clients).
        participation: which examples took part, bool of shape (rounds, examples).
        client_of: client of each example, integers in [0, clients), shape (examples,).
        client_rate: probability that a client is there and answers, p (1 - dropout).
        example_rate: probability that an example of a present client takes part.
        significance: false-alarm probability of all results together; each stage gets half.

    Raises:
        DataError: shapes that do not fit.  UsageError: a rate or significance out of range.
    """
    check_level(significance)
    _validate.sampling_rate(client_rate=client_rate, example_rate=example_rate)
    clients, examples = _as_bools("eligible", eligible), _as_bools("participation", participation)
    if clients is None or examples is None or clients.size == 0 or examples.size == 0:
        return [_unusable("", None if examples is None else clients, significance)]
    owner = _owners(client_of, clients, examples)
    half = significance / 2
    strangers = int(np.count_nonzero(examples & ~clients[:, owner]))
    absent = _exact(
        "sampling.eligible",
        strangers,
        "participations of examples whose client was not there",
        significance=significance,
    )
    first = check_counts(counts_of(clients), sampling_rate=client_rate, significance=half, level="client-")
    counts = counts_given(clients, examples, owner)
    return [absent, *first, *check_counts(counts, sampling_rate=example_rate, significance=half, level="example-")]


def check_counts(
    counts: SamplingCounts, *, sampling_rate: float, significance: float = 0.01, level: str = ""
) -> list[CheckResult]:
    """Test counts of participation; see `check_sampling`. `level` ("client-") goes into the names of the results."""
    check_level(significance)
    _validate.sampling_rate(sampling_rate=sampling_rate)
    prefix = f"sampling.{level}"
    opportunities = int(counts.batch_trials.sum())
    if opportunities == 0:
        return [inconclusive(f"{prefix}rate", "nobody could take part in any round.", significance=significance)]
    if sampling_rate == 1:
        missing = opportunities - int(counts.batch_sizes.sum())
        return [
            _exact(
                f"{prefix}everything",
                missing,
                "missing participations, although the rate is 1",
                significance=significance,
            )
        ]

    def test(name: str) -> _Test:
        refuted = f"Poisson sampling with rate {sampling_rate:.6g}"
        return _Test(check=prefix + name, rate=sampling_rate, share=significance / 4, refuted=refuted)

    return [
        _batch_size(test("batch-size"), counts),
        _rate(test("rate"), int(counts.batch_sizes.sum()), opportunities),
        _inclusion(test("inclusion"), counts),
        _repeats(test("repeats"), counts),
    ]


def _as_bools(name: str, values: ArrayLike) -> Bools | None:
    """Return a two-dimensional bool array; None when it holds anything but 0 and 1; raise DataError for its shape."""
    array = np.asarray(values)
    if array.ndim != 2:
        raise DataError(f"{name} must have shape (rounds, units); got {array.shape}.")
    if array.dtype == np.bool_:
        return array
    binary = np.issubdtype(array.dtype, np.number) and bool(((array == 0) | (array == 1)).all())
    return array.astype(np.bool_) if binary else None


def _owners(client_of: ArrayLike, clients: Bools, examples: Bools) -> Ints:
    owner = np.asarray(client_of)
    if len(clients) != len(examples) or owner.shape != (examples.shape[1],):
        raise DataError(
            "eligible (rounds, clients), participation (rounds, examples) and client_of (examples,) do not fit: "
            f"{clients.shape}, {examples.shape}, {owner.shape}."
        )
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < 0 or owner.max() >= clients.shape[1]:
        raise DataError(f"client_of must hold whole numbers in [0, {clients.shape[1]}), the clients of eligible.")
    return owner.astype(np.int64)


def _unusable(level: str, record: Bools | None, significance: float) -> CheckResult:
    reason = "the record is empty." if record is not None else "the record holds NaN or values other than 0 and 1."
    return inconclusive(f"sampling.{level}record", reason, significance=significance)


def _exact(check: str, violations: int, what: str, *, significance: float) -> CheckResult:
    """Return the result of a condition that must hold without exception."""
    status = Status.FAIL if violations else Status.PASS
    return CheckResult(
        id=check,
        status=status,
        statistic=float(violations),
        threshold=0.0,
        detail=f"{violations} {what}.",
        refuted="the claimed sampler" if violations else None,
        significance=significance,
    )


def _two_sided(
    test: _Test,
    p_value: float,
    *,
    statistic: float,
    threshold: float,
    detail: str,
    minimum_detectable: float | None,
    blind: str | None,
    n: int,
) -> CheckResult:
    """Return the result of a two-sided test; `blind` says why it could not have seen the fault it looks for."""
    status = Status.FAIL if p_value < test.share else Status.PASS
    if status == Status.PASS and blind is not None:
        status, detail = Status.INCONCLUSIVE, f"{blind}; {detail}"
    return CheckResult(
        id=test.check,
        status=status,
        statistic=statistic,
        threshold=threshold,
        p_value=p_value,
        detail=detail,
        minimum_detectable=minimum_detectable,
        refuted=test.refuted if status == Status.FAIL else None,
        significance=test.share,
        n=n,
    )


def _limit(law: Law, statistic: float, share: float) -> float:
    """Return the critical value on the side of the statistic."""
    return law.quantile(share / 2) if statistic < law.mean else law.quantile(1 - share / 2)


def _spread(test: _Test, values: Ints, trials: Ints, detail: str, *, broken: float, blind: str) -> CheckResult:
    """Test a sum of squared deviations, two-sided; `broken` is what the sampler that it looks for would give."""
    statistic, law = squared_deviations(values, trials, test.rate)
    floor = math.exp(log_probability_of_modes(trials, test.rate))  # no lower p-value is smaller than this
    p_value = min(1.0, 2 * min(max(law.below(statistic), floor), law.above(statistic)))
    unseen = 2 * max(law.below(broken), floor) >= test.share
    return _two_sided(
        test,
        p_value,
        statistic=statistic,
        threshold=_limit(law, statistic, test.share),
        detail=f"{detail.format(statistic / law.mean, broken / law.mean)}; minimum_detectable is a relative reduction "
        "of that variance.",
        minimum_detectable=None if unseen else max(0.0, 1 - law.quantile(test.share / 2) / law.quantile(DETECTION)),
        blind=blind if unseen else None,
        n=len(values),
    )


def _batch_size(test: _Test, counts: SamplingCounts) -> CheckResult:
    return _spread(
        test,
        counts.batch_sizes,
        counts.batch_trials,
        f"variance of {len(counts.batch_sizes)} batch sizes {{:.3g}} of the binomial one (fixed sizes: about {{:.2g}})",
        broken=0.0,
        blind="too few rounds to tell fixed batch sizes from random ones",
    )


def _inclusion(test: _Test, counts: SamplingCounts) -> CheckResult:
    # Epochs of shuffled data: after n rounds each unit was taken floor(n p) times or once more.
    expected = counts.inclusion_trials[counts.inclusion_trials > 0] * test.rate
    part = expected - np.floor(expected)
    shuffled = float((part * (1 - part) / (expected * (1 - test.rate))).sum())
    return _spread(
        test,
        counts.inclusions,
        counts.inclusion_trials,
        f"variance of {len(counts.inclusions)} inclusion counts {{:.3g}} of the binomial one "
        "(shuffled epochs: about {:.2g})",
        broken=shuffled,
        blind="too few rounds to tell shuffled epochs from independent draws",
    )


def _rate(test: _Test, total: int, trials: int) -> CheckResult:
    """Test the total, binomial exactly; a higher rate costs privacy, a lower one is not what was claimed either."""
    rate, measured = test.rate, total / trials
    at_most = float(betaincc(total + 1.0, trials - total, rate)) if total < trials else 1.0
    at_least = float(betainc(total, trials - total + 1.0, rate)) if total > 0 else 1.0
    z, spread = float(-ndtri(test.share / 2)), math.sqrt((1 - rate) / (trials * rate))
    detectable = (z + Z_DETECTION) * spread
    return _two_sided(
        test,
        min(1.0, 2 * min(at_most, at_least)),
        statistic=measured,
        threshold=rate * (1 + math.copysign(z * spread, measured - rate)),
        detail=f"rate {measured:.6g} of {trials} opportunities, claimed {rate:.6g}; minimum_detectable is a relative "
        "error of the rate.",
        minimum_detectable=detectable,
        blind="too few opportunities to see a rate wrong by half" if detectable > BLIND_RATE else None,
        n=trials,
    )


def _repeats(test: _Test, counts: SamplingCounts) -> CheckResult:
    law = repeats_law(counts.inclusion_trials, test.rate)
    if law.variance <= 0:
        reason = "no unit had two opportunities: repeats cannot be counted."
        return inconclusive(test.check, reason, significance=test.share)
    # The count is whole: a continuity correction on both sides.
    p_value = min(1.0, 2 * min(law.below(counts.repeats + 0.5), law.above(counts.repeats - 0.5)))
    unseen = 2 * law.below(0.5) >= test.share
    return _two_sided(
        test,
        p_value,
        statistic=float(counts.repeats),
        threshold=_limit(law, counts.repeats, test.share),
        detail=f"{counts.repeats} units taken twice in a row, {law.mean:.5g} expected; minimum_detectable is a "
        "relative change of that number.",
        minimum_detectable=(float(-ndtri(test.share / 2)) + Z_DETECTION) * math.sqrt(law.variance) / law.mean,
        blind="too few repeats expected to notice their absence" if unseen else None,
        n=int(counts.inclusion_trials.sum()),
    )
