"""Speed of attacks beside public implementations, in one run; prints Markdown.

    OMP_NUM_THREADS=1 python benchmarks/attacks.py [--peers PYTHON]

PYTHON is the interpreter of an environment of its own that holds the peers (see attacks_peers.py); both sides get the
same arrays from the same seed, and CPU seconds of one call are compared. Agreement is tested in tests/attacks.
"""

import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
from _attack_inputs import lira_input, quantile_input, rmia_input

from dpaudit.attacks.lira import lira_scores
from dpaudit.attacks.quantile import quantile_scores
from dpaudit.attacks.rmia import population_probability, rmia_scores

SIZES = {"lira": 100_000, "rmia": 100_000, "rmia-peer": 10_000, "quantile": 100_000}


def rmia(p, reference, inside, z, z_reference):
    outside = np.zeros(z_reference.shape, bool)
    own = np.log(p) - population_probability(np.log(reference), inside, mode="offline", offline_a=0.3)
    other = np.log(z) - population_probability(np.log(z_reference), outside, mode="offline", offline_a=0.3)
    return rmia_scores(own, other)


def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def peak(call):
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def ours():
    rows = []
    target, reference, inside = lira_input(SIZES["lira"])
    _, cpu, wall = timed(lambda: lira_scores(target, reference, inside, variance="per-unit"))
    rows.append(("LiRA online, 1e5 examples x 64 models, variance per example", "dpaudit", cpu, wall, None))
    given = rmia_input(SIZES["rmia"])
    _, cpu, wall = timed(lambda: rmia(*given))
    rows.append(("RMIA offline, n = z = 1e5, 8 reference models", "dpaudit", cpu, wall, peak(lambda: rmia(*given))))
    given = rmia_input(SIZES["rmia-peer"])
    _, cpu, wall = timed(lambda: rmia(*given))
    rows.append(("RMIA offline, n = z = 1e4, 8 reference models", "dpaudit", cpu, wall, peak(lambda: rmia(*given))))
    given = rmia_input(1_000_000)
    _, cpu, wall = timed(lambda: rmia(*given))
    rows.append(("RMIA offline, n = z = 1e6, 8 reference models", "dpaudit", cpu, wall, None))
    given = quantile_input(SIZES["quantile"])
    _, cpu, wall = timed(lambda: quantile_scores(*given))
    rows.append(("quantile regression, 1e5 x 64 features, two quantiles", "dpaudit", cpu, wall, None))
    return rows


def peers(python):
    """Ask the peers' interpreter; it prints one JSON line."""
    script = Path(__file__).with_name("attacks_peers.py")
    done = subprocess.run([python, str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        return [("peers", f"failed: {done.stderr[-300:]}", None, None, None)]
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])["rows"]]


def main():
    rows = ours()
    if "--peers" in sys.argv:
        rows += peers(sys.argv[sys.argv.index("--peers") + 1])
    print("| what | who | CPU s | wall s | peak MiB |\n| --- | --- | --- | --- | --- |")
    for what, who, *numbers in sorted(rows, key=lambda row: row[0]):
        print(f"| {what} | {who} | " + " | ".join("" if n is None else f"{n:.3g}" for n in numbers) + " |")


if __name__ == "__main__":
    main()
