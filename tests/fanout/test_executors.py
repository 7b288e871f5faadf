"""The same bits on every backend; lost workers, failures, limits, and nothing left running."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpaudit.errors import EXIT_INTERNAL, EXIT_USAGE, DataError, TaskFailed, UsageError
from dpaudit.fanout import (
    JoblibExecutor,
    RayExecutor,
    SerialExecutor,
    Task,
    as_finished,
    open_executor,
    run_campaign,
    task_seed,
)


def draws(work, count=12, **options):
    return [
        Task(name=f"draw {i}", function=work.draw, arguments={"scale": i, "size": 50}, seed=task_seed(3, f"draw {i}"))
        for i in range(count)
    ]


def bits(results):
    return {name: (one["values"].tobytes(), one["mean"], one["single"], one["pair"]) for name, one in results.items()}


def test_every_backend_and_order_gives_the_same_bits(work, executor):
    expected = bits({task.name: work.draw(**task.arguments, seed=task.seed) for task in draws(work)})
    shuffled = draws(work)
    random.Random(5).shuffle(shuffled)
    found = run_campaign(shuffled, executor=executor)
    assert list(found) == [task.name for task in shuffled]
    assert bits(found) == expected
    assert len({one["mean"] for one in found.values()}) == 12


def test_the_seed_follows_from_the_name_and_the_campaign():
    assert task_seed(1, "a") == task_seed(1, "a")
    assert len({task_seed(1, "a"), task_seed(1, "b"), task_seed(2, "a")}) == 3


def test_shared_values_reach_every_task(work, executor):
    table = np.arange(100_000.0)
    tasks = [Task(name=str(i), function=work.scaled, arguments={"factor": i}) for i in range(5)]
    for name, value in as_finished(tasks, executor=executor, shared={"table": table}):
        np.testing.assert_array_equal(value, int(name) * table)
    found = run_campaign(tasks[:1], executor=executor, shared={"table": table[:3]})  # others, the next time
    np.testing.assert_array_equal(found["0"], np.zeros(3))


def test_a_failing_task_is_named_and_the_others_finish(work, executor):
    tasks = [
        *(Task(name=f"{name} one", function=work.fails, arguments={"message": "no rows"}) for name in ("bad", "worse")),
        *draws(work, 4),
    ]
    finished = {}
    with pytest.raises(DataError, match=r"task '(bad|worse) one' failed: DataError: no rows") as caught:
        finished.update(as_finished(tasks, executor=executor))
    assert caught.value.exit_code == EXIT_USAGE
    assert set(finished) == {task.name for task in draws(work, 4)}
    assert "2 of 6 tasks failed" in "".join(caught.value.__notes__)


def test_an_error_that_is_none_of_ours_is_told_with_its_place(work, executor):
    with pytest.raises(TaskFailed, match="task 'odd' failed: TypeError") as caught:
        run_campaign([Task(name="odd", function=work.scaled, arguments={"no": 1})], executor=executor)
    assert caught.value.exit_code == EXIT_INTERNAL
    assert caught.value.__cause__ is not None or "Traceback" in caught.value.__notes__[0]


def test_tasks_are_taken_as_workers_become_free(work, pool):
    taken = []

    def tasks():
        for i in range(40):
            taken.append(i)
            yield Task(name=str(i), function=work.process, arguments={"_": i})

    results = pool.run(tasks())
    next(results)
    assert len(taken) <= 5
    rest = [done.value for done in results]
    assert len(rest) == 39
    assert os.getpid() not in rest


def test_workers_have_one_thread(work, pool):
    (found,) = run_campaign([Task(name="t", function=work.threads)], executor=pool).values()
    assert set(found.values()) == {"1"}


def test_a_result_that_cannot_be_sent_is_a_failure_of_its_task(work, pool):
    found = run_campaign([Task(name="f", function=work.unsendable)], executor=SerialExecutor())
    assert found["f"]() == 0
    outcomes = {d.task.name: d for d in pool.run([Task(name="f", function=work.unsendable), *draws(work, 2)])}
    assert outcomes["draw 1"].failure is None


def test_a_lost_worker_costs_time_and_nothing_else(work, pool, tmp_path):
    mark = tmp_path / "died"
    tasks = draws(work, 8)
    tasks.insert(3, Task(name="mortal", function=work.dies, arguments={"mark": str(mark), "times": 1}))
    found = run_campaign(tasks, executor=pool)
    assert found.pop("mortal") == 1
    assert bits(found) == bits(run_campaign(draws(work, 8)))


def test_a_task_that_kills_its_workers_is_named_and_the_others_are_not_blamed(work, pool, tmp_path):
    tasks = draws(work, 6)
    tasks.insert(2, Task(name="deadly", function=work.dies, arguments={"mark": str(tmp_path / "n"), "times": 99}))
    outcomes = {done.task.name: done for done in pool.run(tasks)}
    assert len(outcomes) == 7
    deadly = outcomes.pop("deadly")
    assert "'deadly' failed: LostWorker: its worker died 3 times" in str(deadly.error())
    assert all(done.failure is None for done in outcomes.values())
    assert (tmp_path / "n").read_text() == "3"


def test_stopping_in_the_middle_leaves_an_executor_that_works(work, pool):
    slow = [Task(name=str(i), function=work.sleepy, arguments={"seconds": 0.05, "value": i}) for i in range(10)]
    results = pool.run(slow)
    next(results)
    results.close()
    assert bits(run_campaign(draws(work, 2), executor=pool)) == bits(run_campaign(draws(work, 2)))


def test_what_does_not_fit_is_refused(work):
    with pytest.raises(UsageError, match="executor must be one of serial, joblib, ray"):
        open_executor("dask")
    with pytest.raises(UsageError, match="ray_address belongs to the executor ray"):
        open_executor("joblib", ray_address="auto")
    with pytest.raises(UsageError, match="one task at a time"):
        open_executor("serial", processes=2)
    with pytest.raises(UsageError, match="processes must be a whole number"):
        open_executor("joblib", processes=0)
    with pytest.raises(UsageError, match="'draw 0' comes twice"):
        run_campaign(draws(work, 1) * 2)
    assert isinstance(open_executor("serial"), SerialExecutor)
    assert isinstance(open_executor("joblib", processes=1), SerialExecutor)
    assert isinstance(open_executor("joblib", processes=2), JoblibExecutor)
    assert isinstance(open_executor("ray"), RayExecutor)  # not connected yet


SCRIPT = """
import os, sys
import fanout_work as work
from dpaudit.fanout import Task, as_finished, open_executor
def children(pid):
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(entry), *children(int(entry))]
    return found
tasks = [Task(name=str(i), function=work.process, arguments={"_": i}) for i in range(6)]
tasks.append(Task(name="bad", function=work.fails, arguments={"message": "planted"}))
workers = set()
try:
    with open_executor(sys.argv[1], processes=2) as executor:
        for _, worker in as_finished(tasks, executor=executor):
            workers.add(worker)
            started = children(os.getpid())
except Exception as error:
    print(error)
print(workers <= set(started), [pid for pid in workers if os.path.exists(f"/proc/{pid}")])
print(*started)
"""


@pytest.mark.parametrize("backend", ["joblib", "ray"])
def test_nothing_is_left_running_even_after_a_failure(backend):
    pytest.importorskip(backend)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    command = [sys.executable, "-c", SCRIPT, backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    failed, workers, started = done.stdout.splitlines()
    assert (failed, workers) == ("task 'bad' failed: DataError: planted", "True []"), done.stderr
    until = time.monotonic() + 30
    while (left := [pid for pid in started.split() if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
