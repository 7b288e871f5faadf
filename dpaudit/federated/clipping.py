"""The finite check and the clip: the two gates that every contribution passes, canaries included.

All arithmetic is float64 and in a fixed order (no BLAS), so that a replayed round gives the same bits whatever the
number of threads, and so that no square of a finite float32 overflows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
_ROUNDING = 1e-3
NOT_FINITE = "NaN or infinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Contributions that arrived together: `units` (n,) and one row each, (n, width) or a list of arrays."""

    units: Indices
    rows: Matrix | Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSum:
    """Contributions that an engine or a device clipped and summed itself, because single rows were never made.

    `total` (width,) is the sum over `units` (n,) of the contributions, each scaled to norm at most `clip_norm`;
    `norms` (n,) are the norms before that, all finite.
    """

    units: Indices
    total: Vector
    norms: NDArray[np.float32]
    clip_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureSum:
    """What secure aggregation shows of the contributions of `units` (n,): their sum, noise included.

    `total` (width,) is in the units of contributions, a whole number of steps of the quantiser's grid; every unit
    brought a share of the noise. Devices clipped; nobody can check it here.
    """

    units: Indices
    total: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A contribution that was left out before the sum, and why."""

    unit: int
    reason: str


def screen(block: Block, *, width: int) -> tuple[Matrix, Indices, tuple[Rejected, ...]]:
    """Return the usable rows with their units, and what was rejected: a wrong shape, NaN or infinity.

    A NaN would pass `min(1, C / norm)` and poison the sum for everybody; an infinite row would become NaN when
    scaled. Leaving a unit out is as if it had not been sampled, so the sensitivity stays what it was.
    """
    rows, units, rejected = _same_shape(block, width)
    if _all_finite(rows):
        return rows, units, tuple(rejected)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        rejected += [Rejected(unit=int(unit), reason=NOT_FINITE) for unit in units[~finite]]
        rows, units = rows[finite], units[finite]
    return rows, units, tuple(rejected)


def _all_finite(rows: Matrix) -> bool:
    """Say whether every number is finite: a NaN is the largest number and the smallest, to NumPy."""
    if rows.size == 0:
        return True
    with np.errstate(all="ignore"):
        return math.isfinite(rows.max()) and math.isfinite(rows.min())


def screen_sum(block: ClippedSum, *, width: int, clip_norm: float | None) -> str | None:
    """Return why a sum must be left out whole, or None: the same gates as for rows, as far as a sum can show them."""
    if block.clip_norm != clip_norm:
        return f"clipped to {block.clip_norm} by the engine, where the aggregator clips to {clip_norm}"
    if block.total.shape != (width,):
        return f"shape {block.total.shape} instead of ({width},)"
    if not (np.isfinite(block.total).all() and np.isfinite(block.norms).all()):
        return NOT_FINITE
    norm, most = float(np.sqrt(block.total @ block.total)), block.units.size * block.clip_norm
    if norm > most * (1.0 + _ROUNDING):
        return f"norm {norm:.6g} of the sum of {block.units.size}, each clipped to {block.clip_norm:g}"
    return None


def _same_shape(block: Block, width: int) -> tuple[Matrix, Indices, list[Rejected]]:
    rows = block.rows
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] == width and rows.dtype.kind in "fiu":
        return rows, block.units, []
    kept: list[NDArray[np.float32]] = []
    good: list[int] = []
    rejected: list[Rejected] = []
    for position, row in enumerate(rows):
        found = _one_row(row, width)
        if isinstance(found, str):
            rejected.append(Rejected(unit=int(block.units[position]), reason=found))
        else:
            good.append(position)
            kept.append(found)
    return np.stack(kept) if kept else np.zeros((0, width), np.float32), block.units[good], rejected


def _one_row(row: object, width: int) -> NDArray[np.float32] | str:
    """Return what one unit sent as a row, or why it is none; numbers beyond float32 become infinite."""
    try:
        array = np.asarray(row)
    except (TypeError, ValueError):
        return "not an array"
    if array.shape != (width,):
        return f"shape {array.shape} instead of ({width},)"
    if array.dtype.kind not in "fiu":
        return f"type {array.dtype} instead of float32"
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def clip_factors(rows: NDArray[np.float64], *, clip_norm: float) -> Vector:
    """Return min(1, C / norm) for each row; 1 for a zero row."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.asarray(clip_norm / np.maximum(norms, clip_norm))


def clipped_sum(rows: Matrix, *, clip_norm: float) -> Vector:
    """Return the sum of rows, each scaled to L2 norm at most `clip_norm` over all its coordinates together."""
    wide = rows.astype(np.float64)
    return np.asarray(np.einsum("i,ij->j", clip_factors(wide, clip_norm=clip_norm), wide))
