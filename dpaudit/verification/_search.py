"""Several pairs of neighbouring data sets under one error probability: who is drawn from, who holds how much wealth."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from dpaudit.verification._betting import Contest
from dpaudit.verification.draws import Order

_PILOT, _GROWTH = 40, 1.35


class Search:
    """A sequential test over all contests: the weighted average of their wealths is one fair bet under the claim.

    Each contest begins with a pilot that only learns. Then the wealth is shared out, half of it evenly and half by
    the rank of what the pilots promise; nothing has been bet before, so that choice costs no correction.
    """

    def __init__(self, contests: Sequence[Contest], prefetch: Callable[[list[Order]], None] = lambda _: None) -> None:
        """Play these contests; `prefetch` is told what each round may draw."""
        self.contests, self._prefetch = contests, prefetch
        self.shares = np.full(len(contests), 1 / len(contests))
        self.used = 0

    @property
    def log_wealth(self) -> float:
        """Logarithm of the average wealth."""
        return float(np.logaddexp.reduce(np.log(self.shares) + [contest.log_e_value for contest in self.contests]))

    def play(self, significance: float, max_pairs: int) -> None:
        """Draw in growing blocks until the wealth reaches 1/significance or the budget is used."""
        self._announce([(contest, _PILOT) for contest in self.contests], max_pairs)
        for contest in self.contests:
            self._draw(contest, _PILOT, max_pairs)
        self._share_out()
        block = _PILOT / 2
        while self.used < max_pairs:
            allotted = self._allotted(block)
            self._announce(allotted, max_pairs)
            for contest, wanted in allotted:
                self._draw(contest, wanted, max_pairs)
                if self.log_wealth >= -math.log(significance):
                    return
            block *= _GROWTH

    def _announce(self, allotted: list[tuple[Contest, int]], max_pairs: int) -> None:
        """Say what a round will draw if nothing ends it early."""
        orders, left = [], max_pairs - self.used
        for contest, wanted in allotted:
            size = min(wanted, left)
            left -= size
            orders += contest.orders(size) if size > 0 else []
        self._prefetch(orders)

    def _draw(self, contest: Contest, wanted: int, max_pairs: int) -> None:
        size = min(wanted, max_pairs - self.used)
        if size > 0:
            contest.play(size)
            self.used += size

    def _share_out(self) -> None:
        count = len(self.contests)
        if count == 1:
            return
        rank = np.empty(count)
        rank[np.argsort([-contest.promise for contest in self.contests], kind="stable")] = np.arange(1, count + 1)
        by_rank = 1 / (rank * (rank + 1))
        self.shares = 0.5 / count + 0.5 * by_rank / by_rank.sum()

    def _allotted(self, block: float) -> list[tuple[Contest, int]]:
        """Return how many outputs each contest gets in a round of `block` outputs per contest on average.

        The most promising one gets half, the others share the rest. Which one that is depends on the past alone, so
        that the average wealth stays a fair bet.
        """
        count = len(self.contests)
        if count == 1:
            return [(self.contests[0], int(block))]
        leader = max(self.contests, key=lambda contest: contest.promise)
        half = block * count / 2
        return [(one, int(half) if one is leader else max(1, int(half / (count - 1)))) for one in self.contests]
