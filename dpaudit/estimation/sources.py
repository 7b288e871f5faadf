"""Where scores come from: arrays in memory, or batches that are read again on every pass.

The estimators ask only for order statistics, counts above thresholds, moments and a sample, so that a file of any size
gives the same bound as its scores in memory, with memory that does not grow with the file.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit._rng import stream
from dpaudit.records import ScoreSet

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Side = Literal["pooled", "non_member"]

SAMPLE = 100_000
_DIGIT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Numbers of scores above and exactly at each of some thresholds, by side."""

    member_above: Counts
    member_at: Counts
    other_above: Counts
    other_at: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and sum of squared deviations of one side."""

    n: int
    mean: float
    squares: float


class Source(Protocol):
    """What an estimator may ask of scores."""

    @property
    def members(self) -> int:
        """Number of member scores."""

    @property
    def non_members(self) -> int:
        """Number of non-member scores."""

    def largest(self, side: Side, ranks: Sequence[int]) -> list[float]:
        """Return the rank-th largest score of a side, for each rank (1 is the maximum)."""

    def tally(self, thresholds: Sequence[float]) -> Tally:
        """Count the scores above and at each threshold."""

    def moments(self) -> tuple[Moments, Moments]:
        """Return the moments of members and of non-members."""

    def sample(self, seed: int) -> ScoreSet:
        """Return all scores, or a random SAMPLE of each side, in their order."""

    def prefix(self) -> ScoreSet:
        """Return the first SAMPLE scores of each side, in their order."""

    def halves(self, seed: int) -> "tuple[Source, Source]":
        """Return two random halves."""


def _tally_one(scores: Floats, thresholds: Floats) -> tuple[Counts, Counts]:
    """Count scores above and at each of the sorted thresholds."""
    if thresholds.size <= 2:
        above = [int(np.count_nonzero(scores > t)) for t in thresholds]
        return np.array(above), np.array([int(np.count_nonzero(scores == t)) for t in thresholds])
    k = thresholds.size
    below = np.cumsum(np.bincount(np.searchsorted(thresholds, scores, "left"), minlength=k + 1))[:k]
    strictly = np.cumsum(np.bincount(np.searchsorted(thresholds, scores, "right"), minlength=k + 1))[:k]
    # `below` counts scores <= threshold, `strictly` counts scores < threshold.
    return scores.size - below, below - strictly


def _moments(scores: Floats) -> Moments:
    """Return the moments; infinite where double precision cannot hold them, which the estimators refuse."""
    n = int(scores.size)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, squares = (float(np.mean(scores)), float(np.var(scores)) * n) if n else (0.0, 0.0)
    return Moments(n=n, mean=mean, squares=squares if math.isfinite(squares) else math.inf)


@dataclass(frozen=True)
class ArraySource:
    """Scores in memory."""

    scores: ScoreSet

    @property
    def members(self) -> int:
        """Number of member scores."""
        return int(self.scores.member.size)

    @property
    def non_members(self) -> int:
        """Number of non-member scores."""
        return int(self.scores.non_member.size)

    def largest(self, side: Side, ranks: Sequence[int]) -> list[float]:
        """Return the rank-th largest score of a side, for each rank (1 is the maximum)."""
        values = self._pooled if side == "pooled" else self.scores.non_member
        places = [values.size - rank for rank in ranks]
        ordered = np.partition(values, sorted(set(places)))
        return [float(ordered[place]) for place in places]

    @cached_property
    def _pooled(self) -> Floats:
        return np.concatenate([self.scores.member, self.scores.non_member])

    def tally(self, thresholds: Sequence[float]) -> Tally:
        """Count the scores above and at each threshold."""
        return tally_of([self.scores], thresholds)

    def moments(self) -> tuple[Moments, Moments]:
        """Return the moments of members and of non-members."""
        return _moments(self.scores.member), _moments(self.scores.non_member)

    def sample(self, seed: int) -> ScoreSet:
        """Return all scores, or a random SAMPLE of each side, in their order."""
        rng = stream(seed, "estimation/sample")

        def part(values: Floats) -> Floats:
            if values.size <= SAMPLE:
                return values
            return np.asarray(values[np.sort(rng.choice(values.size, SAMPLE, replace=False, shuffle=False))])

        return ScoreSet(member=part(self.scores.member), non_member=part(self.scores.non_member))

    def prefix(self) -> ScoreSet:
        """Return the first SAMPLE scores of each side, in their order."""
        return ScoreSet(member=self.scores.member[:SAMPLE], non_member=self.scores.non_member[:SAMPLE])

    def halves(self, seed: int) -> tuple["ArraySource", "ArraySource"]:
        """Return two random halves."""
        rng = stream(seed, "estimation/split")
        member, other = rng.permutation(self.scores.member), rng.permutation(self.scores.non_member)
        i, j = member.size // 2, other.size // 2
        first = ScoreSet(member=member[:i], non_member=other[:j])
        return ArraySource(first), ArraySource(ScoreSet(member=member[i:], non_member=other[j:]))


def tally_of(batches: "Iterator[ScoreSet] | Sequence[ScoreSet]", thresholds: Sequence[float]) -> Tally:
    """Count over batches."""
    wanted = np.asarray(thresholds, dtype=np.float64)
    levels, place = np.unique(wanted, return_inverse=True)
    total = np.zeros((4, levels.size), dtype=np.int64)
    for batch in batches:
        total += np.stack([*_tally_one(batch.member, levels), *_tally_one(batch.non_member, levels)])
    a, b, c, d = total[:, place]
    return Tally(member_above=a, member_at=b, other_above=c, other_at=d)


def _keys(values: Floats) -> NDArray[np.uint64]:
    """Return integers in the order of the values (0.0 and -0.0 equal)."""
    bits = (values + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def _value(key: int) -> float:
    bits = key ^ (1 << 63) if key >> 63 else ~key & (2**64 - 1)
    return float(np.array([bits], dtype=np.uint64).view(np.float64)[0])


def _merge(a: Moments, b: Moments) -> Moments:
    n = a.n + b.n
    if a.n == 0 or b.n == 0:
        return b if a.n == 0 else a
    gap = b.mean - a.mean
    return Moments(n=n, mean=a.mean + gap * b.n / n, squares=a.squares + b.squares + gap * gap * a.n * b.n / n)


@dataclass(frozen=True)
class StreamSource:
    """Scores that are read in batches, as often as needed; memory is that of one batch and the sample."""

    batches: Callable[[], Iterator[ScoreSet]]

    @cached_property
    def _moments(self) -> tuple[Moments, Moments]:
        one = other = Moments(n=0, mean=0.0, squares=0.0)
        for batch in self.batches():
            one, other = _merge(one, _moments(batch.member)), _merge(other, _moments(batch.non_member))
        return one, other

    @property
    def members(self) -> int:
        """Number of member scores."""
        return self._moments[0].n

    @property
    def non_members(self) -> int:
        """Number of non-member scores."""
        return self._moments[1].n

    def largest(self, side: Side, ranks: Sequence[int]) -> list[float]:
        """Return the rank-th largest score of a side, exactly: radix selection, four passes for any number of ranks."""
        size = self.non_members + (self.members if side == "pooled" else 0)
        # prefix of the key -> ranks (from below, 0-based, within that prefix) still to be found
        open_ranks = {rank: (0, size - rank) for rank in set(ranks)}
        for level in range(4):
            shift = 64 - _DIGIT * (level + 1)
            table = self._digits(side, {prefix for prefix, _ in open_ranks.values()}, shift)
            for rank, (prefix, place) in open_ranks.items():
                cumulative = np.cumsum(table[prefix])
                digit = int(np.searchsorted(cumulative, place, "right"))
                before = int(cumulative[digit - 1]) if digit else 0
                open_ranks[rank] = ((prefix << _DIGIT) | digit, place - before)
        return [_value(open_ranks[rank][0]) for rank in ranks]

    def _digits(self, side: Side, prefixes: set[int], shift: int) -> dict[int, Counts]:
        table = {prefix: np.zeros(1 << _DIGIT, dtype=np.int64) for prefix in prefixes}
        for batch in self.batches():
            for values in (batch.member, batch.non_member) if side == "pooled" else (batch.non_member,):
                keys = _keys(values)
                digit = ((keys >> np.uint64(shift)) & np.uint64((1 << _DIGIT) - 1)).astype(np.int64)
                above = shift + _DIGIT
                head = keys >> np.uint64(above) if above < 64 else np.zeros(keys.size, dtype=np.uint64)
                for prefix, counts in table.items():
                    np.add(counts, np.bincount(digit[head == np.uint64(prefix)], minlength=1 << _DIGIT), out=counts)
        return table

    def tally(self, thresholds: Sequence[float]) -> Tally:
        """Count the scores above and at each threshold."""
        return tally_of(self.batches(), thresholds)

    def moments(self) -> tuple[Moments, Moments]:
        """Return the moments of members and of non-members."""
        return self._moments

    def sample(self, seed: int) -> ScoreSet:
        """Return all scores, or about SAMPLE of each side drawn at random, in their order."""
        rng = stream(seed, "estimation/sample")
        shares = [min(1.0, SAMPLE / max(1, n)) for n in (self.members, self.non_members)]
        parts: tuple[list[Floats], list[Floats]] = ([], [])
        for batch in self.batches():
            for kept, values, share in zip(parts, (batch.member, batch.non_member), shares, strict=True):
                kept.append(values if share == 1 else values[rng.random(values.size) < share])
        return ScoreSet(member=np.concatenate([*parts[0], []]), non_member=np.concatenate([*parts[1], []]))

    def prefix(self) -> ScoreSet:
        """Return the first SAMPLE scores of each side, in their order."""
        parts: tuple[list[Floats], list[Floats]] = ([], [])
        for batch in self.batches():
            for kept, values in zip(parts, (batch.member, batch.non_member), strict=True):
                kept.append(values[: SAMPLE - sum(v.size for v in kept)])
            if all(sum(v.size for v in kept) >= SAMPLE for kept in parts):
                break
        return ScoreSet(member=np.concatenate([*parts[0], []]), non_member=np.concatenate([*parts[1], []]))

    def halves(self, seed: int) -> tuple["StreamSource", "StreamSource"]:
        """Return two random halves; a coin decides each score, the same on every pass."""

        def half(keep: bool) -> Callable[[], Iterator[ScoreSet]]:
            def read() -> Iterator[ScoreSet]:
                rng = stream(seed, "estimation/split")
                for batch in self.batches():
                    first, second = rng.random(batch.member.size) < 0.5, rng.random(batch.non_member.size) < 0.5
                    yield ScoreSet(member=batch.member[first == keep], non_member=batch.non_member[second == keep])

            return read

        return StreamSource(half(True)), StreamSource(half(False))
