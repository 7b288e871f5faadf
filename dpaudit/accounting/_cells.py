"""Pairs of output distributions to privacy losses on a grid, pessimistically ("connect the dots").

For every cell between two neighbouring losses, the mass under both distributions is split between the two ends so
that both masses stay what they are. This is Algorithm 1 of Doroshenko, Ghazi, Kamath, Kumar, Manurangsi
(arXiv:2207.04380), written with the masses of the cells in place of differences of the divergence, which keeps
relative precision in both tails.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from dpaudit.accounting._pmf import Floats, Pld, Pmf, check_size

_TABLE = 20_001
_REACH = 10.0  # standard deviations: the mass beyond is below 1e-23, and is put at the pessimistic end


def _index_range(low: float, high: float, step: float) -> tuple[int, int]:
    check_size((high - low) / step)
    first, last = math.floor(low / step), math.ceil(high / step)
    return first, max(last, first + 1)


def _grid(first: int, last: int, step: float) -> Floats:
    return np.asarray(step * np.arange(first, last + 1), dtype=np.float64)


def spread(first: int, upper: Floats, lower: Floats, step: float, *, below: float = 0.0, above: float = 0.0) -> Pmf:
    """Put cells on their ends. Cell i lies between the losses (first + i) * step and (first + i + 1) * step.

    `upper` and `lower` are the masses of the cells under the two distributions, `below` the upper mass of all
    losses under the grid (moved up to its first point), `above` that of all losses over it (moved to infinity).
    """
    low = step * (first + np.arange(upper.size))
    split = (lower > 0) & (low < 600)  # elsewhere e^loss has no room: all of the mass goes to the high end
    with np.errstate(over="ignore"):
        at_high = np.where(split, upper - lower * np.exp(np.minimum(low, 600)), upper) / -math.expm1(-step)
    at_high = np.where(split, np.clip(at_high, 0.0, upper), upper)
    probs = np.append(upper - at_high, 0.0)
    probs[1:] += at_high
    probs[0] += below
    return Pmf(step=step, offset=first, probs=probs, infinity=above)


def _both(
    first: int, upper: Floats, lower: Floats, step: float, ends: tuple[tuple[float, float], tuple[float, float]]
) -> Pld:
    """Return both directions from one set of cells; `ends` holds (upper, lower) mass under and over the grid."""
    (upper_below, lower_below), (upper_above, lower_above) = ends
    remove = spread(first, upper, lower, step, below=upper_below, above=upper_above)
    last = first + upper.size
    add = spread(-last, lower[::-1], upper[::-1], step, below=lower_above, above=lower_below)
    return Pld(remove=remove, add=add)


def _normal_mass(edges: Floats) -> Floats:
    """Return the standard normal mass between neighbouring edges, with relative precision in both tails."""
    tails = ndtr(-np.abs(edges))
    same_side = np.signbit(edges[:-1]) == np.signbit(edges[1:])
    return np.asarray(np.where(same_side, np.abs(tails[1:] - tails[:-1]), 1 - tails[1:] - tails[:-1]))


def _sampled_inverse(loss: Floats, rate: float) -> Floats:
    """Return the x whose sub-sampled loss log(1 - rate + rate e^x) is `loss`; -infinity under the least."""
    if rate == 1:
        return loss
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        small = np.log1p(np.maximum(np.expm1(np.minimum(loss, 30.0)) / rate, -1.0))
        large = loss - math.log(rate) + np.log1p(-(1 - rate) * np.exp(-loss))
    return np.asarray(np.where(loss > 30.0, large, small))


def _sampled_loss(loss: float, rate: float) -> float:
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + loss)) if rate < 1 else loss


def gaussian(noise_multiplier: float, rate: float, step: float) -> Pld:
    """Return the loss of a Poisson-sampled Gaussian when one unit is added or removed.

    The pair is ((1 - rate) N(0, z^2) + rate N(1, z^2), N(0, z^2)) and its reverse (Zhu, Dong, Wang, arXiv:2106.08567).
    """
    z, half = noise_multiplier, 1 / (2 * noise_multiplier**2)
    low, high = (_sampled_loss(2 * half * x - half, rate) for x in (-_REACH * z, 1 + _REACH * z))
    first, last = _index_range(low, high, step)
    loss = _grid(first, last, step)
    x = z * z * _sampled_inverse(loss, rate) + 0.5
    mass0, mass1 = _normal_mass(x / z), _normal_mass((x - 1) / z)
    below0, below1 = float(ndtr(x[0] / z)), float(ndtr((x[0] - 1) / z))
    above0, above1 = float(ndtr(-x[-1] / z)), float(ndtr((1 - x[-1]) / z))
    ends = (
        ((1 - rate) * below0 + rate * below1, below0),
        ((1 - rate) * above0 + rate * above1, above0),
    )
    both = _both(first, (1 - rate) * mass0 + rate * mass1, mass0, step, ends)
    return Pld(remove=both.remove) if rate == 1 else both


def gaussian_replaced(noise_multiplier: float, rate: float, step: float) -> Pld:
    """Return the loss of a Poisson-sampled Gaussian when one unit is replaced by another.

    The pair is ((1 - rate) N(0, z^2) + rate N(1, z^2), (1 - rate) N(0, z^2) + rate N(-1, z^2)), symmetric.
    """
    z = noise_multiplier
    if rate == 1:
        return gaussian(z / 2, 1.0, step)

    def loss_at(x: float) -> float:
        return _sampled_loss((2 * x - 1) / (2 * z * z), rate) - _sampled_loss((-2 * x - 1) / (2 * z * z), rate)

    reach = loss_at(1 + _REACH * z)
    first, last = _index_range(-reach, reach, step)
    loss = _grid(first, last, step)
    # rate e^(-1/2zz) 2 sinh(x/zz - l/2) = (1 - rate) 2 sinh(l/2), solved for x in log space
    with np.errstate(divide="ignore"):
        size = np.abs(loss) / 2 + np.log(-np.expm1(-np.abs(loss))) - math.log(2)
    log_sinh = math.log1p(-rate) - math.log(rate) + 1 / (2 * z * z) + size
    asinh = np.logaddexp(log_sinh, 0.5 * np.logaddexp(0.0, 2 * log_sinh))
    x = z * z * (loss / 2 + np.sign(loss) * asinh)
    middle, right, left = _normal_mass(x / z), _normal_mass((x - 1) / z), _normal_mass((x + 1) / z)
    upper, lower = (1 - rate) * middle + rate * right, (1 - rate) * middle + rate * left
    below = float((1 - rate) * ndtr(x[0] / z) + rate * ndtr((x[0] - 1) / z))
    above = float((1 - rate) * ndtr(-x[-1] / z) + rate * ndtr((1 - x[-1]) / z))
    return Pld(remove=spread(first, upper, lower, step, below=below, above=above))


def mixture(noise_multiplier: float, sensitivities: Floats, probabilities: Floats, step: float) -> Pld:
    """Return the loss of N(c, z^2), c random and secret, against N(0, z^2), in both directions (arXiv:2310.15526).

    The loss grows with the outcome and is inverted numerically; a wrong digit there moves mass by as much, no more.
    """
    z = noise_multiplier
    used = probabilities > 0
    c, log_p = sensitivities[used], np.log(probabilities[used])
    far = np.array([-60.0 * z, float(c.max()) + 60.0 * z])

    def loss_and_slope(x: Floats) -> tuple[Floats, Floats]:
        terms = np.add.outer(x, -c / 2) * (c / (z * z)) + log_p
        top = terms.max(axis=-1, keepdims=True)
        weights = np.exp(terms - top)
        total = weights.sum(axis=-1)
        return top[..., 0] + np.log(total), (weights @ c) / total / (z * z)

    low, high = loss_and_slope(np.array([-_REACH * z, float(c.max()) + _REACH * z]))[0]
    first, last = _index_range(float(low), float(high), step)
    loss = _grid(first, last, step)
    table = np.linspace(far[0], far[1], _TABLE)
    x = np.interp(loss, loss_and_slope(table)[0], table)
    for _ in range(4):  # Newton: from an interpolated start each step doubles the digits
        value, slope = loss_and_slope(x)
        x = np.clip(x + (loss - value) / np.maximum(slope, 1e-300), far[0], far[1])
    x = np.maximum.accumulate(np.where(loss <= loss_and_slope(far[:1])[0], -np.inf, x))
    p = np.exp(log_p)

    def weighted(masses: list[Floats]) -> Floats:
        return np.asarray(p @ np.array(masses))

    mass0, mass1 = _normal_mass(x / z), weighted([_normal_mass((x - shift) / z) for shift in c])
    below0, below1 = float(ndtr(x[0] / z)), float(p @ ndtr((x[0] - c) / z))
    above0, above1 = float(ndtr(-x[-1] / z)), float(p @ ndtr((c - x[-1]) / z))
    return _both(first, mass1, mass0, step, ((below1, below0), (above1, above0)))


def _with_atoms(
    step: float, atoms: tuple[tuple[float, float, float], ...], cdfs: Callable[[Floats], tuple[Floats, Floats]] | None
) -> Pld:
    """Return the loss of a pair with atoms (loss, upper mass, lower mass) and, between them, a density by its CDFs."""
    losses = [loss for loss, _, _ in atoms]
    first, last = _index_range(min(losses), max(losses), step)
    edges = _grid(first, last, step)
    if cdfs is None:
        upper, lower = np.zeros(last - first), np.zeros(last - first)
    else:
        upper, lower = (np.diff(cdf) for cdf in cdfs(edges))
    for loss, upper_mass, lower_mass in atoms:
        cell = min(max(math.floor(loss / step) - first, 0), last - first - 1)
        upper[cell] += upper_mass
        lower[cell] += lower_mass
    return _both(first, np.maximum(upper, 0), np.maximum(lower, 0), step, ((0.0, 0.0), (0.0, 0.0)))


def laplace(noise_multiplier: float, rate: float, step: float) -> Pld:
    """Return the loss of a Poisson-sampled Laplace mechanism when one unit is added or removed.

    Without sampling, the loss of Lap(1, b) against Lap(0, b) is (2x - 1)/b cut to [-1/b, 1/b].
    """
    b = noise_multiplier
    top, bottom = _sampled_loss(1 / b, rate), _sampled_loss(-1 / b, rate)
    tail = 0.5 * math.exp(-1 / b)  # mass of Lap(1, b) under 0 and of Lap(0, b) over 1

    def cdfs(edges: Floats) -> tuple[Floats, Floats]:
        inner = np.clip(_sampled_inverse(edges, rate), -1 / b, 1 / b)
        x = np.where(edges >= top, 1.0, np.where(edges <= bottom, 0.0, (inner * b + 1) / 2))
        with_unit, without = 0.5 * np.exp((x - 1) / b), 1 - 0.5 * np.exp(-x / b)
        return (1 - rate) * without + rate * with_unit, without

    atoms = (
        (top, (1 - rate) * tail + rate * 0.5, tail),
        (bottom, (1 - rate) * 0.5 + rate * tail, 0.5),
    )
    both = _with_atoms(step, atoms, cdfs)
    return Pld(remove=both.remove) if rate == 1 else both


def approximate(epsilon: float, delta: float, step: float) -> Pld:
    """Return the worst loss of any (epsilon, delta)-DP mechanism (Kairouz, Oh, Viswanath, arXiv:1311.0776)."""
    share = 1 / (1 + math.exp(-epsilon))
    atoms = ((epsilon, share, 1 - share), (-epsilon, 1 - share, share))
    loss = _with_atoms(step, atoms, None).remove
    return Pld(remove=Pmf(step=step, offset=loss.offset, probs=(1 - delta) * loss.probs, infinity=delta))


def symmetrised(pmf: Pmf) -> Pld:
    """Return the pair whose divergence is that of `pmf` for every epsilon >= 0, in both directions.

    For sampling without replacement the divergence of "remove" bounds both directions at epsilon >= 0
    (arXiv:2106.08567, Proposition 30); a symmetric loss has mass e^-l p(l) at -l for every l > 0.
    """
    start = max(0, 1 - pmf.offset)  # of the losses above 0
    tail = pmf.probs[start:]
    mirrored = tail * np.exp(-pmf.losses[start:])
    size = pmf.offset + pmf.probs.size - 1
    probs = np.zeros(2 * size + 1)
    from_index = pmf.offset + start
    probs[size + from_index :] = tail
    probs[: size + 1 - from_index] = mirrored[::-1]
    probs[size] = max(0.0, 1 - pmf.infinity - float(tail.sum()) - float(mirrored.sum()))
    return Pld(remove=Pmf(step=pmf.step, offset=-size, probs=probs, infinity=pmf.infinity))
