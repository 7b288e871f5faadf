"""One run, many canaries, f-DP: the test of Mahloujifar, Melis and Chaudhuri (arXiv:2410.22235).

The same game as in `steinke`; what is refuted is a whole trade-off curve. Theorem 3.1 of the paper bounds, for every
f-DP mechanism, how the probabilities of i and of i - 1 right guesses can follow each other; the recursion below
(algorithm 3 there, with two candidates per canary) finds that the observed number is too likely to fit.
"""

from functools import lru_cache

from dpaudit.estimation._invert import largest_refuted
from dpaudit.estimation.curves import CurveFamily, LeastFpr, eps_delta_curve, gaussian_family, group_curve
from dpaudit.estimation.steinke import check_game
from dpaudit.estimation.steinke import epsilon_lower_bound as steinke_bound
from dpaudit.gdp import gdp_epsilon

EPSILON_HIGH = 60.0


def refutes_curve(least_fpr: LeastFpr, *, canaries: int, guesses: int, correct: int, error: float = 0.05) -> bool:
    """Return whether `correct` right guesses refute the curve at level `error`.

    Suppose P[V >= v] >= error under an f-DP mechanism. Then the mass right (R) and wrong (H) of the guesses over
    outcomes with at least i right, in units of all m canaries, must grow at the rates below; when R + H exceeds
    r / m, the supposition is false. So a true curve is refuted with probability at most `error`.

    Raises: UsageError for impossible counts.
    """
    check_game(canaries, guesses, correct)
    right = error * correct / canaries
    wrong = error * (guesses - correct) / canaries
    limit = guesses / canaries
    for i in range(correct - 1, -1, -1):
        needed = least_fpr(right)
        if needed <= wrong:
            return right + wrong > limit
        right = min(1.0, right + i / (guesses - i) * (needed - wrong))
        wrong = needed
        if right + wrong > limit:
            return True
    return False


@lru_cache(maxsize=4096)
def epsilon_lower_bound(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    error: float = 0.05,
    group_size: int = 1,
    tolerance: float = 1e-9,
) -> float:
    """Return the lower bound on epsilon at `delta` from the symmetric (epsilon, delta) curve; assumption-free.

    Exceeds the truth with probability at most `error` for every mechanism, like Steinke's bound, and is larger than
    it where m * delta matters. `group_size` units are the difference of the data sets; the bound is of one unit.

    Raises: UsageError for impossible counts.
    """
    check_game(canaries, guesses, correct)

    def refuted(epsilon: float) -> bool:
        curve = group_curve(eps_delta_curve(epsilon, delta), group_size)
        return refutes_curve(curve, canaries=canaries, guesses=guesses, correct=correct, error=error)

    return largest_refuted(refuted, EPSILON_HIGH, tolerance=tolerance)


def largest_refuted_parameter(
    family: CurveFamily,
    *,
    canaries: int,
    guesses: int,
    correct: int,
    error: float = 0.05,
    group_size: int = 1,
    tolerance: float = 1e-9,
) -> float:
    """Return the largest parameter of `family` whose curve is refuted at level `error`; 0 when none is.

    Inside the family it exceeds the true parameter with probability at most `error`. Outside it, it only says
    that the mechanism is not as private as that curve. The parameter is of one unit, the data sets differ by
    `group_size` units.

    Raises: UsageError for impossible counts.
    """
    check_game(canaries, guesses, correct)

    def refuted(parameter: float) -> bool:
        curve = group_curve(family.curve(parameter), group_size)
        return refutes_curve(curve, canaries=canaries, guesses=guesses, correct=correct, error=error)

    return largest_refuted(refuted, family.high, tolerance=tolerance)


@lru_cache(maxsize=4096)
def gaussian_lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float, error: float = 0.05, group_size: int = 1
) -> tuple[float, float]:
    """Return (epsilon at `delta`, mu) refuted inside the Gaussian family; for a group of k, mu-GDP becomes k mu-GDP.

    Raises: UsageError for impossible counts.
    """
    counts = {"canaries": canaries, "guesses": guesses, "correct": correct}
    mu = largest_refuted_parameter(gaussian_family(), **counts, error=error) / group_size
    return gdp_epsilon(mu, delta), mu


def combined_lower_bound(
    *,
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    error: float = 0.05,
    group_size: int = 1,
    tolerance: float = 1e-9,
) -> float:
    """Return the larger of Steinke's bound and the (epsilon, delta)-curve bound, each at the full `error`.

    No correction for taking the larger is needed. Fix epsilon. Both tests look at the same count V. Each comes with
    a number p(v) that bounds P[V >= v] from above under every (epsilon, delta)-DP mechanism: Steinke's p-value, and
    for the recursion the infimum of the levels at which it refutes. Let v* be the smallest v at which either
    test rejects. A rejection by any of the two needs V >= v*, and the test that rejects at v* shows
    P[V >= v*] < error. So the event "some test rejects" has probability below `error`, whatever the second test
    does. The argument fails for different (m, r), or different statistics: there a correction is needed.

    Raises: UsageError for impossible counts.
    """
    first = steinke_bound(
        canaries=canaries,
        guesses=guesses,
        correct=correct,
        delta=delta,
        error=error,
        group_size=group_size,
        tolerance=tolerance,
    )
    second = epsilon_lower_bound(
        canaries=canaries,
        guesses=guesses,
        correct=correct,
        delta=delta,
        error=error,
        group_size=group_size,
        tolerance=tolerance,
    )
    return max(first, second)
