"""Tree aggregation with restarts: the noise of DP-FTRL, from counter-based streams.

Every node of a binary tree over the rounds of a pass has one draw of noise; the sum of all contributions up to a round
carries the noise of the nodes that cover it, at most one per level (Dwork et al. 2010, Chan et al. 2011; Kairouz et
al., arXiv:2103.00039, appendix D). What the server releases in a round is the difference of two such sums: the sum of
the round, plus the noise of the node that it completes, minus that of the nodes which that one replaces. SGD on these
differences is DP-FTRL, and momentum is post-processing (section 3 and algorithm 1 there).

Nothing but the start of the current tree is kept from round to round: noise is keyed by (root, start of the tree,
attempt, level, end of the node). A round that has to be noised afresh starts a new tree, which costs a new event.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate, events
from dpaudit.federated.aggregation import Noised, State
from dpaudit.federated.clipping import clipped_sum

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]


def lowest_bit(position: int) -> int:
    """Return how many rounds the node covers that is completed at `position` (1, 2, ...) of a tree."""
    return position & -position


def replaced_nodes(position: int) -> list[tuple[int, int]]:
    """Return (rounds covered, end) of the nodes that are left for the one completed at `position`."""
    size, found = lowest_bit(position) // 2, []
    while size:
        found.append((size, position - size))
        size //= 2
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSum:
    """Gaussian noise of standard deviation `noise_multiplier * clip_norm` on every node of a tree.

    A tree covers `period` rounds, one pass over the units, so that each unit is in it once; the last one fewer.
    `noise_factor` is the planted fault of demonstrations: it scales the noise that is really added, and nothing else.
    """

    clip_norm: float
    noise_multiplier: float
    period: int
    rounds: int
    noise_factor: float = 1.0

    def __post_init__(self) -> None:
        _validate.positive(clip_norm=self.clip_norm, noise_factor=self.noise_factor)
        _validate.non_negative(noise_multiplier=self.noise_multiplier)
        _validate.positive_integer(period=self.period, rounds=self.rounds)

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return "gaussian"

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""
        return "numpy Philox4x64, keyed by SHA-256 of (root, 'tree', first round of the tree, attempt, size, end)"

    @property
    def noise_stddev(self) -> float:
        """Promised standard deviation per coordinate of a node."""
        return self.noise_multiplier * self.clip_norm

    def start(self, *, width: int, root: int) -> State:
        """Return the state before round 0: the tree that starts there."""
        del width, root
        return _state(0, 0)

    def clip_norm_of(self, state: State) -> float:
        """Return the fixed clip norm."""
        del state
        return self.clip_norm

    def clipped_sum(self, rows: Matrix, *, width: int, state: State) -> Vector:
        """Return the sum of rows clipped to the clip norm."""
        del state
        total = np.zeros(width)
        total[: rows.shape[1]] = clipped_sum(rows, clip_norm=self.clip_norm)
        return total

    def noised(self, total: Vector, *, state: State, root: int, number: int, attempt: int) -> Noised:
        """Add the noise of the node that this round completes, and take away that of the nodes which it replaces.

        The first round of a tree is recorded with the cost of the whole tree.
        """
        first = number - number % self.period
        start, tree_attempt = int(state["start"]), int(state["attempt"])
        if attempt or start < first:
            start, tree_attempt = (number, attempt) if attempt else (first, 0)

        def node(size: int, end: int) -> Vector:
            return np.asarray(_rng.stream(root, "tree", start, tree_attempt, size, end).standard_normal(total.size))

        position = number - start + 1
        noise = node(lowest_bit(position), position)
        for size, end in replaced_nodes(position):
            noise -= node(size, end)
        return Noised(
            vector=total + noise * (self.noise_stddev * self.noise_factor),
            event=self._event(start, first) if number == start else events.NoOp(),
            noise_stddev=self.noise_stddev,
            state=_state(start, tree_attempt),
            covered_by=None if number == start else start,
        )

    def _event(self, start: int, first: int) -> events.Event:
        steps = min(first + self.period, max(self.rounds, start + 1)) - start
        return events.TreeAggregation(noise_multiplier=self.noise_multiplier, steps=(steps,))


def _state(start: int, attempt: int) -> State:
    return {"start": np.asarray(start), "attempt": np.asarray(attempt)}
