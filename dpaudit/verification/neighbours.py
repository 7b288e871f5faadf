"""Pairs of neighbouring data sets: given one by one, or drawn by a strategy and searched.

A strategy is a function of a random generator that returns `Neighbours`; the ones here cover sums, vectors of counts
and lists of records. A Hypothesis strategy that yields `Neighbours` (or pairs) does as well.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dpaudit import _rng
from dpaudit.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Two neighbouring data sets."""

    first: Any
    second: Any
    name: str = "the given pair"


Strategy = Callable[[np.random.Generator], Neighbours]
Pairs = Neighbours | Iterable[Neighbours] | Strategy
"""What `check_mechanism` takes: a pair, several, or a strategy; or a Hypothesis strategy."""

SUMS = (Neighbours(first=0.0, second=1.0, name="sums 0 and 1"),)


def sums(*, sensitivity: float = 1.0, largest: float = 100.0) -> Strategy:
    """Return a strategy of two sums that differ by the sensitivity, at 0 or at a random level."""

    def draw(rng: np.random.Generator) -> Neighbours:
        level = 0.0 if rng.random() < 0.25 else float(rng.uniform(-largest, largest))
        return Neighbours(first=level, second=level + sensitivity, name=f"sums {level:.4g} and {sensitivity:.4g} more")

    return draw


def counts(length: int, *, largest: int = 3, change: Literal["one", "all", "any"] = "any") -> Strategy:
    """Return a strategy of vectors of answers that one unit changes by at most 1 each.

    Args:
        length: answers in a vector.
        largest: answers lie in 0..largest.
        change: what one unit may change: "one" answer, "all" in one direction, or "any", each up, down or not.
    """

    def draw(rng: np.random.Generator) -> Neighbours:
        first = rng.integers(0, largest + 1, length)
        moves = rng.integers(-1, 2, length)
        if change == "one":
            moves = np.eye(length, dtype=np.int64)[rng.integers(length)]
        elif change == "all":
            moves = np.full(length, rng.choice([-1, 1]))
        second = np.maximum(first + moves, 0)
        return Neighbours(
            first=first.astype(np.float64),
            second=second.astype(np.float64),
            name=f"{first.tolist()}, {second.tolist()}",
        )

    return draw


def records(
    record: Callable[[np.random.Generator], Any],
    *,
    smallest: int = 1,
    largest: int = 20,
    relation: Literal["add", "replace"] = "add",
) -> Strategy:
    """Return a strategy of lists of records: one with a record more, or with one replaced.

    Args:
        record: draws one record.
        smallest: least number of records.
        largest: largest number of records.
        relation: "add" or "replace".
    """

    def draw(rng: np.random.Generator) -> Neighbours:
        first = [record(rng) for _ in range(int(rng.integers(smallest, largest + 1)))]
        at = int(rng.integers(len(first) + 1)) if relation == "add" else int(rng.integers(len(first)))
        second = [*first[:at], record(rng), *first[at + (relation == "replace") :]]
        return Neighbours(first=first, second=second, name=f"{len(first)} records, {relation} at {at}")

    return draw


def given_pairs(pairs: Any, *, search: int, seed: int) -> list[Neighbours]:
    """Return the pairs to try: those given, or `search` different ones that a strategy draws.

    Raises: UsageError for anything but pairs of data sets.
    """
    if isinstance(pairs, Neighbours):
        return [pairs]
    if _is_hypothesis(pairs):
        found = _from_hypothesis(pairs, search, seed)
    elif callable(pairs):
        rng = _rng.stream(seed, "neighbours")
        found = [pairs(rng) for _ in range(search)]
    else:
        found = list(pairs)
    wrong = [pair for pair in found if not isinstance(pair, Neighbours)]
    if wrong:
        raise UsageError(f"pairs must be dpaudit.verification.Neighbours; got {type(wrong[0]).__name__}.")
    if not found:
        raise UsageError("check_mechanism needs at least one pair of neighbouring data sets.")
    return found


def _is_hypothesis(pairs: Any) -> bool:
    module = sys.modules.get("hypothesis.strategies")  # a strategy cannot exist before it is imported
    return module is not None and isinstance(pairs, module.SearchStrategy)


def _from_hypothesis(strategy: Any, wanted: int, seed: int) -> list[Neighbours]:
    """Return different examples of a Hypothesis strategy, small ones first, the same for the same seed."""
    import hypothesis

    found: dict[str, Neighbours] = {}

    def collect(pair: Any) -> None:
        made = pair if isinstance(pair, Neighbours) else Neighbours(first=pair[0], second=pair[1], name=repr(pair))
        found.setdefault(repr((made.first, made.second)), made)

    limits = hypothesis.settings(
        max_examples=wanted,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    library: Any = hypothesis  # some of its decorators are untyped
    library.seed(seed)(limits(library.given(strategy)(collect)))()
    return list(found.values())[:wanted]
