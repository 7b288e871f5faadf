"""What a whole private round costs against cohort, model and fleet size: time, and memory of the process.

    OMP_NUM_THREADS=1 python benchmarks/federated_scaling.py --plot benchmarks/federated_scaling.svg

Client level (dp-fedavg), one thread, clients of 20 examples x 16 features, one local epoch in batches of 10. Every
point is a process of its own, so that its peak memory is its own; times are medians over rounds after a warm-up.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

EXAMPLES, FEATURES = 20, 16
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "cohort": [{"clients": 10_000, "cohort": cohort, "hidden": [64]} for cohort in (50, 200, 1000, 5000)],
    "parameters": [
        {"clients": 1000, "cohort": 50, "hidden": hidden} for hidden in ([64], [512], [256, 256], [1000, 1000])
    ],
    "clients": [{"clients": clients, "cohort": 50, "hidden": [64]} for clients in (200, 2000, 20_000, 100_000)],
}


def measure(point: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return seconds and CPU seconds per round, and peak memory in MB, of one point."""
    import tensorflow as tf
    from federated_speed import server_of

    from dpaudit.config import TrainingSection
    from dpaudit.federated.data import Dataset

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng, people = np.random.default_rng(0), point["clients"]
    x = rng.standard_normal((people * EXAMPLES, FEATURES), dtype=np.float32)
    y = rng.integers(10, size=len(x)).astype(np.int32)
    owner = np.repeat(np.arange(people, dtype=np.int32), EXAMPLES)
    data = Dataset(x=x, y=y, client=owner, classes=10, name="scaling")
    training = TrainingSection(
        algorithm="dp-fedavg", rounds=10, client_sampling_rate=point["cohort"] / people, local_batch_size=10
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    one = server_of(training, data, tuple(point["hidden"]), example_level=False)
    one(), one()
    wall, cpu = [], []
    for _ in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        one()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sizes = [FEATURES, *point["hidden"], 10]
    parameters = sum((a + 1) * b for a, b in pairwise(sizes))
    return {
        **point, "parameters": parameters, "wall": statistics.median(wall), "cpu": statistics.median(cpu),
        "peak_mb": peak, "data_mb": before,
    }  # fmt: skip


def plot(found: dict[str, list[dict[str, Any]]], path: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(12, 3.6), layout="constrained")
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        sizes, times = [point[name] for point in points], [1e3 * point["cpu"] for point in points]
        axis.loglog(sizes, times, "o-", label="CPU ms per round")
        line = [times[-1] * size / sizes[-1] for size in sizes]
        axis.loglog(sizes, line, ":", color="grey", label="proportional")
        axis.set(xlabel=name, ylabel="CPU ms per round")
        axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", help="write an SVG here")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(json.loads(options.point), options.rounds)))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    print("| against | clients | cohort | parameters | wall ms | CPU ms | peak MB | of it before the first round |")
    print("|---|---|---|---|---|---|---|---|")
    for name, points in SWEEPS.items():
        for point in points:
            command = [sys.executable, __file__, "--rounds", str(options.rounds), "--point", json.dumps(point)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(answer.splitlines()[-1])
            found.setdefault(name, []).append(row)
            print(
                f"| {name} | {row['clients']:,} | {row['cohort']:,} | {row['parameters']:,} | "
                f"{1e3 * row['wall']:.1f} | {1e3 * row['cpu']:.1f} | {row['peak_mb']:.0f} | {row['data_mb']:.0f} |",
                flush=True,
            )
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
