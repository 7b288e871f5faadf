"""The values that travel between the parts: frozen, keyword-only, without behaviour beyond derived properties.

A number that could not be computed is None with a `reason`; it is never 0 and never NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

Scalar = float | int | str | bool | None


class Status(StrEnum):
    """The verdict of a check, a rule or a whole gate."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"
    NOT_RUN = "not-run"


class Relation(StrEnum):
    """Neighbouring relation between data sets."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"


class Unit(StrEnum):
    """Unit of privacy: what one neighbouring step adds, removes or replaces."""

    EXAMPLE = "example"
    CLIENT = "client"


class Direction(StrEnum):
    """Which side of the true epsilon a bound lies on."""

    LOWER = "lower"
    UPPER = "upper"


class Family(StrEnum):
    """What a bound assumes of the mechanism; a bound means nothing outside its family."""

    ASSUMPTION_FREE = "assumption-free"
    INDEPENDENT_CANARIES = "independent-canaries"
    GAUSSIAN = "gaussian"
    CREDIBLE = "credible"
    HEURISTIC = "heuristic"
    ACCOUNTANT = "accountant"


class BoundStatus(StrEnum):
    """Whether a bound holds a number."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    ASSUMPTION_REFUTED = "assumption-refuted"


class AssumptionStatus(StrEnum):
    """How an assumption is known."""

    VERIFIED = "verified"
    DECLARED = "declared"
    NOT_CHECKED = "not-checked"
    REFUTED = "refuted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """One thing a number rests on. `evidence` names the check or the declaration behind the status."""

    id: str
    text: str
    status: AssumptionStatus = AssumptionStatus.NOT_CHECKED
    evidence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """(epsilon, delta)-differential privacy of a release, for a unit and a neighbouring relation."""

    epsilon: float
    delta: float
    unit: Unit = Unit.EXAMPLE
    relation: Relation = Relation.ADD_OR_REMOVE_ONE
    model: str | None = None

    def __post_init__(self) -> None:
        _validate.positive(epsilon=self.epsilon)
        _validate.open_unit_interval(delta=self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A bound on epsilon at `delta`, with everything that is needed to judge it.

    Lower bounds hold with probability at least `confidence` over the randomness of the audit;
    upper bounds are deterministic and have `confidence` None. `group_size` is the number of units
    by which the neighbouring data sets of the audit differ (already divided out of `epsilon`). `canaries` is the name
    of the canary family whose scores it rests on; None for the Dirac canaries of a run, and for other scores.
    """

    method: str
    family: Family
    direction: Direction
    epsilon: float | None
    mu: float | None = None
    delta: float
    relation: Relation = Relation.ADD_OR_REMOVE_ONE
    confidence: float | None = None
    n_member: int | None = None
    n_non_member: int | None = None
    status: BoundStatus = BoundStatus.OK
    reason: str | None = None
    assumptions: tuple[Assumption, ...] = ()
    guesses: int | None = None
    threshold_selection: str | None = None
    group_size: int = 1
    seed: int | None = None
    details: Mapping[str, Scalar] = field(default_factory=dict)
    canaries: str | None = None

    @property
    def label(self) -> str:
        """The method, and the canary family where it is not the Dirac canaries."""
        return _on(self.method, self.canaries)

    def __post_init__(self) -> None:
        if self.epsilon is None and self.reason is None:
            raise UsageError(f"a bound without epsilon must say why: method {self.method!r} gave no reason.")
        if self.epsilon is not None:
            _validate.non_negative(epsilon=self.epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The outcome of one statistical or exact check.

    `statistic` is compared with `threshold`; `minimum_detectable` is the smallest effect that the check
    would have found with probability 0.99 (what it is an effect on is said in `detail`); `refuted` names
    the claim that a FAIL contradicts.
    """

    id: str
    status: Status
    statistic: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    detail: str
    minimum_detectable: float | None = None
    refuted: str | None = None
    significance: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePoint:
    """True-positive rate of an attack at a given false-positive rate; None where too few non-members.

    `ceiling` is the largest rate that any attack can have against what is proven; None where nothing is.
    """

    fpr: float
    tpr: float | None
    ci: tuple[float, float] | None = None
    reason: str | None = None
    ceiling: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What a membership-inference attack achieved, with confidence intervals at level `confidence`.

    `auc_ceiling` and `advantage_ceiling` are what the proven epsilon allows; None where nothing is proven.
    """

    attack: str
    threat_model: str
    auc: float | None
    auc_ci: tuple[float, float] | None = None
    tpr_at_fpr: tuple[RatePoint, ...] = ()
    balanced_accuracy: float | None = None
    advantage: float | None = None
    confidence: float = 0.95
    n_member: int = 0
    n_non_member: int = 0
    seed: int | None = None
    reason: str | None = None
    details: Mapping[str, Scalar] = field(default_factory=dict)
    auc_ceiling: float | None = None
    advantage_ceiling: float | None = None

    def __post_init__(self) -> None:
        if self.auc is None and self.reason is None:
            raise UsageError(f"an attack without AUC must say why: {self.attack!r} gave no reason.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingSummary:
    """What the accountants say of a ledger at `delta`; upper bounds, each None where `reasons` says why.

    `profile` holds (delta, epsilon) pairs, `trade_off` (false-positive rate, least false-negative rate) pairs,
    `tpr_ceilings` (false-positive rate, largest true-positive rate) pairs, all from one PLD.
    `epsilon_over_rounds` holds (round, epsilon by PLD) pairs. `mu` with `mu_regret` is a summary, no guarantee.
    `reasons` maps the name of a missing field to the reason.
    """

    delta: float
    relation: Relation
    epsilon_rdp: float | None
    epsilon_pld: float | None
    epsilon_no_amplification: float | None = None
    mu: float | None = None
    mu_regret: float | None = None
    profile: tuple[tuple[float, float], ...] = ()
    trade_off: tuple[tuple[float, float], ...] = ()
    tpr_ceilings: tuple[tuple[float, float], ...] = ()
    epsilon_over_rounds: tuple[tuple[int, float], ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    ledger_digest: str | None = None
    library: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerResult:
    """How likely an audit was to refute a mechanism that is `factor` times worse than claimed, by simulation.

    `power` is the share of `trials` in which the lower bound of `method` exceeded `claim_epsilon` although the
    simulated mechanism had `alternative_epsilon`; `power_ci` is its Clopper-Pearson interval at 95 %.
    `largest_certifiable_epsilon` is what a perfect attack would have shown with this design. `canaries` as in `Bound`.
    """

    method: str
    family: Family
    claim_epsilon: float
    factor: float
    alternative_epsilon: float | None
    power: float | None
    power_ci: tuple[float, float] | None = None
    trials: int = 0
    largest_certifiable_epsilon: float | None = None
    reason: str | None = None
    canaries: str | None = None

    @property
    def label(self) -> str:
        """The method, and the canary family where it is not the Dirac canaries."""
        return _on(self.method, self.canaries)


def _on(method: str, canaries: str | None) -> str:
    return method if canaries is None else f"{method} on {canaries} canaries"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSet:
    """Scores of members and non-members, higher meaning more likely a member; finite float64 vectors."""

    member: NDArray[np.float64]
    non_member: NDArray[np.float64]

    def __post_init__(self) -> None:
        _validate.finite_vector(member_scores=self.member)
        _validate.finite_vector(non_member_scores=self.non_member)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one rule of a policy."""

    rule: str
    title: str
    status: Status
    message: str
    measured: float | str | None = None
    limit: float | str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The one answer, with the findings that led to it and the digests of what was judged."""

    status: Status
    findings: tuple[Finding, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    date: str | None = None
    profile: str | None = None

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 inconclusive."""
        return {Status.PASS: EXIT_PASS, Status.FAIL: EXIT_FAIL}.get(self.status, EXIT_INCONCLUSIVE)

    def __bool__(self) -> bool:
        """Refused: a verdict has three values, and truth has two."""
        raise UsageError("a Verdict has three values; compare verdict.status with Status.PASS, FAIL or INCONCLUSIVE.")
