"""Canaries that provoke a training step: each aims at a way in which clipping is known to go wrong."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpaudit.verification._step_types import Batch, Step

HUGE = 1e6
"""Norm of a canary in clip norms."""
_MOST_TENSORS = 24
DUPLICATE = "duplicate"

Rows = list[NDArray[Any]]
Named = Iterator[tuple[str, Batch]]


class Pair(NamedTuple):
    """Two batches that differ by one unit; `share` of the change counts (a replaced unit may change it twice)."""

    name: str
    without: Batch
    canary: Batch
    share: float = 1.0


def added(batch: Batch, row: Batch) -> Batch:
    """Return the batch with one more unit at its end."""
    return tuple(np.concatenate([array, one.astype(array.dtype)]) for array, one in zip(batch, row, strict=True))


def replaced(batch: Batch, row: Batch) -> Batch:
    """Return the batch with its last unit replaced."""
    return tuple(np.concatenate([array[:-1], one.astype(array.dtype)]) for array, one in zip(batch, row, strict=True))


def repeated(batch: Batch, times: int) -> Batch:
    """Return the batch `times` times over."""
    return tuple(np.concatenate([array] * times) for array in batch)


def silent(step: Step, batch: Batch) -> Batch:
    """Return the batch with zero contributions, weights kept ("updates" only)."""
    tensors = batch[:-1] if step.weighted else batch
    return (*(np.zeros_like(array) for array in tensors), *batch[len(tensors) :])


def one_row(step: Step, index: int = 0) -> Batch:
    """Return one unit of the batch."""
    return tuple(array[index : index + 1] for array in step.batch)


def pairs(step: Step) -> Iterator[Pair]:
    """Yield neighbouring batches for every finite canary."""
    yield from _pairs(step, canaries(step))
    if step.kind == "updates":
        empty = _emptied(step)
        yield from (Pair(name, empty, replaced(step.batch, row)) for name, row in _neighbours(step))


def poisoned(step: Step) -> Iterator[Pair]:
    """Yield neighbouring batches for contributions that break careless code."""
    yield from _pairs(step, poison(step))


def _pairs(step: Step, rows: Named) -> Iterator[Pair]:
    """Add each row to the batch; or put it in place of the last one, against nothing ("updates") or against that."""
    without = _emptied(step) if step.fixed_size and step.kind == "updates" else step.batch
    for name, row in rows:
        if step.fixed_size:
            yield Pair(name, without, replaced(step.batch, row), 1.0 if step.kind == "updates" else 0.5)
        else:
            yield Pair(name, without, added(step.batch, row))


def _emptied(step: Step) -> Batch:
    """Return the batch with a last unit that contributes nothing."""
    return replaced(step.batch, silent(step, one_row(step)))


def canaries(step: Step) -> Named:
    """Yield the finite canaries of a step by name, the user's own last."""
    yield from _updates(step) if step.kind == "updates" else _examples(step)
    yield DUPLICATE, one_row(step)
    yield from step.canaries.items()


def poison(step: Step) -> Named:
    """Yield contributions that break careless code: zero, overflow, infinity, NaN."""
    base = silent(step, one_row(step)) if step.kind == "updates" else one_row(step)
    floats = [
        i for i, array in enumerate(base) if array.dtype.kind == "f" and not (step.weighted and i == len(base) - 1)
    ]
    if step.kind == "examples":
        floats = floats[:1]
    yield "zero", _filled(base, floats, 0.0)
    yield "overflow", _filled(base, floats, 1e30)
    yield "infinity", _filled(base, floats, np.inf)
    yield "NaN", _filled(base, floats, np.nan)
    yield "one NaN", _filled(base, floats, np.nan, only_one=True)


def _filled(base: Batch, which: list[int], value: float, *, only_one: bool = False) -> Batch:
    rows = [np.array(array) for array in base]
    for i in which[:1] if only_one else which:
        flat = rows[i].reshape(-1)
        flat[: 1 if only_one else None] = value
    return tuple(rows)


def _updates(step: Step) -> Named:
    count = len(step.batch) - step.weighted
    tensors = step.batch[:count]
    weight = step.batch[count:]
    clip = _clip_norm(step)
    shapes = [array.shape[1:] for array in tensors]

    def row(parts: Rows, heavy: float = 1.0) -> Batch:
        return (*(part[None] for part in parts), *(one_row(step)[count:] if heavy == 1 else _heavy(weight, heavy)))

    yield "spread", row(_scaled([np.ones(shape) for shape in shapes], HUGE * clip))
    yield "just below the clip", row(_scaled([np.ones(shape) for shape in shapes], 0.999 * clip))
    mean = [array.mean(axis=0, dtype=np.float64) for array in tensors]
    yield "opposite to the batch", row(_scaled([-part for part in mean], HUGE * clip))
    yield "along the batch", row(_scaled(mean, HUGE * clip))
    for number in _some(len(shapes)):
        alone = [np.ones(shape) if i == number else np.zeros(shape) for i, shape in enumerate(shapes)]
        yield f"tensor {number}", row(_scaled(alone, HUGE * clip))
    largest = int(np.argmax([np.prod(shape) for shape in shapes]))
    for name, number, position in (("single coordinate", largest, 0), ("last coordinate", len(shapes) - 1, -1)):
        parts = [np.zeros(shape) for shape in shapes]
        parts[number].reshape(-1)[position] = HUGE * clip
        yield name, row(parts)
    if step.weighted:
        yield "heavy weight", row(_scaled([np.ones(shape) for shape in shapes], HUGE * clip), heavy=HUGE)


def _neighbours(step: Step) -> Named:
    """Yield rows opposite to the units before the last: in a microbatch with them, they turn its mean around."""
    count = len(step.batch) - step.weighted
    clip = _clip_norm(step)
    for width in (2, 4, 8):
        mean = [array[-width:-1].mean(axis=0, dtype=np.float64) for array in step.batch[:count]]
        parts = _scaled([-part for part in mean], HUGE * clip)
        yield f"opposite to {width - 1} neighbours", (*(part[None] for part in parts), *one_row(step)[count:])


def _clip_norm(step: Step) -> float:
    """Return the clip norm, or the largest norm of a tensor in the batch."""
    if step.clip_norm is not None:
        return step.clip_norm
    tensors = step.batch[: len(step.batch) - step.weighted]
    return max(float(np.linalg.norm(a.reshape(len(a), -1).astype(np.float64), axis=1).max()) for a in tensors) or 1e-3


def _heavy(weight: Batch, factor: float) -> Batch:
    return tuple(array[:1] * np.asarray(factor).astype(array.dtype) for array in weight)


def _scaled(parts: Rows, norm: float) -> Rows:
    """Scale a vector over several tensors to a norm; a zero vector becomes a spread one."""
    size = float(np.sqrt(sum(float(np.sum(np.asarray(part, dtype=np.float64) ** 2)) for part in parts)))
    if size == 0:
        return _scaled([np.ones(part.shape) for part in parts], norm)
    return [part * (norm / size) for part in parts]


def _some(count: int) -> list[int]:
    """Return all indices, or evenly spaced ones with the first and the last."""
    if count <= _MOST_TENSORS:
        return list(range(count))
    return sorted({int(i) for i in np.linspace(0, count - 1, _MOST_TENSORS)})


def _examples(step: Step) -> Named:
    """Yield extreme records: large gradients come from large inputs and from wrong labels."""
    base = one_row(step)
    x, rest = base[0], base[1:]
    wrong = tuple(_other_label(array, step.batch[1 + i]) for i, array in enumerate(rest))
    if x.dtype.kind != "f":
        yield "wrong label", (x, *wrong)
        return
    scale = max(float(np.abs(step.batch[0]).max()), 1e-3)
    hot = np.zeros_like(x)
    hot.reshape(-1)[-1] = scale * HUGE
    yield "wrong label", (x, *wrong)
    for factor in (10, 100, 1000):  # huge inputs saturate some activations, and their gradient vanishes
        yield f"input times {factor}", (x * factor, *wrong)
    yield "huge input", (x * HUGE, *rest)
    yield "huge input, wrong label", (x * HUGE, *wrong)
    yield "negative input", (-x * HUGE, *wrong)
    yield "constant input", (np.full_like(x, scale * 1e3), *wrong)
    yield "single feature", (hot, *wrong)
    yield "opposite to the batch", (-np.mean(step.batch[0], axis=0, keepdims=True) * 1e3, *wrong)


def _other_label(own: NDArray[Any], everybody: NDArray[Any]) -> NDArray[Any]:
    """Return a label that occurs in the batch and is not the row's own; numbers are moved far away."""
    different = everybody[(everybody.reshape(len(everybody), -1) != own.reshape(1, -1)).any(axis=1)]
    if own.dtype.kind == "f" and own.ndim == 1:
        return np.asarray(own + 1e3 * (1 + np.abs(own)))
    return different[:1] if len(different) else own
