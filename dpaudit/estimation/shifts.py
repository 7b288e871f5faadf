"""The methods that read a shift of Gaussian scores: mean-shift and one-shot, on the scores of a problem."""

from dpaudit.errors import UsageError
from dpaudit.estimation import mean_shift, one_shot
from dpaudit.estimation.assumptions import (
    LEVEL,
    equal_variances,
    family_of,
    gaussian_scores,
    independence_of,
    tested,
)
from dpaudit.estimation.problem import Problem, answer, unavailable
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Assumption, Bound, Family


def _epsilon(mu: float, problem: Problem) -> tuple[float, float]:
    mu /= problem.group_size
    return gdp_epsilon(mu, problem.delta), mu


def _check(problem: Problem) -> None:
    if problem.delta == 0:
        raise UsageError(f"{problem.method} has no finite epsilon at delta = 0. Give delta > 0, or use one-run.")
    if problem.selection.given:
        raise UsageError(f"{problem.method} uses no threshold and no guesses; do not give {problem.selection}.")


def estimate_mean_shift(problem: Problem) -> Bound:
    """Return the mean-shift (noncentral t) bound on the scores of a problem."""
    _check(problem)
    family = family_of(problem, Family.GAUSSIAN)
    mu = mean_shift.mu_lower_bound(*problem.source.moments(), problem.error)
    if mu is None:
        reason = "needs scores on both sides, three or more in all, with a variance that is neither 0 nor infinite"
        return unavailable(problem, family, reason)
    checks = independence_of(problem), gaussian_scores(problem.source, problem.seed), equal_variances(problem.source)
    epsilon, mu = _epsilon(mu, problem)
    return answer(problem, family=family, epsilon=epsilon, mu=mu, assumptions=checks)


def estimate_one_shot(problem: Problem) -> Bound:
    """Return the corrected one-shot bound: cosines of included canaries against the known null N(0, 1/d).

    With `options={"dimension": d}` the null is known; without it, the cosines of canaries that were kept out
    serve as the null (two-sample noncentral t), which is right also when real updates are large.
    """
    dimension = problem.options.get("dimension")
    if dimension is None:
        if problem.non_members == 0:
            reason = "the null is unknown: give cosines of canaries kept out, or the option dimension"
            return unavailable(problem, Family.INDEPENDENT_CANARIES, reason)
        return estimate_mean_shift(problem)
    _check(problem)
    d, included = int(dimension), problem.source.moments()[0]
    if included.n == 0:
        return unavailable(problem, Family.INDEPENDENT_CANARIES, "there are no cosines of included canaries")
    epsilon, mu = _epsilon(one_shot.mu_lower_bound(included, d, problem.error), problem)
    normal = gaussian_scores(problem.source, problem.seed)
    checks = (independence_of(problem), normal, _known_variance(problem, d))
    return answer(
        problem,
        family=Family.INDEPENDENT_CANARIES,
        epsilon=epsilon,
        mu=mu,
        assumptions=checks,
        details={"dimension": d},
    )


def _known_variance(problem: Problem, dimension: int) -> Assumption:
    text = "the included cosines have the variance 1/d of random directions"
    p = one_shot.variance_p(problem.source.moments()[0], dimension)
    return tested("known-variance", text, p, LEVEL, "chi-square")
