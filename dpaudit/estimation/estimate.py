"""`estimate`: scores to one lower bound on epsilon, by the method that is asked for."""

from collections.abc import Callable, Iterable, Mapping

from numpy.typing import ArrayLike

from dpaudit import _validate
from dpaudit.errors import DataError, UsageError
from dpaudit.estimation.assumptions import INDEPENDENT_RUNS
from dpaudit.estimation.curves import CurveFamily
from dpaudit.estimation.one_run import FAIR_COINS, estimate_one_run
from dpaudit.estimation.problem import Problem, check_request
from dpaudit.estimation.selection import parse_selection
from dpaudit.estimation.shifts import estimate_mean_shift, estimate_one_shot
from dpaudit.estimation.sources import ArraySource, Source
from dpaudit.estimation.thresholds import estimate_multi_run
from dpaudit.records import Bound, Relation, ScoreSet

METHODS: Mapping[str, Callable[[Problem], Bound]] = {
    "one-run": estimate_one_run,
    "one-run-fdp": estimate_one_run,
    "one-run-max": estimate_one_run,
    "clopper-pearson": estimate_multi_run,
    "gdp": estimate_multi_run,
    "bayes": estimate_multi_run,
    "independent-canaries": estimate_one_run,
    "mean-shift": estimate_mean_shift,
    "one-shot": estimate_one_shot,
}


def estimate(
    member_scores: ArrayLike,
    non_member_scores: ArrayLike,
    *,
    method: str,
    delta: float,
    confidence: float = 0.95,
    guesses: int | None = None,
    threshold_selection: str | None = None,
    interest_epsilon: float | None = None,
    curve: str | CurveFamily = "eps-delta",
    group_size: int = 1,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    declared: Iterable[str] = (),
    seed: int = 0,
    options: Mapping[str, float] | None = None,
) -> Bound:
    """Return a lower bound on epsilon at `delta` that holds with probability at least `confidence`.

    Args:
        member_scores: Scores of what was in the training data; higher must mean "more likely in".
        non_member_scores: Scores of what was not.
        method: "one-run", "one-run-fdp", "one-run-max" (any mechanism, needs fair coins), "clopper-pearson", "gdp",
            "mean-shift" (need independent trials), and the others in METHODS.
        delta: Of the bound, in [0, 1).
        confidence: One-sided, in (0, 1).
        guesses: Number r of guesses (one-run methods) or rank of the threshold; short for "fixed:R".
        threshold_selection: "planned" (default), "planned:E", "fixed:R", "bonferroni:K" or "split"; to be fixed before
            the scores are seen. See `dpaudit.estimation.selection`.
        interest_epsilon: Where a planned choice is tightest; by default 4. The claimed epsilon is a good value.
        curve: For one-run-fdp: "eps-delta" (no family), "gaussian", or a CurveFamily such as that of a PLD.
        group_size: Units by which the two data sets of a pair differ (copies of a canary); divided out.
        relation: Neighbouring relation that "in" against "out" stands for.
        declared: Ids of assumptions the caller vouches for: "fair-coins", "independent-runs".
        seed: Of the lots that break ties and split samples; the same seed gives the same bound.
        options: Further numbers that a method takes by name.

    Returns: The bound; `epsilon` is None with a `reason` where the scores do not support a number, and where a test
        on the scores refutes what the method assumes.

    Raises:
        UsageError: for an impossible request.
        DataError: for scores that are not finite one-dimensional numbers.
    """
    member = _validate.finite_vector(member_scores=member_scores)
    non_member = _validate.finite_vector(non_member_scores=non_member_scores)
    return estimate_source(
        ArraySource(ScoreSet(member=member, non_member=non_member)),
        method=method,
        delta=delta,
        confidence=confidence,
        guesses=guesses,
        threshold_selection=threshold_selection,
        interest_epsilon=interest_epsilon,
        curve=curve,
        group_size=group_size,
        relation=relation,
        declared=declared,
        seed=seed,
        options=options,
    )


def estimate_source(
    source: Source,
    *,
    method: str,
    delta: float,
    confidence: float = 0.95,
    guesses: int | None = None,
    threshold_selection: str | None = None,
    interest_epsilon: float | None = None,
    curve: str | CurveFamily = "eps-delta",
    group_size: int = 1,
    relation: Relation = Relation.ADD_OR_REMOVE_ONE,
    declared: Iterable[str] = (),
    seed: int = 0,
    options: Mapping[str, float] | None = None,
) -> Bound:
    """Return what `estimate` returns, for scores from any source, such as a file read in batches.

    Raises: UsageError and DataError as `estimate`.
    """
    _validate.one_of(tuple(METHODS), method=method)
    check_request(delta, confidence, group_size, curve)
    if not source.members and not source.non_members:
        raise DataError("there are no scores at all, neither of members nor of non-members.")
    problem = Problem(
        method=method,
        source=source,
        delta=float(delta),
        confidence=float(confidence),
        selection=parse_selection(threshold_selection, guesses=guesses, interest_epsilon=interest_epsilon),
        group_size=int(group_size),
        relation=Relation(relation),
        seed=int(seed),
        declared=_declared(declared),
        curve=curve,
        options=dict(options or {}),
    )
    return METHODS[method](problem)


def _declared(names: Iterable[str]) -> frozenset[str]:
    known = {FAIR_COINS, INDEPENDENT_RUNS, "gaussian-trade-off", "trade-off-family"}
    found = frozenset(names)
    if not found <= known:
        raise UsageError(f"declared may hold {', '.join(sorted(known))}; got {', '.join(sorted(found - known))}.")
    return found
