"""Several canaries per gradient coordinate, guessed one after another with the coins already guessed revealed.

Keinan, Shenfeld and Ligett 2025: a coordinate that holds n canaries shows the number of those included, plus noise;
once the coins of some are revealed, the sum says more about the rest. The bound of `steinke` stays valid with this
adaptive reveal, because it holds guess by guess given the output and the coins revealed before. It is not proved
for the f-DP recursion, whose counting argument takes all guesses at once.
"""

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.estimation.one_run import Game

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]


def _log_weights(value: float, size: int, noise: float) -> Floats:
    """Return log P[sum = s | noisy sum] up to a constant, s = 0..size, fair coins."""
    s = np.arange(size + 1, dtype=np.float64)
    return np.asarray(-gammaln(s + 1) - gammaln(size - s + 1) - (value - s) ** 2 / (2 * noise**2))


def _next_is_in(log_weights: Floats, revealed: int, ones: int) -> float:
    """Return P[the next coin of a coordinate is "in"] given its noisy sum and the coins revealed."""
    size = log_weights.size - 1
    s = np.arange(size + 1, dtype=np.float64)
    left = size - revealed
    possible = (s >= ones) & (s - ones <= left)
    # Given the sum, all orders are equally likely: the revealed part is one of choose(left, s - ones) completions.
    k = np.where(possible, s - ones, 0.0)
    logs = log_weights + gammaln(s + 1) + gammaln(size - s + 1) - gammaln(k + 1) - gammaln(left - k + 1)
    logs = np.where(possible, logs, -np.inf)
    weights = np.exp(logs - logs.max())
    return float(np.sum(weights * k) / (left * np.sum(weights)))


def play_shared_coordinates(sums: Floats, coins: Bits, *, noise: float, guesses: int) -> Game:
    """Make `guesses` guesses, the surest first, each coin revealed after its guess; return the counts.

    Args:
        sums: Noisy sum per coordinate, in units of one canary.
        coins: Which canaries were included, one row per coordinate.
        noise: Standard deviation of the noise of a sum.
        guesses: Number of guesses, fixed beforehand.

    Returns: The game, to be passed to `steinke.epsilon_lower_bound` (all canaries count, guessed or not).

    Raises: UsageError for shapes that do not fit or too many guesses.
    """
    _validate.positive(noise=noise)
    if coins.ndim != 2 or sums.shape != coins.shape[:1]:
        raise UsageError(f"sums need one value per row of coins; got shapes {sums.shape} and {coins.shape}.")
    if not 1 <= guesses <= coins.size:
        raise UsageError(f"guesses must lie in 1..{coins.size}; got {guesses}.")
    weights = [_log_weights(float(value), coins.shape[1], noise) for value in sums]
    revealed, ones = np.zeros(sums.size, dtype=int), np.zeros(sums.size, dtype=int)
    first = [_next_is_in(w, 0, 0) for w in weights]
    queue = [(-abs(p - 0.5), j, p) for j, p in enumerate(first)]
    heapq.heapify(queue)
    correct = 0
    for _ in range(guesses):
        _, j, p = heapq.heappop(queue)
        coin = bool(coins[j, revealed[j]])
        correct += coin == (p > 0.5)
        revealed[j] += 1
        ones[j] += coin
        if revealed[j] < coins.shape[1]:
            p = _next_is_in(weights[j], int(revealed[j]), int(ones[j]))
            heapq.heappush(queue, (-abs(p - 0.5), j, p))
    return Game(canaries=int(coins.size), guesses=guesses, correct=int(correct))
