"""Lower bounds on a million scores: CPU seconds of dpaudit beside jax_privacy 2.0.0, one core, same scores.

    python benchmarks/estimation.py [--scores 1000000] [--environment DIR] [--repeat 5] [--without-peer]

The peer runs in an environment of its own, which the script creates in DIR (pip, jax-privacy==2.0.0) when it is
not there. Every repetition is a process of its own, so that no cache is warm; the two libraries take turns. Seconds are
process CPU time, medians over the repetitions. Bounds are printed with the seconds: a fast number that is not a bound
is worth nothing.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

HERE = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ONE_CORE = dict.fromkeys(THREADS, "1") | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
DELTA = 1e-5
BESIDE = {  # our call -> the peer's call that answers the same question
    "Steinke": "Steinke",
    "f-DP, Gaussian": "f-DP",
    "Clopper-Pearson, 16 declared thresholds": "Clopper-Pearson",
    "Gaussian (mu), 17 declared thresholds": "Gaussian (mu)",
    "AUC with 1,000-fold bootstrap": "AUC with 1,000-fold bootstrap",
}


def scores(count):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(1, 1, count // 2), rng.normal(0, 1, count // 2)


def ours(count):
    """Time every method once; print one JSON row each."""
    from dpaudit.estimation import estimate
    from dpaudit.records import ScoreSet

    member, other = scores(count)
    pair = ScoreSet(member=member, non_member=other)
    runs = {"declared": ("independent-runs",)}
    bounds = {
        "Steinke": ("one-run", {}),
        "f-DP, Gaussian": ("one-run-fdp", {"curve": "gaussian"}),
        "f-DP, (eps, delta)": ("one-run-fdp", {}),
        "larger of Steinke and (eps, delta)": ("one-run-max", {}),
        "Clopper-Pearson, 16 declared thresholds": ("clopper-pearson", runs | {"threshold_selection": "bonferroni:16"}),
        "Clopper-Pearson, planned": ("clopper-pearson", runs),
        "Gaussian (mu), planned": ("gdp", runs),
        "Gaussian (mu), 17 declared thresholds": ("gdp", runs | {"threshold_selection": "bonferroni:17"}),
        "independent canaries": ("independent-canaries", {}),
        "mean shift": ("mean-shift", {}),
        "Bayesian": ("bayes", runs),
    }
    total = 0.0
    for name, (method, options) in bounds.items():
        start = time.process_time()
        bound = estimate(member, other, method=method, delta=DELTA, **options)
        seconds = time.process_time() - start
        total += seconds
        row(name, seconds, bound.epsilon, f"{bound.family}, {bound.threshold_selection}")
    total += measure_metrics(pair)
    row("all together", total, None, f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def measure_metrics(pair):
    import numpy as np

    from dpaudit.estimation import bootstrap_interval, delong_interval, exact_auc, summarise_attack

    total, rng = 0.0, np.random.default_rng(0)
    metrics = {
        "AUC with 1,000-fold bootstrap": lambda: (exact_auc(pair), bootstrap_interval(pair, rng=rng)),
        "AUC with DeLong interval": lambda: (exact_auc(pair), delong_interval(pair)),
        "AUC, TPR at three FPR, advantage": lambda: summarise_attack(pair, attack="a", threat_model="t").auc,
    }
    for name, call in metrics.items():
        start = time.process_time()
        value = call()
        seconds = time.process_time() - start
        total += seconds
        row(name, seconds, None, str(value))
    return total


def row(name, seconds, epsilon, note):
    print(json.dumps({"name": name, "seconds": round(seconds, 4), "epsilon": epsilon, "note": note}), flush=True)


def peer_python(folder):
    """Return the interpreter of the peer's environment, created on first use."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "jax-privacy==2.0.0"], check=True)
    return python


def collect(command):
    done = subprocess.run(command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    return {row["name"]: row for row in map(json.loads, filter(lambda x: x.startswith("{"), done.stdout.splitlines()))}


def medians(runs):
    """Return the rows of the last run with the median seconds of all."""
    return {
        name: {**row, "seconds": statistics.median(run[name]["seconds"] for run in runs if name in run)}
        for name, row in runs[-1].items()
    }


def table(title, rows, peer):
    print(f"\n{title}\n\n| call | CPU s | bound | note | times faster than the peer |\n|---|---|---|---|---|")
    for r in rows.values():
        bound = "" if r["epsilon"] is None else f"{r['epsilon']:.3f}"
        beside = peer.get(BESIDE.get(r["name"]))
        ratio = f"{beside['seconds'] / r['seconds']:.1f}" if beside else ""
        print(f"| {r['name']} | {r['seconds']:.3f} | {bound} | {r['note']} | {ratio} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "dpaudit-bench-jax-privacy")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        ours(options.scores)
        return
    mine, theirs = [], []
    python = None if options.without_peer else peer_python(options.environment)
    for _ in range(options.repeat):
        mine.append(collect([sys.executable, __file__, "--ours", "--scores", str(options.scores)]))
        if python:
            theirs.append(collect([python, HERE / "estimation_jax_privacy.py", str(options.scores)]))
    peer = medians(theirs) if theirs else {}
    print(f"medians of {options.repeat} processes, {options.scores:,} scores, delta {DELTA:g}, true epsilon 4.377")
    table("dpaudit", medians(mine), peer)
    if peer:
        table("jax_privacy 2.0.0", peer, {})


if __name__ == "__main__":
    main()
