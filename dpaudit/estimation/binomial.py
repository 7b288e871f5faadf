"""Exact (Clopper-Pearson) confidence limits of a proportion."""

from scipy.special import betaincinv

from dpaudit.errors import UsageError


def _check(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise UsageError(f"successes must lie between 0 and trials; got {successes} of {trials}.")


def upper_limit(successes: int, trials: int, error: float) -> float:
    """Return the upper confidence limit of a proportion; it is below the truth with probability at most `error`.

    Clopper and Pearson 1934: the (1 - error)-quantile of Beta(k + 1, n - k). 1 when there are no trials.
    """
    _check(successes, trials)
    return 1.0 if successes == trials else float(betaincinv(successes + 1.0, trials - successes, 1.0 - error))


def lower_limit(successes: int, trials: int, error: float) -> float:
    """Return the lower confidence limit of a proportion; it is above the truth with probability at most `error`."""
    _check(successes, trials)
    return 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1.0, error))
