"""Tasks on Ray: a Ray of our own on this machine, or an existing cluster."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from dpaudit.fanout.cache import versions
from dpaudit.fanout.executors import Closing
from dpaudit.fanout.ray_session import RaySession, check_versions, ray_session
from dpaudit.fanout.tasks import Answer, Done, Failure, Task, answer, done_from
from dpaudit.fanout.workers import RETRIES

_ON_THEIR_WAY = 2  # tasks per core


class RayExecutor(Closing):
    """Tasks on Ray, one core each; Ray runs a task again whose worker or machine was lost, `RETRIES` times.

    The cluster's machines need the same versions of dpaudit and of what numbers depend on; a worker that has others
    refuses its tasks. The tasks' functions must be importable there. A cluster that grows while a campaign runs is
    used as it grows.
    """

    def __init__(self, processes: int | None = None, *, address: str | None = None) -> None:
        """Connect with the first task; see `open_executor` for the arguments."""
        self._processes, self._address = processes, address
        self._stack = ExitStack()
        self._session: RaySession | None = None

    @property
    def workers(self) -> int:
        """How many tasks run at a time."""
        cores = self.session().cores
        return cores if self._processes is None else min(cores, self._processes)

    def session(self) -> RaySession:
        """Return the connection, opening it at first."""
        if self._session is None:
            opened = ray_session(self._address, processes=self._processes)
            self._session = self._stack.enter_context(opened)
        return self._session

    def close(self) -> None:
        """Disconnect; a Ray of our own ends."""
        self._session = None
        self._stack.close()

    def run(self, tasks: Iterable[Task], *, shared: Mapping[str, Any] | None = None) -> Iterator[Done]:
        """Yield what came of every task, as it finishes."""
        waiting = iter(tasks)
        first = next(waiting, None)
        if first is None:
            return
        session = self.session()
        ray, common = session.ray, session.put(dict(shared or {}))
        expected = tuple(sorted(versions().items()))
        remote = ray.remote(num_cpus=1, max_retries=RETRIES, **session.options)(_on_worker)
        running = {remote.remote(first, common, expected): first}
        try:
            while True:
                limit = _ON_THEIR_WAY * self.workers
                while len(running) < limit and (task := next(waiting, None)) is not None:
                    running[remote.remote(task, common, expected)] = task
                if not running:
                    return
                (ready,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(ready)
                yield _outcome(ray, task, ready)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _on_worker(task: Task, shared: Mapping[str, Any], expected: tuple[tuple[str, str | None], ...]) -> Answer:
    try:
        check_versions(expected)
    except Exception as error:
        return None, Failure.of(error), 0.0
    return answer(task, shared)


def _outcome(ray: Any, task: Task, reference: Any) -> Done:
    try:
        return done_from(task, ray.get(reference))
    except ray.exceptions.RayTaskError as error:  # such as a result that cannot be sent
        return Done(task=task, failure=Failure.of(error))
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError):
        return Done(task=task, failure=Failure.lost(RETRIES + 1))
    except ray.exceptions.RayError as error:
        return Done(task=task, failure=Failure.of(error))
