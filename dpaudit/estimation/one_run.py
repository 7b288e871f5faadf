"""The one-run methods on scores: choose r by the declared rule, guess, count, bound."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dpaudit._rng import stream
from dpaudit.errors import UsageError
from dpaudit.estimation import fdp, independent_canaries, steinke
from dpaudit.estimation.assumptions import equal_variances, fair_coins, gaussian_scores, independent_scores
from dpaudit.estimation.curves import CurveFamily
from dpaudit.estimation.guessing import correct_guesses
from dpaudit.estimation.problem import Problem, answer, assume, unavailable
from dpaudit.estimation.rules import guess_grid, planned_guesses
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Assumption, Bound, Family, Scalar

FAIR_COINS = "fair-coins"


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """Counts of a guessing game."""

    canaries: int
    guesses: int
    correct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bound on epsilon, the parameter of the family behind it, and facts."""

    epsilon: float
    mu: float | None = None
    details: Mapping[str, Scalar] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A one-run method: `plan` names its planning rule, `bound` turns counts at a level into a bound."""

    plan: str
    family: Family
    bound: Callable[[Game, float], Found]


def rule_of(method: str, *, delta: float, group_size: int = 1, curve: "str | CurveFamily" = "eps-delta") -> Rule:
    """Return the method as a function of the counts of a game.

    Raises: UsageError for a combination that has no bound.
    """

    def plain(bound: Callable[..., float]) -> Callable[[Game, float], Found]:
        def evaluate(game: Game, error: float) -> Found:
            return Found(epsilon=bound(**_counts(game), delta=delta, error=error, group_size=group_size))

        return evaluate

    free = Family.ASSUMPTION_FREE
    if method == "one-run":
        return Rule(plan="one-run", family=free, bound=plain(steinke.epsilon_lower_bound))
    if method == "one-run-max":
        return Rule(plan="one-run-max", family=free, bound=plain(fdp.combined_lower_bound))
    if method == "one-run-fdp" and curve == "eps-delta":
        return Rule(plan="one-run-fdp:eps-delta", family=free, bound=plain(fdp.epsilon_lower_bound))
    if method == "one-run-fdp":
        evaluate = (
            _within(curve, delta=delta, group_size=group_size)
            if isinstance(curve, CurveFamily)
            else _gaussian(delta=delta, group_size=group_size)
        )
        return Rule(plan="one-run-fdp:gaussian", family=Family.GAUSSIAN, bound=evaluate)
    evaluate = _independent(delta=delta, group_size=group_size)
    return Rule(plan="independent-canaries", family=Family.INDEPENDENT_CANARIES, bound=evaluate)


def _counts(game: Game) -> dict[str, int]:
    return {"canaries": game.canaries, "guesses": game.guesses, "correct": game.correct}


def _needs_delta(delta: float, what: str) -> None:
    if delta == 0:
        raise UsageError(f"{what} has no finite epsilon at delta = 0. Give delta > 0, or use one-run.")


def _within(family: CurveFamily, *, delta: float, group_size: int) -> Callable[[Game, float], Found]:
    def evaluate(game: Game, error: float) -> Found:
        parameter = fdp.largest_refuted_parameter(
            family, **_counts(game), error=error, group_size=group_size, tolerance=family.tolerance
        )
        epsilon = family.epsilon(parameter, delta) if parameter > 0 else 0.0
        return Found(epsilon=epsilon, details={"curve": family.name, family.parameter: parameter})

    return evaluate


def _gaussian(*, delta: float, group_size: int) -> Callable[[Game, float], Found]:
    _needs_delta(delta, "the gaussian curve")

    def evaluate(game: Game, error: float) -> Found:
        epsilon, mu = fdp.gaussian_lower_bound(**_counts(game), delta=delta, error=error, group_size=group_size)
        return Found(epsilon=epsilon, mu=mu, details={"curve": "gaussian"})

    return evaluate


def _independent(*, delta: float, group_size: int) -> Callable[[Game, float], Found]:
    _needs_delta(delta, "independent-canaries")

    def evaluate(game: Game, error: float) -> Found:
        mu = independent_canaries.mu_lower_bound(**_counts(game), error=error) / group_size
        return Found(epsilon=gdp_epsilon(mu, delta), mu=mu)

    return evaluate


def estimate_one_run(problem: Problem) -> Bound:
    """Return the bound of a one-run method on the scores of a problem."""
    rule = rule_of(problem.method, delta=problem.delta, group_size=problem.group_size, curve=problem.curve)
    if min(problem.members, problem.non_members) == 0:
        side = "members" if problem.members == 0 else "non-members"
        reason = f"there are no scores of {side}, so nothing can be compared. Score canaries of both kinds."
        return unavailable(problem, rule.family, reason, (_coins(problem),))
    choices, share = _guesses(problem, rule)
    best: tuple[Found, Game] | None = None
    for guesses in choices:
        rng = stream(problem.seed, "estimation/ties", guesses)
        correct = correct_guesses(problem.source, guesses, rng)
        game = Game(canaries=problem.canaries, guesses=guesses, correct=correct)
        found = rule.bound(game, problem.error / share)
        if best is None or found.epsilon > best[0].epsilon:
            best = found, game
    if best is None:
        raise UsageError(f"{problem.selection} leaves no number of guesses to try.")
    found, game = best
    return answer(
        problem,
        family=rule.family,
        epsilon=found.epsilon,
        mu=found.mu,
        assumptions=_assumptions(problem, rule),
        guesses=game.guesses,
        details={"correct": game.correct, "canaries": game.canaries, **(found.details or {})},
    )


def _coins(problem: Problem) -> Assumption:
    return fair_coins(problem.members, problem.non_members, declared=FAIR_COINS in problem.declared)


def _assumptions(problem: Problem, rule: Rule) -> tuple[Assumption, ...]:
    """Return what the bound rests on; the independent-canaries method also has its scores tested.

    Its tests of the shape also test independence: the worst independent channels give Gaussian scores of one variance,
    and a magnitude shared by the canaries shows as a shape that is not.
    """
    coins = _coins(problem)
    if rule.family is Family.INDEPENDENT_CANARIES:
        source, seed = problem.source, problem.seed
        return coins, independent_scores(source, seed), gaussian_scores(source, seed), equal_variances(source)
    if rule.family is Family.GAUSSIAN:
        name = problem.curve.name if isinstance(problem.curve, CurveFamily) else "Gaussian"
        return coins, assume(problem, "trade-off-family", f"the trade-off curve of the mechanism is {name}")
    return (coins,)


def _guesses(problem: Problem, rule: Rule) -> tuple[list[int], int]:
    """Return the numbers of guesses to try and the number among which the error is shared."""
    selection, canaries = problem.selection, problem.canaries
    if selection.kind == "fixed":
        if selection.count > canaries:
            raise UsageError(f"guesses must be at most the number of canaries, {canaries}; got {selection.count}.")
        return [selection.count], 1
    if selection.kind == "bonferroni":
        return guess_grid(canaries, selection.count), selection.count
    if selection.kind == "split":
        raise UsageError(
            "split is not valid for one-run methods: the coins of one half say something about the run that the other "
            "half is judged by. Use planned, fixed:R or bonferroni:K."
        )
    planned = planned_guesses(rule.plan, canaries, delta=problem.delta, error=problem.error, interest=problem.interest)
    return [planned], 1
