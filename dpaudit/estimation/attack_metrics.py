"""What an attack achieved: AUC, true-positive rates at low false-positive rates, advantage, with uncertainties."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import bdtr

from dpaudit import _validate
from dpaudit._rng import stream
from dpaudit.estimation.auc import delong_interval, exact_auc, exact_interval
from dpaudit.estimation.binomial import lower_limit, upper_limit
from dpaudit.records import AttackResult, RatePoint, Scalar, ScoreSet


def _threshold(ordered: np.ndarray, allowed: int) -> float:
    """Return the lowest threshold ("member" is above it) that at most `allowed` of the scores exceed."""
    return float(ordered[ordered.size - 1 - allowed])


def _rank_limits(n: int, rate: float, error: float) -> tuple[int, int]:
    """Return ranks (high, low) between whose scores the true threshold at `rate` lies, each missing it by <= error.

    With K ~ Bin(n, rate) scores above the true threshold: the rank-j largest score is below it iff K < j.
    """
    counts = np.arange(0, n + 1)
    cdf = bdtr(counts, n, rate)
    # Largest j with P[K < j] <= error: the j-th largest score is at or above the threshold except with that chance.
    high = int(np.searchsorted(cdf, error, "right"))
    # Smallest j with P[K >= j] <= error: the j-th largest is at or below it except with that chance.
    low = int(np.searchsorted(cdf, 1 - error, "left")) + 1
    return high, min(low, n + 1)


def tpr_at_fpr(scores: ScoreSet, fpr: float, confidence: float = 0.95) -> RatePoint:
    """Return the true-positive rate at the threshold whose empirical false-positive rate is at most `fpr`.

    The interval is for the true-positive rate at the threshold where the *true* false-positive rate is `fpr`; it
    counts the uncertainty of that threshold and of the rate above it: the threshold lies between two order
    statistics of the non-members (binomial ranks, a quarter of the error each), and at those two thresholds the
    rate has Clopper-Pearson limits (a quarter each). Exact, by the union bound, at any sample size.

    Returns: `tpr` None with a reason when there are fewer than 1 / fpr non-members, or no members.

    Raises: UsageError unless 0 < fpr < 1 and 0 < confidence < 1.
    """
    _validate.open_unit_interval(fpr=fpr, confidence=confidence)
    n1, n0 = scores.member.size, scores.non_member.size
    if n1 == 0:
        return RatePoint(fpr=fpr, tpr=None, reason="there are no scores of members")
    if n0 < 1 / fpr * (1 - 1e-9):
        reason = (
            f"{n0} non-members cannot resolve a false-positive rate of {fpr:g}; at least {round(1 / fpr)} are needed"
        )
        return RatePoint(fpr=fpr, tpr=None, reason=reason)
    ordered, member = np.sort(scores.non_member), np.sort(scores.member)
    above = n1 - int(np.searchsorted(member, _threshold(ordered, int(fpr * n0 + 1e-9)), "right"))
    return RatePoint(fpr=fpr, tpr=above / n1, ci=_tpr_interval(member, ordered, fpr, 1 - confidence))


def _tpr_interval(member: np.ndarray, ordered: np.ndarray, fpr: float, error: float) -> tuple[float, float]:
    n1, n0 = member.size, ordered.size
    high, low = _rank_limits(n0, fpr, error / 4)
    sure = n1 - int(np.searchsorted(member, ordered[n0 - high], "right")) if high >= 1 else 0
    possible = n1 - int(np.searchsorted(member, ordered[n0 - low], "left")) if low <= n0 else n1
    return lower_limit(sure, n1, error / 4), upper_limit(possible, n1, error / 4)


def _cross_fitted(scores: ScoreSet, rng: np.random.Generator) -> tuple[float, float] | None:
    """Return (TPR, FPR) of the best threshold of one half, judged on the other half; mean over both ways."""
    member, other = rng.permutation(scores.member), rng.permutation(scores.non_member)
    half1, half0 = member.size // 2, other.size // 2
    if min(half1, half0) == 0:
        return None
    parts = [(member[:half1], other[:half0]), (member[half1:], other[half0:])]
    rates = []
    for (choose1, choose0), (judge1, judge0) in (parts, parts[::-1]):
        threshold = _youden_threshold(np.sort(choose1), np.sort(choose0))
        rates.append((float(np.mean(judge1 > threshold)), float(np.mean(judge0 > threshold))))
    return float(np.mean([r[0] for r in rates])), float(np.mean([r[1] for r in rates]))


def _youden_threshold(member: np.ndarray, other: np.ndarray) -> float:
    """Return the midpoint of the gap below which TPR - FPR is largest."""
    pooled = np.unique(np.concatenate([member, other]))
    edges = np.concatenate([[pooled[0] - 1.0], (pooled[1:] + pooled[:-1]) / 2])
    tpr = 1 - np.searchsorted(member, edges, "right") / member.size
    fpr = 1 - np.searchsorted(other, edges, "right") / other.size
    return float(edges[int(np.argmax(tpr - fpr))])


def summarise_attack(
    scores: ScoreSet,
    *,
    attack: str,
    threat_model: str,
    fprs: Sequence[float] = (0.1, 0.01, 0.001),
    confidence: float = 0.95,
    seed: int = 0,
    details: Mapping[str, Scalar] | None = None,
) -> AttackResult:
    """Return the metrics of an attack from its scores (higher: more likely a member).

    AUC: exact, with DeLong's interval on the logit scale (`details["auc_interval"]` names it), and in the details one
    that holds at any sample size (`auc_exact_low`, `auc_exact_high`; see `exact_interval`). TPR at FPR: see
    `tpr_at_fpr`. Balanced accuracy and advantage (TPR - FPR): threshold chosen on a random half and judged on the
    other, both ways, so that they are not inflated by the choice; they can come out slightly below chance.

    Args:
        scores: Of members and non-members.
        attack: Name of the attack.
        threat_model: What the attacker sees.
        fprs: False-positive rates to report.
        confidence: Two-sided, of every interval, in (0, 1).
        seed: Of the random halves.
        details: Facts to carry along.

    Returns: `auc` None with a reason when a side is empty.

    Raises: UsageError for rates or a confidence outside (0, 1).
    """
    _validate.open_unit_interval(confidence=confidence)
    n1, n0 = int(scores.member.size), int(scores.non_member.size)
    crossed = _cross_fitted(scores, stream(seed, "estimation/attack-metrics"))
    advantage = None if crossed is None else crossed[0] - crossed[1]
    empty = min(n1, n0) == 0
    low, high = (None, None) if empty else exact_interval(scores, confidence)
    facts = {"auc_interval": "delong-logit", "auc_exact_low": low, "auc_exact_high": high, "threshold": "cross-fitted"}
    return AttackResult(
        attack=attack,
        threat_model=threat_model,
        auc=None if empty else exact_auc(scores),
        auc_ci=None if empty else delong_interval(scores, confidence),
        tpr_at_fpr=tuple(tpr_at_fpr(scores, fpr, confidence) for fpr in fprs),
        balanced_accuracy=None if advantage is None else (1 + advantage) / 2,
        advantage=advantage,
        confidence=confidence,
        n_member=n1,
        n_non_member=n0,
        seed=seed,
        reason=f"there are no scores of {'members' if n1 == 0 else 'non-members'}" if empty else None,
        details={**facts, **(details or {})},
    )
