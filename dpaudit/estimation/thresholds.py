"""The multi-run methods on scores: a threshold chosen by the declared rule, error rates with limits, a bound."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpaudit.errors import UsageError
from dpaudit.estimation.assumptions import (
    INDEPENDENT_RUNS,
    equal_variances,
    family_of,
    gaussian_scores,
    independence_of,
)
from dpaudit.estimation.bayes import credible_lower_bound
from dpaudit.estimation.binomial import upper_limit
from dpaudit.estimation.multi_run import epsilon_from_rates, mu_from_rates
from dpaudit.estimation.problem import Problem, answer, assume, unavailable
from dpaudit.estimation.rules import planned_rank, rank_grid
from dpaudit.estimation.sources import Source
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import Assumption, Bound, Family

MULTI_RUN = {
    "clopper-pearson": Family.ASSUMPTION_FREE,
    "gdp": Family.GAUSSIAN,
    "bayes": Family.CREDIBLE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Upper limits of both error rates at one threshold, and the counts behind them."""

    fpr: float
    fnr: float
    false_positives: int
    false_negatives: int
    members: int
    non_members: int
    threshold: float

    def confusion(self) -> dict[str, int]:
        """Return the four counts."""
        return {
            "tp": self.members - self.false_negatives,
            "fn": self.false_negatives,
            "fp": self.false_positives,
            "tn": self.non_members - self.false_positives,
        }


def at_ranks(source: Source, ranks: Sequence[int], error: float) -> list[Rates]:
    """Return the limits at the thresholds "above the rank-th largest non-member score", for ranks fixed beforehand.

    The probability of a non-member above its own rank-th largest score is at most a Beta(rank, n + 1 - rank) variable
    (exactly that one for continuous scores), whose upper quantile is the Clopper-Pearson limit at rank - 1 false
    positives: the threshold moves with the data, and yet nothing has to be corrected. The rank is used even
    when ties leave fewer false positives. Given the threshold, the misses are binomial, because members and
    non-members are independent. Several ranks share the error: call with error / K.
    """
    return _limits(source, source.largest("non_member", ranks), error, [rank - 1 for rank in ranks])


def at_threshold(source: Source, threshold: float, error: float) -> Rates:
    """Return the limits at a threshold that does not depend on these scores ("member" is above it)."""
    return _limits(source, [threshold], error, None)[0]


def _limits(source: Source, thresholds: Sequence[float], error: float, counted: Sequence[int] | None) -> list[Rates]:
    tally, found = source.tally(thresholds), []
    for i, threshold in enumerate(thresholds):
        positives, missed = int(tally.other_above[i]), source.members - int(tally.member_above[i])
        found.append(
            Rates(
                fpr=upper_limit(positives if counted is None else counted[i], source.non_members, error / 2),
                fnr=upper_limit(missed, source.members, error / 2),
                false_positives=positives,
                false_negatives=missed,
                members=source.members,
                non_members=source.non_members,
                threshold=threshold,
            )
        )
    return found


def bound_at(problem: Problem, rates: Rates) -> tuple[float, float | None]:
    """Return (epsilon, mu or None) from the rates at one threshold, by the method of the problem."""
    delta, k = problem.delta, problem.group_size
    if problem.method == "clopper-pearson":
        return epsilon_from_rates(rates.fpr, rates.fnr, delta, group_size=k), None
    if problem.method == "bayes":
        return credible_lower_bound(**rates.confusion(), delta=delta, error=problem.error, group_size=k), None
    mu = mu_from_rates(rates.fpr, rates.fnr) / k
    return gdp_epsilon(mu, problem.delta), mu


def _best(problem: Problem, found: Sequence[Rates]) -> Rates:
    """Return the threshold with the largest bound; for gdp by mu, which spares the conversions."""
    if len(found) == 1:
        return found[0]
    if problem.method == "gdp":
        return max(found, key=lambda rates: mu_from_rates(rates.fpr, rates.fnr))
    return max(found, key=lambda rates: bound_at(problem, rates)[0])


def assumptions_of(problem: Problem) -> tuple[Assumption, ...]:
    """Return what the bound rests on; on the scores of one run, independence is tested.

    For gdp that includes normality and equal variances: in one run a magnitude shared by all canaries shows as a shape
    that independent Gaussian noise does not have, and there it would break the bound.
    """
    found = [independence_of(problem)]
    if problem.method == "gdp":
        if INDEPENDENT_RUNS not in problem.declared:
            found += [gaussian_scores(problem.source, problem.seed), equal_variances(problem.source)]
        found.append(assume(problem, "gaussian-trade-off", "the trade-off curve of the mechanism is Gaussian"))
    return tuple(found)


def estimate_multi_run(problem: Problem) -> Bound:
    """Return the clopper-pearson, gdp or bayes bound on the scores of a problem."""
    family = MULTI_RUN[problem.method]
    if family is not Family.CREDIBLE:
        family = family_of(problem, family)
    if min(problem.members, problem.non_members) == 0:
        side = "members" if problem.members == 0 else "non-members"
        return unavailable(problem, family, f"there are no scores of {side}, so no error rate exists.")
    if problem.method == "gdp" and problem.delta == 0:
        raise UsageError("the gdp method has no finite epsilon at delta = 0. Give delta > 0, or clopper-pearson.")
    if problem.method == "bayes" and problem.selection.kind == "bonferroni":
        raise UsageError("bonferroni corrects a confidence, which bayes does not have. Use planned, fixed or split.")
    rates = _best(problem, _candidates(problem))
    epsilon, mu = bound_at(problem, rates)
    details = {
        "threshold": rates.threshold,
        "false_positives": rates.false_positives,
        "false_negatives": rates.false_negatives,
        "fpr_upper": rates.fpr,
        "fnr_upper": rates.fnr,
    }
    return answer(
        problem,
        family=family,
        epsilon=epsilon,
        mu=mu,
        assumptions=assumptions_of(problem),
        details=details,
    )


def _candidates(problem: Problem) -> list[Rates]:
    selection, n0 = problem.selection, problem.non_members
    if selection.kind == "split":
        choose, judge = problem.source.halves(problem.seed)
        return [at_threshold(judge, _best_threshold(problem, choose), problem.error)]
    if selection.kind == "bonferroni":
        return at_ranks(problem.source, rank_grid(n0, selection.count, problem.method), problem.error / selection.count)
    rank = selection.count
    if selection.kind == "planned":
        rank = planned_rank(
            problem.method, problem.members, n0, delta=problem.delta, error=problem.error, interest=problem.interest
        )
    if rank > n0:
        raise UsageError(f"the rank R of fixed:R must be at most the number of non-members, {n0}; got {rank}.")
    return at_ranks(problem.source, [rank], problem.error)


def _best_threshold(problem: Problem, source: Source) -> float:
    """Return the threshold with the best bound on the half that is only used to choose it."""
    if min(source.members, source.non_members) == 0:
        return 0.0
    found = at_ranks(source, rank_grid(source.non_members, 60, problem.method), problem.error)
    return _best(problem, found).threshold
