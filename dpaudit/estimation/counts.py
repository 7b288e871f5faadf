"""Bounds from counts alone: a guessing game that was played, or a confusion matrix over independent runs."""

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.estimation.bayes import credible_lower_bound
from dpaudit.estimation.curves import CurveFamily
from dpaudit.estimation.multi_run import epsilon_from_rates, mu_from_rates, rate_limits
from dpaudit.estimation.one_run import FAIR_COINS, Game, Rule, rule_of
from dpaudit.estimation.problem import check_request
from dpaudit.estimation.thresholds import MULTI_RUN
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Assumption, Bound, BoundStatus, Direction, Family, Relation

GAME_METHODS = ("one-run", "one-run-fdp", "one-run-max", "independent-canaries")
CONFUSION_METHODS = tuple(MULTI_RUN)


def estimate_game(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    method: str,
    delta: float,
    confidence: float = 0.95,
    curve: str | CurveFamily = "eps-delta",
    group_size: int = 1,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
) -> Bound:
    """Return the bound of a one-run method from the counts of a guessing game.

    Args:
        canaries: All canaries, abstained ones included.
        guesses: Guesses made; fixed before the coins were seen.
        correct: Right guesses.
        method: One of GAME_METHODS.
        delta: Of the bound.
        confidence: One-sided.
        curve: For one-run-fdp, as in `estimate`.
        group_size: Units by which the data sets differ.
        relation: Neighbouring relation.

    Raises: UsageError for impossible counts or an impossible request.
    """
    _validate.one_of(GAME_METHODS, method=method)
    check_request(delta, confidence, group_size, curve)
    rule = rule_of(method, delta=delta, group_size=group_size, curve=curve)
    found = rule.bound(Game(canaries=canaries, guesses=guesses, correct=correct), 1 - confidence)
    return Bound(
        method=method,
        family=rule.family,
        direction=Direction.LOWER,
        epsilon=found.epsilon,
        mu=found.mu,
        delta=delta,
        relation=relation,
        confidence=confidence,
        assumptions=_assumptions_of_game(rule, curve),
        guesses=guesses,
        threshold_selection=f"fixed:{guesses}",
        group_size=group_size,
        details={"canaries": canaries, "correct": correct, **(found.details or {})},
    )


def _assumptions_of_game(rule: Rule, curve: str | CurveFamily) -> tuple[Assumption, ...]:
    found = [
        Assumption(id=FAIR_COINS, text="each canary was included by its own independent fair coin"),
        Assumption(id="fixed-guesses", text="the number of guesses was fixed before the coins were seen"),
    ]
    if rule.family is Family.INDEPENDENT_CANARIES:
        text = "the scores of different canaries are independent, given who was included"
        found.append(Assumption(id="independent-canaries", text=text))
    if rule.family is Family.GAUSSIAN:
        name = curve.name if isinstance(curve, CurveFamily) else "Gaussian"
        text = f"the trade-off curve of the mechanism is {name}"
        found.append(Assumption(id="trade-off-family", text=text))
    return tuple(found)


def _assumptions_of_confusion(method: str) -> tuple[Assumption, ...]:
    found = [
        Assumption(id="independent-runs", text="each trial is an independent run"),
        Assumption(id="fixed-threshold", text="the threshold was fixed without the scores that were counted"),
    ]
    if method == "gdp":
        text = "the trade-off curve of the mechanism is Gaussian"
        found.append(Assumption(id="gaussian-trade-off", text=text))
    return tuple(found)


def estimate_confusion(
    *,
    tp: int,
    fn: int,
    fp: int,
    tn: int,
    method: str,
    delta: float,
    confidence: float = 0.95,
    group_size: int = 1,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
) -> Bound:
    """Return the bound of a multi-run method from a confusion matrix over independent runs.

    The threshold behind the counts must have been fixed without the scores that were counted.

    Args:
        tp: Members called members.
        fn: Members called non-members.
        fp: Non-members called members.
        tn: Non-members called non-members.
        method: One of CONFUSION_METHODS.
        delta: Of the bound.
        confidence: One-sided.
        group_size: Units by which the data sets differ.
        relation: Neighbouring relation.

    Returns: The bound; `epsilon` is None with a reason when a side has no trials.

    Raises: UsageError for negative counts or an impossible request.
    """
    _validate.one_of(CONFUSION_METHODS, method=method)
    check_request(delta, confidence, group_size)
    _validate.non_negative(tp=tp, fn=fn, fp=fp, tn=tn)
    if method == "gdp" and delta == 0:
        raise UsageError("the gdp method has no finite epsilon at delta = 0. Give delta > 0, or clopper-pearson.")
    counts = {"tp": int(tp), "fn": int(fn), "fp": int(fp), "tn": int(tn)}
    epsilon, mu = None, None
    if tp + fn and fp + tn:
        epsilon, mu = _from_confusion(counts, method, delta=delta, error=1 - confidence, group_size=group_size)
    return Bound(
        method=method,
        family=MULTI_RUN[method],
        direction=Direction.LOWER,
        epsilon=epsilon,
        mu=mu,
        delta=delta,
        relation=relation,
        confidence=confidence,
        n_member=counts["tp"] + counts["fn"],
        n_non_member=counts["fp"] + counts["tn"],
        reason=None if epsilon is not None else "a side has no trials, so no error rate exists",
        status=BoundStatus.OK if epsilon is not None else BoundStatus.UNAVAILABLE,
        assumptions=_assumptions_of_confusion(method),
        threshold_selection="given",
        group_size=group_size,
        details=counts,
    )


def _from_confusion(
    counts: dict[str, int], method: str, *, delta: float, error: float, group_size: int
) -> tuple[float, float | None]:
    if method == "bayes":
        return credible_lower_bound(**counts, delta=delta, error=error, group_size=group_size), None
    fpr, fnr = rate_limits(
        false_positives=counts["fp"],
        non_members=counts["fp"] + counts["tn"],
        false_negatives=counts["fn"],
        members=counts["fn"] + counts["tp"],
        error=error,
    )
    if method == "clopper-pearson":
        return epsilon_from_rates(fpr, fnr, delta, group_size=group_size), None
    mu = mu_from_rates(fpr, fnr) / group_size
    return gdp_epsilon(mu, delta), mu
