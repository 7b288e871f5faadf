"""What fan-out gains on this machine: serial, joblib and Ray on the same tasks, in turns, beside what is attainable.

    python benchmarks/fanout.py [--repeat 5] [--work references power mechanism] [--backends joblib ray] [--processes 2]

The attainable limit is measured in the same turns: as many independent serial processes at once as there are workers,
each doing all of the work; their joint throughput over that of one alone is what the cores allow at that moment. Every
process has one thread. Start-up (interpreter, imports, the first graph) is timed apart. `--costs` prints what a task
costs: seconds, bytes in and out, what an empty task costs, and what a worker costs to start; docs/scaling.md uses them.
"""

import argparse
import json
import os
import pickle
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})
os.environ.update({"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"})
import numpy as np

from dpaudit.fanout import Executor, SerialExecutor, Task, open_executor, run_campaign
from dpaudit.fanout.tasks import execute

PLAIN = 256


def references(executor: Executor) -> None:
    """Train 64 reference models of the digits example, 60 rounds, in blocks of 16."""
    from dpaudit import config
    from dpaudit.federated import data, reference

    settings = config.load(Path(__file__).parents[1] / "examples" / "digits_federated.toml")
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"rounds": 60})})
    prepared = data.prepare(settings, root=1)
    reference.train_references(settings, prepared, root=1, noise_multiplier=1.0, count=64, executor=executor)


def power(executor: Executor) -> None:
    """Simulate 400 one-run audits with 40,000 canaries."""
    from dpaudit.estimation import simulated_power
    from dpaudit.estimation.reference import gaussian

    simulated_power(
        partial(gaussian(1.0).draw, 40_000), claim_epsilon=2.0, factor=2.0, alternative_epsilon=4.0,
        method="one-run-max", delta=1e-5, trials=400, seed=1, executor=executor,
    )  # fmt: skip


def slow_mechanism(dataset: float, n: int, rng: np.random.Generator) -> Any:
    """Answer noisily after real work for each output, as a training step would."""
    values = rng.standard_normal((n, PLAIN))
    for _ in range(400):
        values = np.tanh(values) + 0.1 * values
    return dataset + rng.laplace(size=n) + 0.0 * values[:, 0]


def mechanism(executor: Executor) -> None:
    """Test a slow Laplace mechanism on 8 pairs of data sets, with 8,000 outputs on each side."""
    from dpaudit.verification import Neighbours, check_mechanism

    pairs = [Neighbours(first=0.0, second=1.0, name=f"pair {i}") for i in range(8)]
    check_mechanism(slow_mechanism, pairs, 1.0, max_pairs=8000, executor=executor)


WORK = {"references": references, "power": power, "mechanism": mechanism}


def nothing() -> None:
    """Do nothing: what a task costs by itself."""


def pid() -> int:
    """Return the process, after importing what a model needs."""
    import dpaudit.federated.reference

    del dpaudit
    return os.getpid()


def timed(work: str, executor: Executor) -> float:
    """Return the wall seconds of a workload."""
    start = time.perf_counter()
    WORK[work](executor)
    return time.perf_counter() - start


def serve(work: str) -> None:
    """Speak with `at_once`: do the work when a line comes, and say how long it took."""
    timed(work, SerialExecutor())
    print("ready", flush=True)
    for _ in sys.stdin:
        print(timed(work, SerialExecutor()), flush=True)


class AtOnce:
    """Several serial processes that do the same work at the same time."""

    def __init__(self, work: str, count: int) -> None:
        command = [sys.executable, __file__, "--serve", work]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()

    def seconds(self) -> float:
        """Return the mean time of a process, all working at once."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return statistics.mean(float(process.stdout.readline()) for process in self._processes if process.stdout)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.communicate()


def compare(work: str, backends: list[str], processes: int, repeat: int) -> None:
    """Print medians and ratios of one workload, every turn in another order."""
    open_backends = {name: open_executor(name, processes=processes) for name in backends}
    limit = AtOnce(work, processes)
    runs: dict[str, Any] = {"serial": partial(timed, work, SerialExecutor()), "limit": limit.seconds}
    runs |= {name: partial(timed, work, executor) for name, executor in open_backends.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for name, run in runs.items():
            if name != "limit":
                run()  # start-up
        for turn in range(repeat):
            order = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
            for name in order:
                times[name].append(runs[name]())
    finally:
        limit.close()
        for executor in open_backends.values():
            executor.close()
    serial = statistics.median(times["serial"])
    print(f"\n{work}: serial {serial:.2f} s, {processes} workers, {repeat} turns, load {os.getloadavg()[0]:.1f}")
    best = processes * statistics.median(s / t for s, t in zip(times["serial"], times["limit"], strict=True))
    print(f"  attainable (independent serial processes at once): {best:.2f}")
    for name in backends:
        ratio = statistics.median(s / t for s, t in zip(times["serial"], times[name], strict=True))
        took = statistics.median(times[name])
        print(f"  {name}: {took:.2f} s, ratio to serial {ratio:.2f}, {100 * ratio / best:.0f} % of the attainable")


def costs(backends: list[str], processes: int) -> None:
    """Print what tasks and workers cost."""
    for name in backends:
        with open_executor(name, processes=processes) as executor:
            start = time.perf_counter()
            run_campaign([Task(name=str(i), function=nothing) for i in range(processes)], executor=executor)
            first = time.perf_counter() - start
            start = time.perf_counter()
            run_campaign([Task(name=str(i), function=pid) for i in range(4 * processes)], executor=executor)
            imports = time.perf_counter() - start
            start = time.perf_counter()
            run_campaign([Task(name=str(i), function=nothing) for i in range(500)], executor=executor)
            empty = (time.perf_counter() - start) / 500
        text = f"{name}: first task after {first:.2f} s, imports of TensorFlow {imports:.2f} s"
        print(f"{text}, empty task {empty * 1e3:.2f} ms, load {os.getloadavg()[0]:.1f}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import dpaudit.federated.reference, tensorflow, keras"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"a worker with TensorFlow: {used:.2f} CPU s, {after.ru_maxrss / 1024:.0f} MB at most")
    for work, function in WORK.items():
        function(SerialExecutor())  # the first graph is not the task's
        spy = Spy()
        function(spy)  # type: ignore[arg-type]
        print(f"{work}: {json.dumps(spy.summary())}")


class Spy(SerialExecutor):
    """A serial executor that weighs what would be sent."""

    def __init__(self) -> None:
        self.tasks: list[tuple[float, int, int]] = []
        self.shared = 0

    def run(self, tasks: Any, *, shared: Any = None) -> Any:
        """Yield as SerialExecutor does."""
        import cloudpickle

        self.shared = max(self.shared, len(cloudpickle.dumps(dict(shared or {}))))
        for task in tasks:
            start = time.process_time()
            done = execute(task, shared or {})
            used = time.process_time() - start
            self.tasks.append((used, len(cloudpickle.dumps(task)), len(pickle.dumps(done.value))))
            yield done

    def summary(self) -> dict[str, float]:
        """Return the means over tasks."""
        seconds, sent, back = (float(np.mean(column)) for column in zip(*self.tasks, strict=True))
        return {
            "tasks": len(self.tasks), "cpu_seconds": round(seconds, 4), "bytes_in": round(sent),
            "bytes_out": round(back), "shared_bytes": self.shared,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", nargs="*", choices=list(WORK), default=list(WORK))
    parser.add_argument("--backends", nargs="*", choices=["joblib", "ray"], default=["joblib", "ray"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--serve", choices=list(WORK))
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.costs:
        costs(options.backends, options.processes)
    else:
        for work in options.work:
            compare(work, options.backends, options.processes, options.repeat)


if __name__ == "__main__":
    main()
