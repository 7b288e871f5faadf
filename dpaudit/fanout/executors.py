"""Where tasks are carried out: here, in processes of this machine, or on Ray."""

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from dpaudit import _validate
from dpaudit.errors import UsageError
from dpaudit.fanout.tasks import Done, Task, execute

BACKENDS = ("serial", "joblib", "ray")


class Executor(Protocol):
    """Carries tasks out; a context manager, after which nothing that it started is left running."""

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""

    def run(self, tasks: Iterable[Task], *, shared: Mapping[str, Any] | None = None) -> Iterator[Done]:
        """Yield what came of every task, as it finishes; failures are yielded, not raised.

        A task whose worker is lost runs again elsewhere. Tasks are taken as workers become free, so that memory does
        not grow with their number.
        """

    def close(self) -> None:
        """End what was started."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """The context manager of an executor: close at the end."""

    def close(self) -> None:
        """End what was started; nothing here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SerialExecutor(Closing):
    """One task after the other, in this process."""

    workers = 1

    def run(self, tasks: Iterable[Task], *, shared: Mapping[str, Any] | None = None) -> Iterator[Done]:
        """Yield what came of every task, in order."""
        for task in tasks:
            yield execute(task, shared or {})


def open_executor(backend: str, *, processes: int | None = None, ray_address: str | None = None) -> Executor:
    """Return an executor, to be used as a context manager.

    Args:
        backend: `serial`, `joblib` (loky's processes) or `ray`.
        processes: how many tasks to run at a time; None for one per core, or for what an existing Ray cluster has.
        ray_address: of an existing Ray cluster (`ray://host:port`, `host:port`, `auto`); None for the environment
            variable RAY_ADDRESS, and where that is not set, for a Ray of our own on this machine.

    Raises: UsageError for an unknown backend or options that do not fit; MissingDependency when it is not installed.
    """
    from dpaudit.fanout.loky_pool import JoblibExecutor
    from dpaudit.fanout.ray_pool import RayExecutor

    _validate.one_of(BACKENDS, executor=backend)
    if processes is not None:
        _validate.positive_integer(processes=processes)
    if ray_address is not None and backend != "ray":
        raise UsageError(f"ray_address belongs to the executor ray; the executor is {backend}.")
    if backend == "ray":
        return RayExecutor(processes, address=ray_address)
    if backend == "joblib" and processes != 1:
        return JoblibExecutor(processes)
    if processes not in (None, 1):
        raise UsageError(f"the executor serial runs one task at a time; got processes = {processes}. Use joblib.")
    return SerialExecutor()
