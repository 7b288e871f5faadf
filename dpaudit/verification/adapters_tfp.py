"""tensorflow-privacy's DPQuery as a step under test."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from dpaudit.errors import MissingDependency
from dpaudit.verification._step_types import Batch, Step


def query_step(
    query_factory: Callable[[], Any],
    *,
    clip_norm: float | None = None,
    shapes: tuple[tuple[int, ...], ...] = ((40, 50), (50,), (50, 40), (40,)),
    units: int = 12,
) -> Step:
    """Return one aggregation by a DPQuery as a step; the release is the noised result of the query.

    Args:
        query_factory: returns a fresh query, for instance `lambda: GaussianSumQuery(1.0, 1.1)`.
        clip_norm: the clip norm of the query, if it has one; it sizes the canaries.
        shapes: shapes of a record's tensors.
        units: records in the ordinary batch.

    Raises:
        MissingDependency: TensorFlow is not installed.
    """
    try:
        sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]  # their own switch for the dead Estimator imports
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency("a DPQuery needs TensorFlow: pip install 'dpaudit[train]'.") from error

    def aggregate(query: Any, state: Any, batch: Batch) -> tuple[list[Any], Any]:
        params = query.derive_sample_params(state)
        sample = query.initial_sample_state([tf.zeros(array.shape[1:]) for array in batch])
        for row in zip(*batch, strict=True):
            sample = query.accumulate_record(params, sample, [tf.constant(part, tf.float32) for part in row])
        result, state, _ = query.get_noised_result(sample, state)
        return [np.asarray(part) for part in result], state

    def run(batch: Batch, seed: int) -> list[Any]:
        tf.random.set_seed(seed)
        query = query_factory()
        return aggregate(query, query.initial_global_state(), batch)[0]

    def replays(batch: Batch, seed: int) -> dict[str, list[Any]]:
        tf.random.set_seed(seed)
        query = query_factory()
        state, released = query.initial_global_state(), {}
        for number in range(3):
            released[f"step {number}"], state = aggregate(query, state, batch)
        return released

    rng = np.random.default_rng(0)
    scale = 2 * (clip_norm or 1.0) / np.sqrt(sum(np.prod(shape) for shape in shapes))
    batch = tuple(rng.normal(0, scale, (units, *shape)).astype(np.float32) for shape in shapes)
    return Step(run=run, batch=batch, clip_norm=clip_norm, replays=replays)
