"""Reference mechanisms with known epsilon: what coverage tests, power simulations and `dpaudit plan` draw scores from.

Each draws the scores of m canaries included by independent fair coins. The friendly ones give every canary its own
noise; the adversarial ones are as bad as their guarantee allows, in ways that break invalid bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.gdp import gdp_epsilon, gdp_mu
from dpaudit.records import ScoreSet

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """A mechanism over bits. `scores(bits, rng)` is what the auditor sees; `epsilon(delta)` is the smallest epsilon."""

    name: str
    scores: Callable[[Bits, np.random.Generator], Floats]
    epsilon: Callable[[float], float]
    independent: bool

    def draw(self, canaries: int, rng: np.random.Generator) -> ScoreSet:
        """Return the scores of one audit with `canaries` canaries and fresh coins."""
        bits = rng.random(canaries) < 0.5
        values = self.scores(bits, rng)
        return ScoreSet(member=values[bits], non_member=values[~bits])


def null() -> Mechanism:
    """Scores that do not depend on the coins: epsilon 0."""
    return Mechanism(
        name="null", scores=lambda b, rng: rng.normal(size=b.size), epsilon=lambda _: 0.0, independent=True
    )


def _flip(bits: Bits, right: Floats | float, rng: np.random.Generator) -> Bits:
    return np.asarray(bits ^ (rng.random(bits.size) >= right))


def _signs(bits: Bits, right: float, rng: np.random.Generator) -> Floats:
    return np.where(_flip(bits, right, rng), 1.0, -1.0)


def randomised_response(epsilon: float) -> Mechanism:
    """Each coin told truthfully with probability e^eps / (1 + e^eps): tight for pure DP."""
    right = float(expit(epsilon))

    def smallest(delta: float) -> float:
        return max(0.0, math.log((right - delta) / (1 - right))) if right > delta else 0.0

    return Mechanism(
        name="randomised-response",
        scores=lambda b, rng: _flip(b, right, rng).astype(np.float64),
        epsilon=smallest,
        independent=True,
    )


def laplace(epsilon: float) -> Mechanism:
    """Coin plus Laplace noise of scale 1/epsilon; delta(e) = 1 - exp((e - epsilon) / 2)."""
    return Mechanism(
        name="laplace",
        scores=lambda b, rng: b + rng.laplace(scale=1 / epsilon, size=b.size),
        epsilon=lambda delta: max(0.0, epsilon + 2 * math.log1p(-delta)),
        independent=True,
    )


def gaussian(mu: float) -> Mechanism:
    """Mu times the coin plus standard Gaussian noise: mu-GDP."""
    return Mechanism(
        name="gaussian",
        scores=lambda b, rng: mu * b + rng.normal(size=b.size),
        epsilon=lambda delta: float(gdp_epsilon(mu, delta)),
        independent=True,
    )


def gaussian_of(epsilon: float, delta: float) -> Mechanism:
    """The Gaussian mechanism that is exactly (epsilon, delta)-DP."""
    return gaussian(float(gdp_mu(epsilon, delta)))


def sampled_gaussian(noise_multiplier: float, rate: float) -> Mechanism:
    """One step of the Poisson-sampled Gaussian mechanism; the score is the log-likelihood ratio."""
    s = noise_multiplier

    def ratio(x: Floats) -> Floats:
        return np.logaddexp(math.log1p(-rate), math.log(rate) + (x - 0.5) / s**2)

    def scores(bits: Bits, rng: np.random.Generator) -> Floats:
        present = bits & (rng.random(bits.size) < rate)
        return ratio(present + s * rng.normal(size=bits.size))

    return Mechanism(
        name="sampled-gaussian",
        scores=scores,
        epsilon=lambda delta: _sampled_epsilon(s, rate, delta),
        independent=True,
    )


def _sampled_epsilon(s: float, rate: float, delta: float) -> float:
    """Return epsilon(delta) of (1-q) N(0, s^2) + q N(1, s^2) against N(0, s^2), the worse of both directions."""

    def mixed(tail: Callable[[float, float], float], x: float) -> float:
        return (1 - rate) * tail(x, 0.0) + rate * tail(x, 1.0)

    def above(x: float, mean: float) -> float:
        return float(ndtr((mean - x) / s))

    def below(x: float, mean: float) -> float:
        return float(ndtr((x - mean) / s))

    def too_much(epsilon: float) -> float:
        # Remove: largest where the ratio exceeds e^eps, a half line; add: where it is below e^-eps.
        up = 0.5 + s * s * math.log((math.exp(epsilon) - 1 + rate) / rate)
        worst = mixed(above, up) - math.exp(epsilon) * above(up, 0.0)
        low = math.exp(-epsilon) - 1 + rate
        if low > 0:
            down = 0.5 + s * s * math.log(low / rate)
            worst = max(worst, below(down, 0.0) - math.exp(epsilon) * mixed(below, down))
        return worst

    if too_much(0.0) <= delta:
        return 0.0
    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(middle) > delta else (low, middle)
    return high


def reveal(epsilon: float, delta: float, canaries: int, revealed: int) -> Mechanism:
    """Randomised response that, with probability m delta / k, tells k of the m coins: (epsilon, delta)-DP, tight.

    Breaks bounds that drop the delta term: k certain guesses are right far more often than a binomial allows.
    """
    chance = canaries * delta / revealed
    if not 0 <= chance <= 1 or revealed > canaries:
        raise UsageError(f"m delta / k must be a probability and k at most m; got {chance} with k = {revealed}.")
    right = float(expit(epsilon))

    def scores(bits: Bits, rng: np.random.Generator) -> Floats:
        values = _signs(bits, right, rng)
        if rng.random() < chance:
            told = rng.choice(bits.size, revealed, replace=False)
            values[told] = 2.0 * (2.0 * bits[told] - 1.0)
        return values

    return Mechanism(name="reveal", scores=scores, epsilon=lambda d: epsilon if d <= delta else 0.0, independent=False)


def shared_magnitude(mu: float) -> Mechanism:
    """Exactly mu-GDP for every coin, but one |log-likelihood ratio| is drawn for all coins together.

    Given the magnitude l, each coin is told truthfully with probability 1 / (1 + e^-l). Bounds that assume independent
    canaries see a run with a large l and exceed the truth in 10 to 44 % of the runs.
    """

    def scores(bits: Bits, rng: np.random.Generator) -> Floats:
        magnitude = abs(mu * mu / 2 + mu * rng.normal())
        return magnitude * _signs(bits, float(expit(magnitude)), rng)

    return Mechanism(
        name="shared-magnitude",
        scores=scores,
        epsilon=lambda delta: float(gdp_epsilon(mu, delta)),
        independent=False,
    )


def rare_channel(mu: float, chance: float = 0.05) -> Mechanism:
    """With probability `chance` a symmetric channel as good as mu-GDP then allows, otherwise nothing.

    The accuracy a solves chance * a = Phi(Phi^-1(chance (1 - a)) + mu): the limit of every bound on counts.
    """
    _validate.open_unit_interval(chance=chance)
    low, high = 0.5, 1.0
    for _ in range(100):
        a = (low + high) / 2
        fits = chance * a <= float(ndtr(ndtri(chance * (1 - a)) + mu))
        low, high = (a, high) if fits else (low, a)
    accuracy = low

    def scores(bits: Bits, rng: np.random.Generator) -> Floats:
        right = accuracy if rng.random() < chance else 0.5
        return _signs(bits, right, rng)

    return Mechanism(
        name="rare-channel",
        scores=scores,
        epsilon=lambda delta: float(gdp_epsilon(mu, delta)),
        independent=False,
    )
