"""Self-composition of a privacy loss: powers of its spectrum on a window that Chernoff's bound picks."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dpaudit.accounting._pmf import TAIL, Floats, Pmf, check_size, cleaned

Spectrum = NDArray[np.complex128]
_ORDERS = np.geomspace(1e-3, 1e5, 65)  # where Chernoff's bound is tried, per unit of loss
_BLOCKS = 1024
_MANY = 2000  # from so many runs on, rounding of the spectrum (times their number) matters for small deltas
_AFFORDABLE = 30_000_000
_NEGLIGIBLE = 46  # -log of 1e-20


def _log_mgf(probs: Floats, order: float) -> float:
    """Return log sum_i probs[i] e^(order i)."""
    exponents = order * np.arange(probs.size)
    shift = float(exponents[-1]) if order > 0 else 0.0
    with np.errstate(under="ignore"):
        total = float(np.dot(probs, np.exp(exponents - shift)))
    return shift + math.log(total) if total > 0 else math.inf


def _precise_power(pmf: Pmf, count: int, highest: int, length: int) -> Spectrum:
    """Return the spectrum to the power `count` at frequencies 0..highest, without losing digits to `count`.

    Near frequency 0 the spectrum is 1 + x with a tiny x. Summing p (z^k - 1), z = e^(-2 pi i j / length), by
    z^(k+1) - 1 = (z^k - 1) z + (z - 1), keeps the relative precision of x, and so that of count * log(1 + x).
    Positions j are counted from the heaviest point.
    """
    centre = int(np.argmax(pmf.probs))
    half = (np.arange(pmf.probs.size) - centre) * (np.pi / length)
    first = -2 * np.sin(half) ** 2 - 2j * np.sin(half) * np.cos(half)
    turned, total = np.zeros_like(first), np.zeros((highest + 1, 2))
    base = 1 + first
    for index in range(1, highest + 1):
        turned *= base
        turned += first
        total[index] = pmf.probs @ turned.view(np.float64).reshape(-1, 2)
    real, imaginary = total[:, 0] + (float(pmf.probs.sum()) - 1), total[:, 1]
    log_size = 0.5 * np.log1p(2 * real + real * real + imaginary * imaginary)
    whole_turns = np.array([index * centre * count % length for index in range(highest + 1)])
    angle = count * np.arctan2(imaginary, 1 + real) - whole_turns * (2 * np.pi / length)
    return np.asarray(np.exp(count * log_size + 1j * angle), dtype=np.complex128)


class Powers:
    """Self-compositions of one Pmf, with what they share (spectra, Chernoff bounds) kept between calls."""

    def __init__(self, pmf: Pmf) -> None:
        self.pmf = pmf
        size = pmf.probs.size
        width = -(-size // _BLOCKS)
        padded = np.zeros(width * -(-size // width))
        padded[:size] = pmf.probs
        centres = np.asarray(width * (np.arange(padded.size // width) + 0.5), dtype=np.float64)
        blocks = padded.reshape(-1, width).sum(axis=1)
        self._log_mgfs = {sign: self._coarse_log_mgfs(blocks, centres, sign) for sign in (-1, 1)}
        self._bounds: dict[float, float] = {}
        self._spectra: dict[int, Spectrum] = {}

    def _coarse_log_mgfs(self, probs: Floats, centres: Floats, sign: int) -> Floats:
        exponents = np.outer(sign * _ORDERS * self.pmf.step, centres)
        shift = exponents.max(axis=1, keepdims=True)
        with np.errstate(under="ignore", divide="ignore"):
            return np.asarray(shift[:, 0] + np.log(np.exp(exponents - shift) @ probs))

    def _end(self, count: int, sign: int) -> float:
        """Return Chernoff's bound on one end; its order is chosen on a coarse copy, which costs width, not validity."""
        rough = (count * self._log_mgfs[sign] + math.log(2 / TAIL)) / _ORDERS
        order = float(sign * _ORDERS[np.argmin(rough)] * self.pmf.step)
        if order not in self._bounds:
            self._bounds[order] = _log_mgf(self.pmf.probs, order)
        return (count * self._bounds[order] + math.log(2 / TAIL)) / order

    def _window(self, count: int) -> tuple[int, int]:
        """Return indices (from the lowest possible sum) outside of which at most TAIL of the mass lies."""
        top = (self.pmf.probs.size - 1) * count
        low, high = max(0.0, self._end(count, -1)), min(float(top), self._end(count, 1))
        return (math.floor(low), math.ceil(high)) if low <= high else (0, top)

    def _length(self, wanted: int) -> int:
        """Reuse the spectrum of a length up to twice what is needed."""
        fitting = [length for length in self._spectra if wanted <= length <= 2 * wanted]
        return min(fitting) if fitting else int(fft.next_fast_len(wanted, real=True))

    def _power(self, count: int, length: int) -> Spectrum:
        if length not in self._spectra:
            self._spectra[length] = np.asarray(fft.rfft(self.pmf.probs, length), dtype=np.complex128)
        spectrum = self._spectra[length]
        size = spectrum.real**2 + spectrum.imag**2
        kept = np.flatnonzero(size > math.exp(-2 * _NEGLIGIBLE / count))
        power = np.zeros_like(spectrum)
        highest = int(kept[-1])
        if count >= _MANY and highest * self.pmf.probs.size <= _AFFORDABLE:
            power[: highest + 1] = _precise_power(self.pmf, count, highest, length)
        else:
            power[kept] = spectrum[kept] ** count
        return power

    def after(self, count: int) -> Pmf:
        """Return the loss of `count` >= 1 runs; what the window leaves out (at most TAIL) counts as infinite."""
        low, high = self._window(count)
        wanted = max(high - low + 1, self.pmf.probs.size)
        check_size(wanted)
        length = self._length(wanted)
        whole = fft.irfft(self._power(count, length), length)
        probs, noise = cleaned(np.roll(whole, -(low % length))[: high - low + 1])
        infinity = -math.expm1(count * math.log1p(-self.pmf.infinity)) + TAIL + noise
        return Pmf(step=self.pmf.step, offset=self.pmf.offset * count + low, probs=probs, infinity=infinity)


def self_composed(pmf: Pmf, count: int) -> Pmf:
    """Return the loss of `count` runs."""
    if count == 0:
        return Pmf(step=pmf.step, offset=0, probs=np.ones(1))
    return pmf if count == 1 else Powers(pmf).after(count)
