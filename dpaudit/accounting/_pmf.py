"""Privacy loss distributions on a grid: composition by FFT, hockey-stick divergence, epsilon at delta.

A `Pmf` is the law of the loss log(upper/lower) under `upper`, rounded to a grid so that the hockey-stick divergence
never gets smaller ("pessimistic"); mass that the grid cannot hold is at +infinity. A `Pld` holds one Pmf for each
direction of the neighbouring relation. Composition adds losses (Koskela, Jalko, Honkela, arXiv:1906.03049); tails
that are cut go to the pessimistic side (up to +infinity, or to the lowest grid point kept).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float64]
TAIL = 1e-15  # mass that one composition may move to a pessimistic place
_SPARSE = 16
MAX_POINTS = 4_000_000


class TooFine(Exception):
    """The grid would hold more than MAX_POINTS points."""


def check_size(points: float) -> None:
    """Raise TooFine for a grid that would not fit."""
    if not points <= MAX_POINTS:
        raise TooFine


@dataclass(frozen=True, slots=True, kw_only=True)
class Pmf:
    """Probabilities of the losses (offset + i) * step, and `infinity`, the mass of an unbounded loss."""

    step: float
    offset: int
    probs: Floats
    infinity: float = 0.0

    @property
    def losses(self) -> Floats:
        """The grid of losses."""
        return np.asarray(self.step * (self.offset + np.arange(self.probs.size)), dtype=np.float64)

    def mixed(self, other: "Pmf", weight: float) -> "Pmf":
        """Return the loss when a coin that everybody sees chooses `other` with probability `weight`, else this."""
        low = min(self.offset, other.offset)
        probs = np.zeros(max(self.offset + self.probs.size, other.offset + other.probs.size) - low)
        for pmf, share in ((self, 1 - weight), (other, weight)):
            probs[pmf.offset - low : pmf.offset - low + pmf.probs.size] += share * pmf.probs
        infinity = (1 - weight) * self.infinity + weight * other.infinity
        return Pmf(step=self.step, offset=low, probs=probs, infinity=infinity)

    def plus(self, other: "Pmf") -> "Pmf":
        """Return the loss of both mechanisms one after the other."""
        size = self.probs.size + other.probs.size - 1
        check_size(size)
        probs, noise = cleaned(_convolved(self.probs, other.probs, size))
        infinity = 1 - (1 - self.infinity) * (1 - other.infinity) + noise
        return trimmed(Pmf(step=self.step, offset=self.offset + other.offset, probs=probs, infinity=infinity))

    def profile(self) -> "Profile":
        """Return the privacy profile, ready for many questions."""
        start = max(0, -self.offset)
        losses, probs = self.losses[start:], self.probs[start:]
        above = np.append(np.cumsum(probs[::-1])[::-1], 0.0) + self.infinity
        below = np.append(np.cumsum((probs * np.exp(-losses))[::-1])[::-1], 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            at_grid = above[1:] - np.where(below[1:] > 0, np.exp(losses) * below[1:], 0.0)
        at_grid = np.maximum.accumulate(np.maximum(at_grid, self.infinity)[::-1])[::-1]
        return Profile(losses=losses, above=above, below=below, at_grid=at_grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The hockey-stick divergence of a Pmf for epsilon >= 0.

    Between two grid points it is above[i] - e^epsilon below[i], where i is the first loss over epsilon, `above` the
    mass of the losses from there on under the upper and `below` under the lower distribution.
    """

    losses: Floats
    above: Floats
    below: Floats
    at_grid: Floats

    def delta(self, epsilon: Floats) -> Floats:
        """Return the divergence at each epsilon >= 0."""
        first = np.searchsorted(self.losses, epsilon, side="right")
        with np.errstate(over="ignore", invalid="ignore"):
            lost = np.where(self.below[first] > 0, np.exp(epsilon) * self.below[first], 0.0)
        return np.asarray(np.maximum(self.above[first] - lost, self.above[-1]))

    def epsilon(self, delta: Floats) -> Floats:
        """Return the least epsilon >= 0 whose divergence is at most each delta; infinity where there is none."""
        # the first grid point at which the divergence, which falls along the grid, is at most delta
        cell = self.at_grid.size - np.searchsorted(self.at_grid[::-1], delta, side="right")
        known = np.minimum(cell, self.at_grid.size - 1) if self.at_grid.size else cell
        above, below = self.above[known], self.below[known]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            crossing = np.log((above - delta) / below)
        # the grid point itself is an upper bound too: `below` underflows far out
        ends = self.losses[known] if self.losses.size else np.zeros(known.shape)
        found = np.where(below > 0, np.minimum(crossing, ends), ends)
        found = np.where(above - below <= delta, 0.0, np.maximum(found, 0.0))
        return np.asarray(np.where(self.above[-1] > delta, np.inf, np.where(cell == self.at_grid.size, 0.0, found)))


def _convolved(first: Floats, second: Floats, size: int) -> Floats:
    """Return the convolution: exactly if one of the two has few atoms, else by FFT."""
    for sparse, dense in ((first, second), (second, first)):
        atoms = np.flatnonzero(sparse)
        if atoms.size <= _SPARSE:
            total = np.zeros(size)
            for atom in atoms:
                total[atom : atom + dense.size] += sparse[atom] * dense
            return total
    length = fft.next_fast_len(size, real=True)
    return np.asarray(fft.irfft(fft.rfft(first, length) * fft.rfft(second, length), length)[:size], dtype=np.float64)


def cleaned(probs: Floats) -> tuple[Floats, float]:
    """Return probabilities without the negative noise of an FFT, and an allowance for the noise that has no sign.

    The noise is symmetric: what shows as negative stands for as much that does not show. Four times as much goes
    to infinity, so that noise cannot make a bound too small.
    """
    return np.maximum(probs, 0.0), -4.0 * float(probs[probs < 0].sum())


def trimmed(pmf: Pmf, tail: float = TAIL) -> Pmf:
    """Cut at most `tail` of mass: the upper end goes to infinity, the lower end up to the lowest point kept."""
    first = int(np.searchsorted(np.cumsum(pmf.probs), tail / 2, side="right"))
    last = pmf.probs.size - int(np.searchsorted(np.cumsum(pmf.probs[::-1]), tail / 2, side="right"))
    first, last = (0, pmf.probs.size) if last <= first else (first, last)
    probs = pmf.probs[first:last].copy()
    probs[0] += float(pmf.probs[:first].sum())
    infinity = pmf.infinity + float(pmf.probs[last:].sum())
    return Pmf(step=pmf.step, offset=pmf.offset + first, probs=probs, infinity=infinity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pld:
    """The losses in both directions: `remove` (the unit is in the upper data set) and `add`, None if the same."""

    remove: Pmf
    add: Pmf | None = None

    @property
    def step(self) -> float:
        """The width of the grid."""
        return self.remove.step

    def mapped(self, function: Callable[[Pmf], Pmf]) -> "Pld":
        """Apply a function to both directions."""
        return Pld(remove=function(self.remove), add=None if self.add is None else function(self.add))

    def plus(self, other: "Pld") -> "Pld":
        """Return the composition with another mechanism."""
        remove = self.remove.plus(other.remove)
        if self.add is None and other.add is None:
            return Pld(remove=remove)
        return Pld(remove=remove, add=(self.add or self.remove).plus(other.add or other.remove))

    def mixed(self, other: "Pld", weight: float) -> "Pld":
        """Return the loss when a coin that everybody sees chooses `other` with probability `weight`, else this."""
        remove = self.remove.mixed(other.remove, weight)
        if self.add is None and other.add is None:
            return Pld(remove=remove)
        return Pld(remove=remove, add=(self.add or self.remove).mixed(other.add or other.remove, weight))

    def profiles(self) -> tuple[Profile, ...]:
        """Return the profile of each direction."""
        return tuple(pmf.profile() for pmf in (self.remove, self.add) if pmf is not None)

    def epsilon(self, delta: float) -> float:
        """Return the least epsilon at `delta` in both directions; infinity if there is none."""
        return max(float(profile.epsilon(np.asarray(delta))) for profile in self.profiles())


def identity(step: float) -> Pld:
    """Return the loss of a mechanism that tells nothing."""
    return Pld(remove=Pmf(step=step, offset=0, probs=np.ones(1)))
