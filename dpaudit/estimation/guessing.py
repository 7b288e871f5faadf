"""Scores to guesses: the highest r/2 scores are guessed "in", the lowest r/2 "out", the rest is not guessed."""

import numpy as np

from dpaudit.estimation.sources import Source


def correct_guesses(source: Source, guesses: int, rng: np.random.Generator) -> int:
    """Return how many of `guesses` two-sided guesses are right.

    The guessed set depends on the scores alone, never on the coins: ties at the two edges are broken by lot, which
    has the same law as shuffling the canaries first. O(n) time.

    Args:
        source: Scores of the included ("member") and excluded ("non_member") canaries.
        guesses: Number r of guesses, at most the number of canaries; the odd one goes to the top.
        rng: Only drawn from when scores tie at an edge.
    """
    size = source.members + source.non_members
    top, bottom = guesses - guesses // 2, guesses // 2
    edges = source.largest("pooled", [top, size - bottom + 1] if bottom else [top])
    tally = source.tally(edges)
    above, at = int(tally.member_above[0]), int(tally.member_at[0])
    other_above, other_at = int(tally.other_above[0]), int(tally.other_at[0])
    free = top - above - other_above
    taken = int(rng.hypergeometric(at, other_at, free))
    right = above + taken
    if not bottom:
        return right
    at, other_at = int(tally.member_at[1]), int(tally.other_at[1])
    below = source.members - int(tally.member_above[1]) - at
    other_below = source.non_members - int(tally.other_above[1]) - other_at
    if edges[0] == edges[1]:  # what the top took at the shared edge is no longer there
        at, other_at = at - taken, other_at - (free - taken)
    return right + other_below + int(rng.hypergeometric(other_at, at, bottom - below - other_below))
