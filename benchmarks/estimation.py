"""Lower bounds on a million scores: CPU seconds of dpaudit beside jax_privacy 2.0.0, one core, same scores.

    python benchmarks/estimation.py [--scores 1000000] [--environment DIR] [--without-peer]

The peer runs in an environment of its own, which the script creates in DIR (pip, jax-privacy==2.0.0) when it is
not there. Every row is one call on fresh caches; seconds are process CPU time. Bounds are printed with the seconds: a
fast number that is not a bound is worth nothing.
"""

import argparse
import json
import os
import resource
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


def scores(count):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(1, 1, count // 2), rng.normal(0, 1, count // 2)


def ours(count):
    """Time every method once; print one JSON row each."""
    import numpy as np

    from dpaudit.estimation import bootstrap_interval, delong_interval, estimate, exact_auc, summarise_attack
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
    rng = np.random.default_rng(0)
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
    row("all together", total, None, f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


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
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(title, rows):
    print(f"\n{title}\n\n| call | CPU s | bound | note |\n|---|---|---|---|")
    for r in rows:
        bound = "" if r["epsilon"] is None else f"{r['epsilon']:.3f}"
        print(f"| {r['name']} | {r['seconds']} | {bound} | {r['note']} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "dpaudit-bench-jax-privacy")
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        ours(options.scores)
        return
    mine = collect([sys.executable, __file__, "--ours", "--scores", str(options.scores)])
    table(f"dpaudit, {options.scores:,} scores, delta {DELTA:g}, true epsilon 4.377", mine)
    if not options.without_peer:
        python = peer_python(options.environment)
        theirs = collect([python, HERE / "estimation_jax_privacy.py", str(options.scores)])
        table(f"jax_privacy 2.0.0, {options.scores:,} scores", theirs)


if __name__ == "__main__":
    main()
