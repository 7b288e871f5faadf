"""A Flower strategy's aggregation as a step under test (message API, flwr 1.41)."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from dpaudit.errors import MissingDependency
from dpaudit.verification._step_types import Batch, Step


class _Fleet:
    """The part of a Grid that a strategy asks when it samples."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes."""
        return list(range(1, self._nodes + 1))


def flower_step(
    strategy_factory: Callable[[], Any],
    *,
    clip_norm: float | None = None,
    shapes: tuple[tuple[int, ...], ...] = ((40, 50), (50,), (50, 40), (40,)),
    units: int = 20,
    weighted: bool = True,
    integers: bool = False,
    adaptive: bool = False,
) -> Step:
    """Return one round of `aggregate_train` as a step; the release is the change of the global model.

    Clients reply with the global model plus their row of the batch, and with their weight ("num-examples").

    Args:
        strategy_factory: returns a fresh strategy, set to `units` sampled clients.
        clip_norm: the clip norm, if fixed; it sizes the canaries.
        shapes: shapes of the model's tensors.
        units: clients that reply in the ordinary batch.
        weighted: clients say how many examples they hold; else they all say the same.
        integers: the last tensor holds whole numbers (a counter).
        adaptive: the strategy adapts its `clipping_norm`: test the direction, too.

    Raises:
        MissingDependency: flwr is not installed.
    """
    try:
        app = import_module("flwr.app")
        identity = import_module("flwr.supercore.task_identity").TaskIdentity
    except ImportError as error:
        raise MissingDependency("a Flower strategy needs flwr 1.41: pip install 'flwr==1.41.*'.") from error
    identity.task_id = identity.run_id = identity.node_id = 1  # a message must say which run it belongs to

    def reply(node: int, row: tuple[Any, ...]) -> Any:
        *tensors, weight = row if weighted else (*row, 20.0)
        content = app.RecordDict(
            {"arrays": app.ArrayRecord(list(tensors)), "metrics": app.MetricRecord({"num-examples": float(weight)})}
        )
        return app.Message(content=content, dst_node_id=node, message_type="train")

    def aggregate(batch: Batch, seed: int) -> tuple[list[Any], Any]:
        np.random.seed(seed % 2**32)  # noqa: NPY002 - what Flower draws its noise from
        strategy = strategy_factory()
        start = app.ArrayRecord([np.zeros(row.shape[1:], dtype=row.dtype) for row in rows])
        list(strategy.configure_train(1, start, app.ConfigRecord(), _Fleet(units)))
        arrays, _ = strategy.aggregate_train(1, [reply(i + 1, row) for i, row in enumerate(zip(*batch, strict=True))])
        if arrays is None:
            raise RuntimeError("the strategy released nothing")
        return [np.asarray(tensor) for tensor in arrays.to_numpy_ndarrays()], strategy

    rng = np.random.default_rng(0)
    scale = 2 * (clip_norm or 1.0) / np.sqrt(sum(np.prod(shape) for shape in shapes))
    rows: list[Any] = [rng.normal(0, scale, (units, *shape)).astype(np.float32) for shape in shapes]
    if integers:
        rows[-1] = rng.integers(0, 10, rows[-1].shape)
    return Step(
        run=lambda batch, seed: aggregate(batch, seed)[0],
        batch=(*rows, np.full(units, 20.0)) if weighted else tuple(rows),
        clip_norm=clip_norm,
        weighted=weighted,
        next_clip=(lambda batch, seed: float(aggregate(batch, seed)[1].clipping_norm)) if adaptive else None,
    )
