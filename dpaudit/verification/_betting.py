"""The bets on one pair of neighbouring data sets: samples, learned events, and wealth."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.estimation import PairTest
from dpaudit.verification._learn import Event, candidates
from dpaudit.verification.draws import Order

Floats = NDArray[np.float64]

_MOST_REMEMBERED = 20_000
_PATIENCE = 60.0
"""Pairs of outputs over which a learned promise counts when the starting wealth is spread over the bets."""


class Bet:
    """The wealth of one claimed point in one direction: half on the learned stake, half on a grid of stakes."""

    def __init__(self, epsilon: float, delta: float, *, reverse: bool) -> None:
        self.point, self.reverse = (epsilon, delta), reverse
        self.event: Event | None = None
        self.learned = 0.0
        self._grid = PairTest(epsilon=epsilon, delta=delta)

    @property
    def pairs(self) -> int:
        """Pairs of outputs that were bet on."""
        return self._grid.pairs

    @property
    def log_wealth(self) -> float:
        """Logarithm of the wealth, which is a fair bet under the claim."""
        return float(np.logaddexp(self.learned, self._grid.log_e_value)) - math.log(2)

    def place(self, x: Floats, y: Floats) -> None:
        """Bet on new outputs of both sides, with the event and the stake that were chosen before.

        Where all outputs were alike so far, there is nothing to choose from: the bet is on what never happens.
        """
        if self.event is None:
            self._grid.update(np.zeros(len(x)), np.zeros(len(y)))
            return
        first, second = (self.event(y), self.event(x)) if self.reverse else (self.event(x), self.event(y))
        epsilon, delta = self.point
        grow = math.exp(epsilon)
        stake = self.event.stake / (grow + delta)
        self.learned += float(np.log1p(stake * (first - grow * second - delta)).sum())
        self._grid.update(first, second)


class Contest:
    """A sequential test of every claimed point on one pair of data sets, both directions.

    The first call of `play` only learns; each later one bets with events that were chosen before its samples were
    drawn, and then learns from them. The claimed point has half of the wealth, the other points share the rest.
    """

    def __init__(
        self,
        pair: Any,
        points: Sequence[tuple[float, float]],
        draw: Callable[[Order], Floats],
        *,
        root: int,
        float_bits: bool,
    ) -> None:
        self._pair, self._draw, self._root, self._float_bits = pair, draw, root, float_bits
        self._seen: tuple[Floats, Floats] | None = None
        self._bets = [Bet(e, d, reverse=reverse) for e, d in points for reverse in (False, True)]
        rest = max(1, len(points) - 1)
        each = [1.0] if len(points) == 1 else [0.5] + [0.5 / rest] * rest
        self._shares = np.repeat(each, 2) / 2
        self._rounds = 0

    @property
    def bets(self) -> int:
        """Pairs of outputs that were bet on."""
        return self._bets[0].pairs

    @property
    def headline_share(self) -> float:
        """The share of the wealth that bets on the claimed point in its poorer direction."""
        return float(self._shares[:2].min())

    @property
    def promise(self) -> float:
        """The best expected growth per pair of outputs, as learned so far."""
        return max((bet.event.growth for bet in self._bets if bet.event is not None), default=0.0)

    @property
    def headline_event(self) -> Event | None:
        """The event of the claimed point in the better direction."""
        return max(self._bets[:2], key=lambda bet: bet.log_wealth).event

    @property
    def log_e_value(self) -> float:
        """Logarithm of the wealth over all points and directions."""
        return float(np.logaddexp.reduce(np.log(self._shares) + [bet.log_wealth for bet in self._bets]))

    def orders(self, size: int) -> list[Order]:
        """Return what the next `play` will draw, on the first and on the second side."""
        sides = (("first", self._pair.first), ("second", self._pair.second))
        return [Order(dataset=d, size=size, root=self._root, side=side, indices=(self._rounds,)) for side, d in sides]

    def play(self, size: int) -> None:
        """Draw `size` outputs on each side; bet on them, then learn from them."""
        x, y = map(self._draw, self.orders(size))
        if self._rounds:
            for bet in self._bets:
                bet.place(x, y)
        self._learn(x, y)
        self._rounds += 1

    def _learn(self, x: Floats, y: Floats) -> None:
        if self._seen is not None:
            x, y = (np.concatenate([old, new])[-_MOST_REMEMBERED:] for old, new in zip(self._seen, (x, y), strict=True))
        first, self._seen = self._seen is None, (x, y)
        seed = _rng.seed_of(self._root, "learning", self._rounds)
        events = candidates(x, y, seed=seed, float_bits=self._float_bits)
        for bet in self._bets:
            bet.event = events.best(*bet.point, reverse=bet.reverse)
        if first:  # before the first bet, the wealth may be spread as the pilot suggests
            promised = np.array([bet.event.growth if bet.event is not None else 0.0 for bet in self._bets])
            weights = self._shares * np.exp(np.minimum(_PATIENCE * promised, 3.0))
            self._shares = 0.5 * self._shares + 0.5 * weights / weights.sum()

    def refuted_points(self, error: float) -> list[tuple[float, float]]:
        """Return the claimed points that are refuted on their own share of the wealth."""
        limits = -math.log(error) - np.log(self._shares)
        return sorted({bet.point for bet, limit in zip(self._bets, limits, strict=True) if bet.log_wealth >= limit})

    def describe(self) -> str:
        """Name the data sets and the event on which most was won."""
        best = max(self._bets, key=lambda bet: bet.log_wealth)
        if best.event is None:
            return f"{self._pair.name}, where both sides gave the same output"
        sides = "second over first" if best.reverse else "first over second"
        return (
            f"{self._pair.name} ({sides}), event {best.event}, seen at rates {best.event.p:.4g} and {best.event.q:.4g},"
            f" at epsilon {best.point[0]:g} and delta {best.point[1]:.4g}"
        )
