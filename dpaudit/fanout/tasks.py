"""A task, what came of it, and how it is carried out, wherever that is."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpaudit import _rng, errors
from dpaudit.errors import EXIT_INTERNAL, ConfigError, DpauditError, TaskFailed


def task_seed(seed: int, name: str) -> int:
    """Return the 128-bit root seed of the task `name` of a campaign with root seed `seed`."""
    return int.from_bytes(_rng.stream(seed, f"fanout/{name}").bytes(16), "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One call of a pure function.

    Attributes:
        name: unique in its campaign; the seed follows from it, never from the order.
        function: called with the campaign's shared values, `arguments` and, if there is one, `seed=`. Results that are
            to be kept need a function of a module (no lambda, nothing defined inside a function).
        arguments: keyword arguments; plain data and arrays.
        seed: root seed of the task's randomness (see `task_seed`), or None for a function that takes none.
        version: to be changed when something that the function calls changes its results.
        depends_on: what the result depends on, where that is less than all arguments and shared values (a setting
            that changes nothing); None for all of them.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    version: str = "1"
    depends_on: object | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a task has no result; plain text, so that it can come from another machine."""

    kind: str
    message: str
    where: str = ""
    exit_code: int = EXIT_INTERNAL

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an exception."""
        return cls(
            kind=type(error).__name__,
            message=str(error),
            where="".join(traceback.format_exception(error)),
            exit_code=getattr(error, "exit_code", EXIT_INTERNAL),
        )

    @classmethod
    def lost(cls, times: int) -> "Failure":
        """Say that the worker died every time."""
        return cls(
            kind="LostWorker",
            message=f"its worker died {times} times (killed, out of memory or crashed), the last time with no other "
            "task beside it. Give it more memory, or make the task smaller.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a task: a value, or a failure. `cause` is the exception itself where it is at hand."""

    task: Task
    value: Any = None
    failure: Failure | None = None
    seconds: float = 0.0
    cause: Exception | None = None

    def error(self) -> DpauditError:
        """Return the failure as an exception that names the task: of its own kind if that is one of dpaudit's."""
        found = self.failure or Failure(kind="unknown", message="no result")
        text = f"task {self.task.name!r} failed: {found.kind}: {found.message}"
        kind = getattr(errors, found.kind, None)
        plain = isinstance(kind, type) and issubclass(kind, DpauditError) and kind not in (ConfigError, TaskFailed)
        error: DpauditError = kind(text) if plain and kind is not None else TaskFailed(text, found.exit_code)
        error.__cause__ = self.cause
        if self.cause is None and found.where:
            error.add_note(f"In the worker:\n{found.where}")
        return error


def execute(task: Task, shared: Mapping[str, Any]) -> Done:
    """Carry a task out here; an exception becomes a failure (an interruption does not)."""
    started = time.perf_counter()
    seed = {} if task.seed is None else {"seed": task.seed}
    try:
        value = task.function(**shared, **task.arguments, **seed)
    except Exception as error:
        return Done(task=task, failure=Failure.of(error), cause=error, seconds=time.perf_counter() - started)
    return Done(task=task, value=value, seconds=time.perf_counter() - started)


Answer = tuple[Any, Failure | None, float]
"""What a worker sends back: value, failure, seconds. The task itself stays where it is."""


def answer(task: Task, shared: Mapping[str, Any]) -> Answer:
    """Carry a task out in a worker."""
    done = execute(task, shared)
    return done.value, done.failure, done.seconds


def done_from(task: Task, sent: Answer) -> Done:
    """Return the outcome that a worker sent."""
    value, failure, seconds = sent
    return Done(task=task, value=value, failure=failure, seconds=seconds)
