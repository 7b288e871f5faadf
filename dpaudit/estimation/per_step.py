"""The per-step audit: one coin per (step, canary), a bound on 1/sigma, composed by the accountant's own sampler.

The tightest test of an implementation (Nasr et al. 2023, arXiv:2302.07956): in every step an unused gradient direction
gets a canary of norm C or not, by a fresh coin; the score is the inner product of the noisy sum with that direction.
It tests the noise and the clipping of the step. The sampling is taken from the ledger, and tested on its own.
"""

from collections.abc import Callable, Iterable

from numpy.typing import ArrayLike
from scipy.special import fdtrc, ndtr

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.estimation import mean_shift
from dpaudit.estimation.assumptions import (
    LEVEL,
    equal_variances,
    gaussian_scores,
    independence_of,
    tested,
)
from dpaudit.estimation.multi_run import mu_from_rates
from dpaudit.estimation.problem import Problem, answer, assume, unavailable
from dpaudit.estimation.selection import Selection
from dpaudit.estimation.sources import ArraySource, Moments
from dpaudit.estimation.thresholds import at_ranks
from dpaudit.records import Assumption, Bound, Family, Relation, ScoreSet

METHODS = ("mean-shift", "mean-shift-centred", "mean-shift-signed", "gdp")


def per_step_bound(
    included: ArrayLike,
    excluded: ArrayLike,
    *,
    compose: Callable[[float], float],
    delta: float,
    confidence: float = 0.95,
    method: str = "mean-shift",
    claimed_noise_multiplier: float | None = None,
    group_size: int = 1,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    declared: Iterable[str] = (),
    seed: int = 0,
) -> Bound:
    """Return a lower bound on epsilon of the whole training, if every step is like the observed ones.

    Args:
        included: Scores of (step, canary) pairs whose coin put the canary in; one flat vector.
        excluded: Scores of the other pairs.
        compose: From a noise multiplier to the epsilon at `delta` that the accountant gives for the ledger's sampler
            and number of steps; decreasing. Called once.
        delta: At which `compose` answers.
        confidence: One-sided.
        method: "mean-shift" (noncentral t), "mean-shift-centred" (also uses that scores without a canary have mean
            0, as in a direction that no example touches), "mean-shift-signed" (the coin decides between +canary, in
            `included`, and -canary, in `excluded`: the shift is 2/sigma, so the bound is twice as sharp), or "gdp"
            (error rates at the rank of the claimed noise).
        claimed_noise_multiplier: For gdp: fixes the threshold beforehand.
        group_size: Copies of the canary that one coin decides on, each of the norm of one unit; divided out.
        relation: Neighbouring relation.
        declared: "iid-steps" when the caller vouches that sampler and noise are the same in all steps.
        seed: Of the subsample that the assumption tests may draw.

    Returns: Bound whose `mu` is the lower bound on 1/sigma of one step and whose `epsilon` is composed from it.

    Raises:
        UsageError: for an impossible request.
        DataError: for scores that are not finite vectors.
    """
    _validate.one_of(METHODS, method=method)
    _validate.open_unit_interval(confidence=confidence, delta=delta)
    _validate.positive_integer(group_size=group_size)
    scores = ScoreSet(
        member=_validate.finite_vector(included=included), non_member=_validate.finite_vector(excluded=excluded)
    )
    problem = Problem(
        method="per-step",
        source=ArraySource(scores),
        delta=delta,
        confidence=confidence,
        selection=Selection(kind="planned", given=False),
        group_size=group_size,
        relation=Relation(relation),
        seed=seed,
        declared=frozenset(declared),
        curve="gaussian",
        options={},
    )
    shift = _shift(problem, method, claimed_noise_multiplier)
    family = Family.INDEPENDENT_CANARIES
    if shift is None:
        return unavailable(
            problem, family, "needs scores with and without canary, three or more, that are not constant"
        )
    mu = shift / group_size
    epsilon = float(compose(1 / mu)) if mu > 0 else 0.0
    return answer(
        problem,
        family=family,
        epsilon=epsilon,
        mu=mu,
        assumptions=_assumptions(problem, method),
        details={"estimator": method, "noise_multiplier_upper": 1 / mu if mu > 0 else None},
    )


def _shift(problem: Problem, method: str, claimed: float | None) -> float | None:
    """Return a lower bound on the shift of the scores, in standard deviations, that one coin makes."""
    included, excluded = problem.source.moments()
    if method == "mean-shift":
        return mean_shift.mu_lower_bound(included, excluded, problem.error)
    if method == "mean-shift-centred":
        return mean_shift.centred_mu_lower_bound(included, excluded, problem.error)
    if method == "mean-shift-signed":
        twice = mean_shift.mu_lower_bound(included, excluded, problem.error)
        return None if twice is None else twice / 2
    if claimed is None or not claimed > 0:
        raise UsageError(f"method gdp needs claimed_noise_multiplier > 0, which fixes the threshold; got {claimed!r}.")
    if min(included.n, excluded.n) == 0:
        return None
    rank = min(excluded.n, max(1, round(excluded.n * float(ndtr(-0.5 * problem.group_size / claimed)))))
    (rates,) = at_ranks(problem.source, [rank], problem.error)
    return mu_from_rates(rates.fpr, rates.fnr)


def _assumptions(problem: Problem, method: str) -> tuple[Assumption, ...]:
    steps = assume(problem, "iid-steps", "every step has the same noise, clipping and sampler as the observed ones")
    found = [steps, independence_of(problem), gaussian_scores(problem.source, problem.seed)]
    if method != "gdp":
        found.append(equal_variances(problem.source))
    if method == "mean-shift-centred":
        found.append(_centred(problem.source.moments()[1]))
    return tuple(found)


def _centred(excluded: Moments) -> Assumption:
    text = "scores without a canary have mean 0"
    if excluded.n < 2 or not excluded.squares > 0:
        return tested("centred-null", text, None, LEVEL, "needs 2 scores without canary")
    freedom = excluded.n - 1
    squared_t = excluded.mean**2 * excluded.n / (excluded.squares / freedom)
    return tested("centred-null", text, float(fdtrc(1, freedom, squared_t)), LEVEL, "t test")
