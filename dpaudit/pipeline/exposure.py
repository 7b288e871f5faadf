"""Who is hit hardest: groups of people, and single records, with intervals that hold together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.attacks.membership import split
from dpaudit.errors import DataError
from dpaudit.estimation.auc import exact_auc, exact_interval
from dpaudit.estimation.binomial import upper_limit
from dpaudit.records import CheckResult, Status

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHECK_ID = "attack.worst_group"
CLAIM = "the proven epsilon holds for every record, and so for every group of them"
EVERYONE, CLIENT = "everyone", "client"
FEWEST = 10
"""Members, and non-members, below which a group is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """The AUC of one attack inside one group, with an interval that holds together with those of all others.

    `auc` is None, with a reason, for a group with fewer than 10 members or non-members.
    """

    attack: str
    grouping: str
    group: str
    n_member: int
    n_non_member: int
    auc: float | None
    auc_ci: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedRecord:
    """A member whose score few non-members reach.

    `p_value` is conformal: P[a non-member scores as high] if the record were no member, exact. `fpr_upper` is the upper
    confidence limit (one-sided) of the false-positive rate at which the record is found. `discovered` says that it
    is on the list whose false-discovery rate is controlled.
    """

    attack: str
    index: int
    score: float
    p_value: float
    fpr_upper: float
    discovered: bool


def group_results(
    scores: Mapping[str, Floats],
    is_member: Bools,
    groupings: Mapping[str, NDArray[np.generic]],
    *,
    significance: float = 0.05,
) -> tuple[GroupResult, ...]:
    """Return the AUC of every attack in every group, and in everyone, with simultaneous intervals.

    The intervals hold at any sample size and for any distribution of scores (`estimation.auc.exact_interval`), each at
    1 - significance / (number of intervals): all of them hold together with probability 1 - significance.

    Args:
        scores: attack to scores, each (units,).
        is_member: membership (units,).
        groupings: name (class, client, ...) to the group of each unit, (units,).
        significance: family-wise error probability.

    Raises: DataError when shapes differ.
    """
    _validate.open_unit_interval(significance=significance)
    groups = {(EVERYONE, ""): np.arange(len(is_member))}
    for name, values in groupings.items():
        if values.shape != is_member.shape:
            raise DataError(f"the grouping {name!r} must name a group for each of {len(is_member)} units.")
        groups |= {(name, group): inside for group, inside in _split_by(values)}
    members = {key: int(is_member[inside].sum()) for key, inside in groups.items()}
    sizes = {key: (members[key], inside.size - members[key]) for key, inside in groups.items()}
    judged = sum(min(size) >= FEWEST for size in sizes.values()) * len(scores)
    found = []
    for attack, values in scores.items():
        for key, inside in groups.items():
            own = None
            if min(sizes[key]) >= FEWEST:
                own = split(values[inside], is_member[inside])
            found.append(
                GroupResult(
                    attack=attack,
                    grouping=key[0],
                    group=key[1],
                    n_member=sizes[key][0],
                    n_non_member=sizes[key][1],
                    auc=None if own is None else exact_auc(own),
                    auc_ci=None if own is None else exact_interval(own, 1 - significance / judged),
                    reason=f"fewer than {FEWEST} members or non-members" if own is None else None,
                )
            )
    return tuple(found)


def _split_by(values: NDArray[np.generic]) -> list[tuple[str, NDArray[np.intp]]]:
    """Return each group with the indices of its units; together as long as `values`, however many groups."""
    names, of, counts = np.unique(values, return_inverse=True, return_counts=True)
    inside = np.split(np.argsort(of, kind="stable"), np.cumsum(counts)[:-1])
    return list(zip(map(str, names), inside, strict=True))


def worst_group(
    results: Sequence[GroupResult], auc_ceiling: float | None, *, significance: float = 0.05
) -> CheckResult:
    """Judge the groups: does a lower limit exceed what the proven epsilon allows for anybody?

    Returns: the check `attack.worst_group`; its fields are documented in docs/attacks.md.
    """
    judged = [result for result in results if result.auc is not None and result.auc_ci is not None]
    if not judged:
        reason = "no attack gave scores for a group with at least 10 members and 10 non-members"
        return CheckResult(id=CHECK_ID, status=Status.INCONCLUSIVE, detail=reason, significance=significance)
    worst = max(judged, key=_lower)
    above = auc_ceiling is not None and _lower(worst) > auc_ceiling
    status = Status.INCONCLUSIVE if auc_ceiling is None else Status.FAIL if above else Status.PASS
    low, high = worst.auc_ci or (0.0, 1.0)
    # The detail is published with the report, and a client is somebody.
    shown = "" if worst.grouping in (EVERYONE, CLIENT) else f" {worst.group}"
    named = ("one " if worst.grouping == CLIENT else "") + worst.grouping + shown
    limit = (
        "no epsilon is proven to compare with"
        if auc_ceiling is None
        else f"the proven epsilon allows {auc_ceiling:.4f}"
    )
    detail = (
        f"{worst.attack} against {named}: AUC {worst.auc:.4f} [{low:.4f}, {high:.4f}]; {limit}. "
        f"{len(judged)} groups and attacks judged together, {len(results) - len(judged)} left out as too small."
    )
    return CheckResult(
        id=CHECK_ID,
        status=status,
        statistic=low,
        threshold=auc_ceiling,
        detail=detail,
        refuted=CLAIM if above else None,
        significance=significance,
        n=worst.n_member + worst.n_non_member,
    )


def _lower(result: GroupResult) -> float:
    return result.auc_ci[0] if result.auc_ci is not None else 0.0


def exposed_records(
    scores: Mapping[str, Floats], is_member: Bools, *, false_discovery_rate: float = 0.1, confidence: float = 0.95,
    most: int = 20,
) -> tuple[ExposedRecord, ...]:  # fmt: skip
    """Return the most exposed members under each attack, and which of them are certain.

    The p-values are conformal (exact under exchangeability with the non-members); Benjamini and Hochberg's procedure on
    them controls the false-discovery rate (Bates et al., arXiv:2104.08279, theorem 2), over the members of one
    attack, with the rate divided among the attacks.

    Args:
        scores: attack to scores (units,).
        is_member: membership (units,).
        false_discovery_rate: expected share of false names on all lists together.
        confidence: of the one-sided limits `fpr_upper`, each by itself.
        most: members to return per attack.
    """
    _validate.open_unit_interval(false_discovery_rate=false_discovery_rate, confidence=confidence)
    found = []
    for attack, values in scores.items():
        member, others = np.flatnonzero(is_member), np.sort(values[~is_member])
        reached = others.size - np.searchsorted(others, values[member], "left")
        p = (1 + reached) / (1 + others.size)
        limit = _benjamini_hochberg(p, false_discovery_rate / len(scores))
        found += [
            ExposedRecord(
                attack=attack,
                index=int(member[at]),
                score=float(values[member[at]]),
                p_value=float(p[at]),
                fpr_upper=upper_limit(int(reached[at]), others.size, 1 - confidence),
                discovered=bool(p[at] <= limit),
            )
            for at in np.lexsort((-values[member], p))[:most]
        ]
    return tuple(found)


def _benjamini_hochberg(p: Floats, rate: float) -> float:
    """Return the largest p-value on the list, or 0."""
    ordered = np.sort(p)
    fits = np.flatnonzero(ordered <= rate * np.arange(1, p.size + 1) / p.size)
    return float(ordered[fits[-1]]) if fits.size else 0.0
