"""A campaign: many tasks, finished results kept, failures told at the end and nothing lost by them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dpaudit.errors import UsageError
from dpaudit.fanout.cache import ResultCache
from dpaudit.fanout.executors import Executor, SerialExecutor
from dpaudit.fanout.tasks import Done, Task

Progress = Callable[[int, int], None]


def as_finished(
    tasks: Iterable[Task],
    *,
    executor: Executor | None = None,
    shared: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield (name, result) of every task as it finishes; the order is not fixed, the results are.

    Args:
        tasks: with distinct names.
        executor: where they are carried out; None for here, one after the other.
        shared: keyword arguments of all tasks, sent to every worker once. Tasks must not change them.
        cache: folder in which results are kept, and from which an interrupted campaign goes on.
        progress: called with (finished, all) after each task.

    Raises:
        UsageError: names that repeat, or, with a cache, arguments or results that cannot be kept.
        TaskFailed: after all others have finished, when a task failed or its workers died again and again. An error
            of dpaudit in a task keeps its kind: a DataError there is a DataError here, with the task's name.
    """
    wanted, common = list(tasks), dict(shared or {})
    _check_names(wanted)
    kept = ResultCache(cache)
    keys = kept.keys(wanted, common)
    missing: list[Task] = []
    finished = 0
    for task in wanted:
        found = kept.load(keys[task.name]) if keys else None
        if found is None:
            missing.append(task)
            continue
        finished += 1
        _tell(progress, finished, len(wanted))
        yield task.name, found[0]
    failed: list[Done] = []
    for done in (executor or SerialExecutor()).run(missing, shared=common):
        finished += 1
        if done.failure is None:
            if keys:
                kept.store(keys[done.task.name], done.value, name=done.task.name)
            yield done.task.name, done.value
        else:
            failed.append(done)
        _tell(progress, finished, len(wanted))
    if failed:
        error = failed[0].error()
        others = ", ".join(repr(done.task.name) for done in failed[1:10])
        if others:
            error.add_note(f"{len(failed)} of {len(wanted)} tasks failed; also: {others}.")
        raise error


def run_campaign(
    tasks: Iterable[Task],
    *,
    executor: Executor | None = None,
    shared: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the results of all tasks by name, in the order of `tasks`; arguments and errors as `as_finished`."""
    wanted = list(tasks)
    found = dict(as_finished(wanted, executor=executor, shared=shared, cache=cache, progress=progress))
    return {task.name: found[task.name] for task in wanted}


def _check_names(tasks: list[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            raise UsageError(f"the tasks of a campaign need distinct names; {task.name!r} comes twice.")
        seen.add(task.name)


def _tell(progress: Progress | None, finished: int, total: int) -> None:
    if progress is not None:
        progress(finished, total)
