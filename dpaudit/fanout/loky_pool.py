"""Processes of this machine, by loky (the pool behind joblib): fresh interpreters, each with one thread."""

import functools
import os
import pickle
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpaudit import _validate
from dpaudit.errors import MissingDependency, UsageError
from dpaudit.fanout.executors import Closing
from dpaudit.fanout.tasks import Answer, Done, Failure, Task, answer, done_from
from dpaudit.fanout.workers import RETRIES, environment

INSTALL = "pip install 'dpaudit[fanout]'"


class JoblibExecutor(Closing):
    """Tasks in processes of this machine.

    The processes start with the first task and stay until `close`. When one dies, loky gives the whole pool up: the
    tasks that had not finished run again in a new one, `RETRIES` times, and a task that was lost each time once more
    by itself, so that the one at fault can be named and the others are not blamed for it.
    """

    def __init__(self, processes: int | None = None) -> None:
        """Use so many processes; None for one per core that this process may use."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = cores if processes is None else processes
        _validate.positive_integer(processes=count)
        try:
            import joblib  # noqa: F401
        except ImportError as error:
            raise MissingDependency(f"several processes need joblib: {INSTALL}.") from error
        self._workers = count
        self._pool: Any = None

    @property
    def workers(self) -> int:
        """Number of processes."""
        return self._workers

    def run(self, tasks: Iterable[Task], *, shared: Mapping[str, Any] | None = None) -> Iterator[Done]:
        """Yield what came of every task, as it finishes."""
        finished = False
        try:
            with _shipped(shared) as path:
                yield from self._run(_Queue(tasks), path)
            finished = True
        finally:
            if not finished:  # left in the middle: tasks are still running
                self.close()

    def _run(self, queue: "_Queue", path: str | None) -> Iterator[Done]:
        running: dict[Future[Answer], Task] = {}
        while True:
            while len(running) < queue.at_a_time(2 * self._workers) and (task := queue.next(alone=not running)):
                running[self._submit(task, path)] = task
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenExecutor) for future in ready):
                ready, _ = wait(running)
                self.close()
            for future in ready:
                done = queue.finish(running.pop(future), future)
                if done is not None:
                    yield done

    def _submit(self, task: Task, path: str | None) -> "Future[Answer]":
        try:
            future: Future[Answer] = self._started().submit(_in_worker, task, path)
        except BrokenExecutor as error:  # a process died between two tasks
            future = Future()
            future.set_exception(error)
        return future

    def _started(self) -> Any:
        if self._pool is None:
            from joblib.externals.loky import ProcessPoolExecutor

            self._pool = ProcessPoolExecutor(max_workers=self._workers, env=environment())
        return self._pool

    def close(self) -> None:
        """End the processes; what they were at is lost."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)


class _Queue:
    """The tasks that are still to be run: new ones, those that were lost, and those that must run by themselves."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._fresh, self._again, self._alone = iter(tasks), deque[Task](), deque[Task]()
        self._losses: Counter[str] = Counter()
        self._solitary: Task | None = None

    def at_a_time(self, usual: int) -> int:
        """Return how many may be on their way: one while something must run by itself, or does."""
        return 1 if self._alone or self._solitary else usual

    def next(self, *, alone: bool) -> Task | None:
        """Return the next task; None when there is none, or it must wait until it is alone."""
        if self._alone:
            self._solitary = self._alone.popleft() if alone else None
            return self._solitary
        return self._again.popleft() if self._again else next(self._fresh, None)

    def finish(self, task: Task, future: "Future[Answer]") -> Done | None:
        """Return what came of a task; None when it was lost and will run again."""
        alone, self._solitary = task is self._solitary, None
        error = future.exception()
        if error is None:
            return done_from(task, future.result())
        if not isinstance(error, BrokenExecutor):  # such as a result that cannot be sent
            return Done(task=task, failure=Failure.of(error))
        self._losses[task.name] += 1
        lost = self._losses[task.name]
        if lost > RETRIES and alone:
            return Done(task=task, failure=Failure.lost(lost))
        (self._alone if lost >= RETRIES else self._again).append(task)
        return None


@contextmanager
def _shipped(shared: Mapping[str, Any] | None) -> Iterator[str | None]:
    """Write the shared values to a private file while the block runs; every worker reads it once."""
    if not shared:
        yield None
        return
    from joblib.externals.loky.backend.reduction import dumps

    with tempfile.TemporaryDirectory(prefix="dpaudit-fanout-") as folder:
        path = Path(folder) / "shared"
        try:
            path.write_bytes(dumps(dict(shared)))
        except Exception as error:  # whatever the pickler meets
            raise UsageError(f"what the tasks share cannot be sent to processes: {error}. Use plain data.") from error
        yield str(path)


@functools.lru_cache(maxsize=1)
def _received(path: str) -> Mapping[str, Any]:
    values: Mapping[str, Any] = pickle.loads(Path(path).read_bytes())  # noqa: S301  (our own, from a moment ago)
    return values


def _in_worker(task: Task, path: str | None) -> Answer:
    return answer(task, {} if path is None else _received(path))
