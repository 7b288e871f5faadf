"""What a training step under test offers, and what is claimed of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpaudit import _validate
from dpaudit.errors import DataError, UsageError

Batch = tuple[NDArray[Any], ...]
"""Arrays with one row per privacy unit, all of the same length."""

Run = Callable[[Batch, int], Sequence[ArrayLike]]
"""Executes the step from its initial state on a batch, all randomness from the seed; returns the released tensors."""

Kind = Literal["updates", "examples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step under test.

    Attributes:
        run: one execution, `run(batch, seed)`; must not keep state between calls.
        batch: an ordinary batch.
        kind: what the rows of a batch are. "updates": one array per tensor, (units, *shape), the raw contributions
            of the units (gradients, client updates), before clipping. "examples": records and labels, (x, y).
        clip_norm: the clip norm, if known; it only sizes the canaries.
        weighted: "updates" only: the last array of the batch is a weight per unit, as in weighted averaging.
        fixed_size: the step takes batches of one size only: canaries replace the last row instead of being added,
            and nothing is said about the denominator.
        test_empty: whether an empty batch must be survived (it is sure to come, sooner or later, under Poisson
            sampling with small batches); default: for "updates".
        canaries: further canaries by name; each a batch of one row.
        replays: `replays(batch, seed)` returns releases that must not share noise, by name ("step 1", "step 2",
            "after restore", "worker 2", ...), for the same model state and batch.
        second: `second(first_batch, second_batch, seed)` runs two steps and returns the second release, the model
            state being the same for both: nothing of the first batch may be left in it.
        next_clip: `next_clip(batch, seed)` returns the clip norm after a step of adaptive clipping.
    """

    run: Run
    batch: Batch
    kind: Kind = "updates"
    clip_norm: float | None = None
    weighted: bool = False
    fixed_size: bool = False
    test_empty: bool | None = None
    canaries: Mapping[str, Batch] = field(default_factory=dict)
    replays: Callable[[Batch, int], Mapping[str, Sequence[ArrayLike]]] | None = None
    second: Callable[[Batch, Batch, int], Sequence[ArrayLike]] | None = None
    next_clip: Callable[[Batch, int], float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("updates", "examples"):
            raise UsageError(f"the kind of a step must be 'updates' or 'examples'; got {self.kind!r}.")
        if self.weighted and self.kind != "updates":
            raise UsageError("a weighted step has kind 'updates': the weights are the last array of its batch.")
        if self.clip_norm is not None:
            _validate.positive(clip_norm=self.clip_norm)
        object.__setattr__(self, "batch", _as_batch("batch", self.batch))
        if len(self.batch[0]) < 2:
            raise DataError(f"the batch of a step needs at least 2 units; got {len(self.batch[0])}.")
        for name, canary in self.canaries.items():
            if len(_as_batch(f"canary {name!r}", canary)[0]) != 1 or len(canary) != len(self.batch):
                raise DataError(f"canary {name!r} must be a batch of one row, with {len(self.batch)} arrays.")


def _as_batch(name: str, arrays: Sequence[ArrayLike]) -> Batch:
    batch = tuple(np.asarray(array) for array in arrays)
    if not batch or any(array.ndim < 1 or len(array) != len(batch[0]) for array in batch):
        shapes = [array.shape for array in batch]
        raise DataError(f"the {name} of a step must be arrays with one row per unit each; got shapes {shapes}.")
    return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepClaim:
    """What is claimed of a step.

    `noise_multiplier` is the standard deviation of the noise divided by the most that one added or removed unit can
    change the sum. With `sampling_rate`, `steps` and `delta`, a finding also says which epsilon remains if every
    step is like this one.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        _validate.positive(noise_multiplier=self.noise_multiplier)
        _validate.sampling_rate(sampling_rate=self.sampling_rate)
        if self.steps is not None:
            _validate.positive_integer(steps=self.steps)
        if self.delta is not None:
            _validate.open_unit_interval(delta=self.delta)
