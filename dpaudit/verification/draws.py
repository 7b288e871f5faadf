"""Outputs of a mechanism: drawn here, one order after the other, or many at once on an executor; the same outputs."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.errors import UsageError
from dpaudit.fanout import Done, Executor, Task
from dpaudit.verification._learn import as_samples

Floats = NDArray[np.float64]

Mechanism = Callable[..., Any]
"""`mechanism(dataset, n)` or `mechanism(dataset, n, rng=generator)`: n independent outputs, numbers of any shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """`size` outputs on a data set, with the random stream (root, side, *indices)."""

    dataset: Any
    size: int
    root: int
    side: str
    indices: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """The name of this order among all of a test."""
        return f"{self.size} outputs, {self.side} side, stream {(self.root, *self.indices)}"


class Draws:
    """Draws outputs when they are asked for; with an executor, ahead of that, in parallel."""

    def __init__(self, mechanism: Mechanism, executor: Executor | None = None) -> None:
        """Accept a mechanism.

        Raises: UsageError when it is not callable, or is to run on an executor and takes no generator: in several
            processes, outputs of a generator of its own may repeat themselves, which no test would survive.
        """
        if not callable(mechanism):
            raise UsageError(f"a mechanism must be callable; got {type(mechanism).__name__}.")
        self._takes_rng, self._mechanism, self._executor = _takes_rng(mechanism), mechanism, executor
        if executor is not None and not self._takes_rng:
            raise UsageError(
                "to run on an executor, a mechanism must take a generator, mechanism(dataset, n, rng): its own "
                "randomness might be the same in two processes."
            )
        self._ahead: dict[str, Done] = {}

    def __call__(self, order: Order) -> Floats:
        """Return the outputs of an order (size, k); raise what the mechanism raises."""
        done = self._ahead.pop(order.key, None)
        if done is None:
            return outputs(self._mechanism, self._takes_rng, order)
        if done.failure is not None:
            raise done.error()
        values: Floats = done.value
        return values

    def prefetch(self, orders: Sequence[Order]) -> None:
        """Draw the outputs of several orders on the executor, if there is one; what was not asked for is forgotten."""
        if self._executor is None:
            return
        tasks = [Task(name=order.key, function=outputs, arguments={"order": order}) for order in orders]
        shared = {"mechanism": self._mechanism, "takes_rng": self._takes_rng}
        self._ahead = {done.task.name: done for done in self._executor.run(tasks, shared=shared)}


def outputs(mechanism: Mechanism, takes_rng: bool, order: Order) -> Floats:
    """Draw the outputs of an order."""
    stream = {"rng": _rng.stream(order.root, order.side, *order.indices)} if takes_rng else {}
    return as_samples(mechanism(order.dataset, order.size, **stream), order.size)


def _takes_rng(mechanism: Mechanism) -> bool:
    try:
        return "rng" in inspect.signature(mechanism).parameters
    except (TypeError, ValueError):
        return False
