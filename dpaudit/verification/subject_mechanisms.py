"""Textbook mechanisms to try `check_mechanism` on, honest and broken, with the pairs that tell them apart.

Every function returns a `MechanismSubject`; `BROKEN` and `HONEST` map names to (subject, claim), `ROUNDED` and
`HONEST_ROUNDED` do so for the bits of floating-point numbers. Honest ones spend all that they claim. Queries have
sensitivity 1. The variants of the sparse vector technique are those that Lyu, Su and Li 2017 (arXiv:1603.01699,
figure 1) catalogue; those of report-noisy-max are the usual ones of StatDP (Ding et al. 2018).
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpaudit.verification.claims import PrivacyClaim
from dpaudit.verification.mechanism import MechanismSubject
from dpaudit.verification.neighbours import SUMS, Neighbours

Floats = NDArray[np.float64]
Generator = np.random.Generator


def _queries(first: ArrayLike, second: ArrayLike, name: str) -> Neighbours:
    return Neighbours(first=np.asarray(first, dtype=np.float64), second=np.asarray(second, dtype=np.float64), name=name)


COUNTS = (
    _queries([1, 1, 1, 1, 1], [2, 1, 1, 1, 1], "one count above"),
    _queries([1, 1, 1, 1, 1], [2, 2, 2, 2, 2], "all counts above"),
    _queries([1, 1, 1, 1, 1], [0, 2, 2, 2, 2], "one below, the rest above"),
    _queries([1, 1, 1, 1, 1], [0, 0, 1, 2, 2], "some below, some above"),
)
STREAMS = (
    _queries([0] * 5 + [1] * 5, [1] * 5 + [0] * 5, "halves exchanged"),
    _queries([0] * 9 + [1], [1] * 9 + [0], "the last against the rest"),
    _queries([0, 1], [1, 0], "two queries exchanged"),
    _queries([1] * 10, [0] * 10, "all below"),
    _queries([1] + [0] * 9, [0] * 10, "the first below"),
)


# Numbers


def laplace(scale: float) -> MechanismSubject:
    """Laplace noise on a sum; 1/scale-DP."""
    return MechanismSubject(mechanism=lambda d, n, rng: d + scale * rng.laplace(size=n), pairs=SUMS)


def gaussian(sigma: float) -> MechanismSubject:
    """Gaussian noise on a sum; 1/sigma-GDP."""
    return MechanismSubject(mechanism=lambda d, n, rng: d + sigma * rng.standard_normal(n), pairs=SUMS)


def _two_sided_geometric(rng: Generator, epsilon: float, size: Any) -> Floats:
    p = 1 - np.exp(-epsilon)
    return np.asarray(rng.geometric(p, size) - rng.geometric(p, size), dtype=np.float64)


def geometric(epsilon: float) -> MechanismSubject:
    """Two-sided geometric noise on a count; epsilon-DP, on whole numbers."""
    return MechanismSubject(mechanism=lambda d, n, rng: d + _two_sided_geometric(rng, epsilon, n), pairs=SUMS)


def _discrete_gaussian_table(sigma: float) -> tuple[Floats, Floats]:
    support = np.arange(-int(40 * sigma) - 1, int(40 * sigma) + 2).astype(np.float64)
    weights = np.exp(-0.5 * (support / sigma) ** 2)
    return support, weights / weights.sum()


def discrete_gaussian(sigma: float) -> MechanismSubject:
    """Discrete Gaussian noise on a count (Canonne, Kamath and Steinke, arXiv:2004.00010), by inversion of its table."""
    support, chances = _discrete_gaussian_table(sigma)
    return MechanismSubject(mechanism=lambda d, n, rng: d + rng.choice(support, n, p=chances), pairs=SUMS)


def discrete_gaussian_claim(sigma: float) -> PrivacyClaim:
    """The exact privacy profile of `discrete_gaussian`."""
    _, chances = _discrete_gaussian_table(sigma)
    shifted = np.concatenate([[0.0], chances[:-1]])
    return PrivacyClaim.profile(
        lambda epsilon: float(np.maximum(shifted - np.exp(epsilon) * chances, 0.0).sum()),
        text=f"discrete Gaussian noise of scale {sigma:g}",
    )


def naive_laplace(scale: float) -> MechanismSubject:
    """Laplace noise by inversion in floating point: the outputs on two data sets differ in their last bits.

    Mironov 2012: 1/scale-DP on paper; which numbers can come out at all depends on the data.
    """

    def draw(data: float, n: int, rng: Generator) -> Floats:
        u = rng.random(n) - 0.5
        return np.asarray(data - scale * np.sign(u) * np.log1p(-2 * np.abs(u)))

    return MechanismSubject(mechanism=draw, pairs=SUMS)


def snapped_laplace(scale: float, grid: float = 2.0**-10) -> MechanismSubject:
    """Laplace noise rounded to a grid: what is left of the holes of floating point is nothing."""
    return MechanismSubject(
        mechanism=lambda d, n, rng: np.rint((d + scale * rng.laplace(size=n)) / grid) * grid, pairs=SUMS
    )


# Counts


def noisy_histogram(epsilon: float, *, skip_empty: bool = False) -> MechanismSubject:
    """Counts with Laplace noise; with `skip_empty`, empty cells stay exactly 0, which tells that they are empty."""

    def draw(data: Floats, n: int, rng: Generator) -> Floats:
        noisy = data + rng.laplace(size=(n, len(data))) / epsilon
        return np.where(data == 0, 0.0, noisy) if skip_empty else noisy

    pair = _queries([0, 3, 5, 1], [1, 3, 5, 1], "an empty cell, and one entry in it")
    return MechanismSubject(mechanism=draw, pairs=(pair,))


NoisyMax = Literal["index", "exponential-index", "index-halved-noise", "value", "exponential-value"]


def noisy_max(epsilon: float, variant: NoisyMax = "index") -> MechanismSubject:
    """Report noisy max: the index of the largest count, with Laplace or exponential noise of scale 2/epsilon.

    Both are private. The broken variants take half the noise, or release the noisy value, of either law.
    """

    def draw(data: Floats, n: int, rng: Generator) -> Floats:
        scale = (1 if variant == "index-halved-noise" else 2) / epsilon
        noise = (
            rng.exponential(size=(n, len(data)))
            if variant.startswith("exponential")
            else rng.laplace(size=(n, len(data)))
        )
        noisy = data + scale * noise
        return np.asarray(noisy.max(axis=1) if variant.endswith("value") else noisy.argmax(axis=1), dtype=np.float64)

    return MechanismSubject(mechanism=draw, pairs=COUNTS)


def pate_vote(epsilon: float, teachers: int = 20, *, noisy: bool = True) -> MechanismSubject:
    """PATE's aggregation: the class with most votes after Laplace noise of scale 2/epsilon, or without noise."""

    def draw(votes: Floats, n: int, rng: Generator) -> Floats:
        noise = 2 / epsilon * rng.laplace(size=(n, len(votes))) if noisy else 1e-9 * rng.laplace(size=(n, len(votes)))
        return np.asarray((votes + noise).argmax(axis=1), dtype=np.float64)

    half = teachers // 2
    pair = _queries([half, half - 1, 0], [half - 1, half, 0], "one teacher votes otherwise")
    return MechanismSubject(mechanism=draw, pairs=(pair,))


# Sparse vector technique


def sparse_vector(epsilon: float, variant: int = 1, *, cutoff: int = 1, threshold: float = 1.0) -> MechanismSubject:
    """Tell which queries of a stream lie above a threshold; variants 1 to 6 of Lyu, Su and Li 2017.

    1 and 2 are private; 3 releases the noisy answers, 4 forgets the cutoff in the noise of the queries, 5 adds no
    noise to the queries, 6 neither counts nor scales with the positives.
    Outputs are 1 (above), 0 (below), -1 (stopped); variant 3 gives the answer plus 100 instead of 1.
    """
    if variant not in _SPARSE:
        raise ValueError(f"variant must be one of {sorted(_SPARSE)}; got {variant}.")
    rho_scale, query_scale, stops = _SPARSE[variant](epsilon, cutoff)

    def draw(queries: Floats, n: int, rng: Generator) -> Floats:
        bar = threshold + rho_scale * rng.laplace(size=n)
        noisy = queries + query_scale * rng.laplace(size=(n, len(queries)))
        out = np.full((n, len(queries)), -1.0)
        positives, running = np.zeros(n, dtype=int), np.ones(n, dtype=bool)
        for i in range(len(queries)):
            above = noisy[:, i] >= bar
            answer = np.where(above, noisy[:, i] + 100 if variant == 3 else 1.0, 0.0)
            out[running, i] = answer[running]
            positives += above & running
            if variant == 2:  # a fresh bar after each positive
                bar = np.where(above, threshold + rho_scale * rng.laplace(size=n), bar)
            if stops:
                running &= positives < cutoff
        return out

    return MechanismSubject(mechanism=draw, pairs=STREAMS)


_SPARSE: dict[int, Callable[[float, int], tuple[float, float, bool]]] = {
    1: lambda e, c: (2 / e, 4 * c / e, True),
    2: lambda e, c: (2 * c / e, 4 * c / e, True),
    3: lambda e, c: (2 / e, 2 * c / e, True),
    4: lambda e, c: (4 / e, 4 / (3 * e), True),  # noqa: ARG005
    5: lambda e, c: (2 / e, 0.0, False),  # noqa: ARG005
    6: lambda e, c: (2 / e, 2 / e, False),  # noqa: ARG005
}


def constant(value: float = 0.0) -> MechanismSubject:
    """A mechanism that ignores its data; 0-DP."""
    return MechanismSubject(mechanism=lambda d, n, rng: np.full(n, value), pairs=SUMS)  # noqa: ARG005


def _pure(subject: MechanismSubject, epsilon: float = 1.0) -> tuple[MechanismSubject, PrivacyClaim]:
    return subject, PrivacyClaim.approximate(epsilon)


HONEST: dict[str, tuple[MechanismSubject, PrivacyClaim]] = {
    "laplace": _pure(laplace(1.0)),
    "gaussian": (gaussian(1.0), PrivacyClaim.gaussian(1.0)),
    "discrete gaussian": (discrete_gaussian(1.0), discrete_gaussian_claim(1.0)),
    "geometric": _pure(geometric(1.0)),
    "noisy histogram": _pure(noisy_histogram(1.0)),
    "noisy max": _pure(noisy_max(1.0)),
    "exponential noisy max": _pure(noisy_max(1.0, "exponential-index")),
    "PATE vote": _pure(pate_vote(1.0)),
    "sparse vector 1": _pure(sparse_vector(1.0, 1)),
    "sparse vector 2": _pure(sparse_vector(1.0, 2)),
}
BROKEN: dict[str, tuple[MechanismSubject, PrivacyClaim]] = {
    "half the Laplace noise": _pure(laplace(0.5)),
    "half the Gaussian noise": (gaussian(0.5), PrivacyClaim.gaussian(1.0)),
    "half the discrete Gaussian noise": (discrete_gaussian(0.5), discrete_gaussian_claim(1.0)),
    "half the geometric noise": _pure(geometric(2.0)),
    "histogram of what is there": _pure(noisy_histogram(1.0, skip_empty=True)),
    "noisy max with half the noise": _pure(noisy_max(1.0, "index-halved-noise")),
    "noisy max with its value": _pure(noisy_max(1.0, "value")),
    "exponential noisy max with its value": _pure(noisy_max(1.0, "exponential-value")),
    "votes without noise": _pure(pate_vote(1.0, noisy=False)),
    "sparse vector 3": _pure(sparse_vector(1.0, 3)),
    "sparse vector 4": _pure(sparse_vector(1.0, 4, cutoff=3)),
    "sparse vector 5": _pure(sparse_vector(1.0, 5)),
    "sparse vector 6": _pure(sparse_vector(1.0, 6)),
}
ROUNDED: dict[str, tuple[MechanismSubject, PrivacyClaim]] = {
    "naive laplace": _pure(naive_laplace(1.0)),
    "NumPy's laplace": _pure(laplace(1.0)),
}
HONEST_ROUNDED: dict[str, tuple[MechanismSubject, PrivacyClaim]] = {
    "snapped laplace": _pure(snapped_laplace(1.0), 1.01),
}
