"""Tests, on the scores themselves, of what the tighter methods assume; a failed test withdraws the bound.

Each test has a false-alarm probability of at most LEVEL. Passing proves nothing: a test of one run cannot see every
dependence (a mechanism that flips one coin for its noise level gives independent scores in every run), so a bound
that needs independence stays labelled with it.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtr, fdtrc, log_ndtr, ndtr

from dpaudit._binomial import fair_coin_p_value
from dpaudit.estimation.problem import Problem, assume
from dpaudit.estimation.sources import Source
from dpaudit.records import Assumption, AssumptionStatus, Family

INDEPENDENT_RUNS = "independent-runs"
LEVEL = 1e-3
COINS_LEVEL = 1e-6
_NORMALITY_MINIMUM = 8
_SERIAL_MINIMUM = 30
_DISTINCT_SHARE = 0.5
_EVEN_SPLIT = 1000  # from here on, coins give an exact half with a chance below 2.6 %

Floats = NDArray[np.float64]


def tested(name: str, text: str, p: float | None, level: float, what: str) -> Assumption:
    """Return an assumption with the outcome of a test of it; `p` None means that the test could not be made."""
    if p is None:
        return Assumption(id=name, text=text, status=AssumptionStatus.NOT_CHECKED, evidence=what)
    status = AssumptionStatus.REFUTED if p < level else AssumptionStatus.NOT_CHECKED
    evidence = f"{what}: p = {p:.3g}" + (f" < {level:g}" if p < level else ", not refuted")
    return Assumption(id=name, text=text, status=status, evidence=evidence)


def anderson_darling_p(values: Floats) -> float:
    """Return the p-value of normality with unknown mean and variance.

    Anderson-Darling statistic with the small-sample factor and the p-value formulas of Stephens, in D'Agostino and
    Stephens 1986, table 4.9 (case 3).
    """
    n = values.size
    scaled = values / np.max(np.abs(values))  # no overflow of squares, and the statistic does not change
    z = np.sort((scaled - scaled.mean()) / scaled.std(ddof=1))
    weights = 2 * np.arange(1, n + 1) - 1
    squared = -n - float(np.sum(weights * (log_ndtr(z) + log_ndtr(-z[::-1])))) / n
    a = min(squared * (1 + 0.75 / n + 2.25 / n**2), 150.0)
    if a >= 0.6:
        return math.exp(1.2937 - 5.709 * a + 0.0186 * a * a)
    if a > 0.34:
        return math.exp(0.9177 - 4.279 * a - 1.38 * a * a)
    if a > 0.2:
        return 1 - math.exp(-8.318 + 42.796 * a - 59.938 * a * a)
    return 1 - math.exp(-13.436 + 101.14 * a - 223.73 * a * a)


def gaussian_scores(source: Source, seed: int) -> Assumption:
    """Test that the scores of members and of non-members are each Gaussian (Anderson-Darling, smallest p corrected).

    A side with fewer than 8 scores is left out. The test sees the tails only as far as there are scores; the bound
    at a small delta rests on them further out, and the text of the assumption says so.
    """
    text = "the scores of members, and of non-members, are Gaussian, also further out than these scores reach"
    scores = source.sample(seed)
    sides = [values for values in (scores.member, scores.non_member) if values.size >= _NORMALITY_MINIMUM]
    if not sides:
        return tested("gaussian-scores", text, None, LEVEL, f"needs {_NORMALITY_MINIMUM} scores a side")
    if any(values.min() == values.max() for values in sides):
        return tested("gaussian-scores", text, 0.0, LEVEL, "constant scores")
    smallest = min(anderson_darling_p(values) for values in sides)
    return tested("gaussian-scores", text, min(1.0, len(sides) * smallest), LEVEL, "Anderson-Darling")


def equal_variances(source: Source) -> Assumption:
    """Test that members and non-members have scores of equal variance (F test, exact for Gaussian scores)."""
    text = "the scores of members and of non-members have the same variance"
    member, other = source.moments()
    n1, n0 = member.n, other.n
    if min(n1, n0) < 2:
        return tested("equal-variances", text, None, LEVEL, "needs 2 scores a side")
    above, below = member.squares / (n1 - 1), other.squares / (n0 - 1)
    if not (math.isfinite(above) and math.isfinite(below)):
        return tested("equal-variances", text, None, LEVEL, "the variances overflow")
    if above == 0 or below == 0:
        return tested("equal-variances", text, 0.0 if above != below else None, LEVEL, "a side is constant")
    ratio = above / below
    p = 2 * min(float(fdtr(n1 - 1, n0 - 1, ratio)), float(fdtrc(n1 - 1, n0 - 1, ratio)))
    return tested("equal-variances", text, min(1.0, p), LEVEL, "F test")


def _serial_z(values: Floats) -> float | None:
    """Return the standardised lag-1 autocorrelation in the given order; None where the order says nothing."""
    if values.size < _SERIAL_MINIMUM:
        return None
    steps = np.diff(values)
    if np.all(steps >= 0) or np.all(steps <= 0):
        return None
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    centred = ranks - ranks.mean()
    n = values.size
    lagged = float(centred[:-1] @ centred[1:]) / float(centred @ centred)
    # Ranks of exchangeable values: mean -1/n, variance close to 1/n (Wald and Wolfowitz 1943).
    return (lagged + 1 / n) * math.sqrt(n)


def independent_scores(source: Source, seed: int) -> Assumption:
    """Test independence of the scores of different canaries, as far as one run shows it.

    Two signs of dependence: neighbouring canaries (in the order given) with similar scores, by the rank serial
    correlation; and many equal scores, as when one random magnitude is shared by all canaries. Equal scores are
    also what an honest discrete score gives; the two cannot be told apart, and so neither gives a bound.
    """
    text = "the scores of different canaries are independent, given who was included"
    name = "independent-canaries"
    scores = source.sample(seed)
    total = scores.member.size + scores.non_member.size
    distinct = np.unique(np.concatenate([scores.member, scores.non_member])).size
    if total >= _NORMALITY_MINIMUM and distinct < _DISTINCT_SHARE * total:
        what = (
            f"only {distinct} distinct values in {total} scores: a magnitude shared by all canaries cannot be excluded"
        )
        return Assumption(id=name, text=text, status=AssumptionStatus.REFUTED, evidence=what)
    scores = source.prefix()
    found = [z for z in (_serial_z(scores.member), _serial_z(scores.non_member)) if z is not None]
    if not found:
        return tested(name, text, None, LEVEL, "the order of the scores carries no information")
    p = min(1.0, 2 * len(found) * float(ndtr(-max(abs(z) for z in found))))
    return tested(name, text, p, LEVEL, "rank serial correlation")


def independence_of(problem: Problem) -> Assumption:
    """Return the independence assumption: of separate runs as declared, of the canaries of one run as tested."""
    if INDEPENDENT_RUNS in problem.declared:
        return assume(problem, INDEPENDENT_RUNS, "each score comes from an independent run")
    return independent_scores(problem.source, problem.seed)


def family_of(problem: Problem, of_runs: Family) -> Family:
    """Return `of_runs` for separate runs, and the family that needs independent canaries for scores of one run."""
    return of_runs if INDEPENDENT_RUNS in problem.declared else Family.INDEPENDENT_CANARIES


def fair_coins(members: int, non_members: int, *, declared: bool) -> Assumption:
    """Test that inclusion by fair coins explains the two counts (exact binomial, two-sided)."""
    text = "each canary was included by its own independent fair coin"
    total = members + non_members
    p = fair_coin_p_value(members, non_members)
    if p < COINS_LEVEL:
        what = f"{members} members of {total}: p = {p:.3g} < {COINS_LEVEL:g}"
        return Assumption(id="fair-coins", text=text, status=AssumptionStatus.REFUTED, evidence=what)
    status = AssumptionStatus.DECLARED if declared else AssumptionStatus.NOT_CHECKED
    evidence = f"{members} members of {total}: p = {p:.3g}"
    if members == non_members and total >= _EVEN_SPLIT:
        evidence += "; an exact half is what a fixed split gives, and a fixed split is no set of coins"
    return Assumption(id="fair-coins", text=text, status=status, evidence=evidence)
