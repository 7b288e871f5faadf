"""What one call of `estimate` asks, and the making of its answer."""

from collections.abc import Mapping
from dataclasses import dataclass

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.estimation.curves import CurveFamily
from dpaudit.estimation.rules import interest_of_group
from dpaudit.estimation.selection import Selection
from dpaudit.estimation.sources import Source
from dpaudit.records import (
    Assumption,
    AssumptionStatus,
    Bound,
    BoundStatus,
    Direction,
    Family,
    Relation,
    Scalar,
)

WITHOUT_THRESHOLD = ("mean-shift", "one-shot", "per-step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The request, checked. `error` is 1 - confidence; `declared` holds ids of assumptions the caller vouches for."""

    method: str
    source: Source
    delta: float
    confidence: float
    selection: Selection
    group_size: int
    relation: Relation
    seed: int
    declared: frozenset[str]
    curve: "str | CurveFamily"
    options: Mapping[str, float]

    @property
    def error(self) -> float:
        """One-sided error probability."""
        return 1 - self.confidence

    @property
    def interest(self) -> float:
        """Epsilon, of the whole group, for which a planned choice is made."""
        return interest_of_group(self.selection.interest, self.delta, self.group_size)

    @property
    def members(self) -> int:
        """Number of member scores."""
        return self.source.members

    @property
    def non_members(self) -> int:
        """Number of non-member scores."""
        return self.source.non_members

    @property
    def canaries(self) -> int:
        """Number of scores on both sides."""
        return self.members + self.non_members


def check_request(delta: float, confidence: float, group_size: int, curve: "str | CurveFamily" = "eps-delta") -> None:
    """Raise UsageError unless the numbers that every request has are possible."""
    if not 0 <= delta < 1:
        raise UsageError(f"delta must lie in [0, 1); got {delta!r}.")
    _validate.open_unit_interval(confidence=confidence)
    _validate.positive_integer(group_size=group_size)
    if isinstance(curve, str):
        _validate.one_of(("eps-delta", "gaussian"), curve=curve)


def assume(problem: Problem, name: str, text: str, evidence: str | None = None) -> Assumption:
    """Return an assumption that no test looks at: declared by the caller, or not checked."""
    status = AssumptionStatus.DECLARED if name in problem.declared else AssumptionStatus.NOT_CHECKED
    return Assumption(id=name, text=text, status=status, evidence=evidence)


def answer(
    problem: Problem,
    *,
    family: Family,
    epsilon: float | None,
    mu: float | None = None,
    reason: str | None = None,
    assumptions: tuple[Assumption, ...] = (),
    guesses: int | None = None,
    details: Mapping[str, Scalar] | None = None,
) -> Bound:
    """Return the bound; a refuted assumption withdraws the number and leaves it in `details` only."""
    facts: dict[str, Scalar] = dict(details or {})
    refuted = [a for a in assumptions if a.status is AssumptionStatus.REFUTED]
    status = BoundStatus.OK if epsilon is not None else BoundStatus.UNAVAILABLE
    if refuted:
        status, reason = BoundStatus.ASSUMPTION_REFUTED, "; ".join(f"{a.id} refuted ({a.evidence})" for a in refuted)
        facts |= {"epsilon_if_assumed": epsilon, "mu_if_assumed": mu}
        epsilon, mu = None, None
    return Bound(
        method=problem.method,
        family=family,
        direction=Direction.LOWER,
        epsilon=epsilon,
        mu=mu,
        delta=problem.delta,
        relation=problem.relation,
        confidence=problem.confidence,
        n_member=problem.members,
        n_non_member=problem.non_members,
        status=status,
        reason=reason,
        assumptions=assumptions,
        guesses=guesses,
        threshold_selection=str(problem.selection) if problem.method not in WITHOUT_THRESHOLD else None,
        group_size=problem.group_size,
        seed=problem.seed,
        details=facts,
    )


def unavailable(problem: Problem, family: Family, reason: str, assumptions: tuple[Assumption, ...] = ()) -> Bound:
    """Return a bound without a number."""
    return answer(problem, family=family, epsilon=None, reason=reason, assumptions=assumptions)
