"""CPU seconds of the gate and of `--help`, each in a process of its own: best of several, user and system together.

    python benchmarks/gate.py

Rows: `dpaudit --help`; `dpaudit gate` on a bundle with a million scores, with the accounting from the cache and with
`--no-recompute`; the same with the claim recomputed; the size of the HTML report.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "evidence")]


def cpu_seconds(arguments: list[str], environment: dict[str, str], repeats: int, *, code: int = 0) -> float:
    """Return the least user and system time of a command that ends with this exit code."""
    best = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "dpaudit", *arguments]
        done = subprocess.run(command, check=False, env=environment, stdout=subprocess.DEVNULL)
        if done.returncode != code:
            raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}, not {code}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return best


def bundle(folder: Path, scores: int) -> Path:
    """Write an honest bundle with so many scores of canaries, and accounting from the accountants."""
    import factory

    rng = np.random.default_rng(1)
    coins = rng.random(scores) < 0.5
    values = rng.standard_normal(scores) + 0.5 * coins
    tosses = {"n_member": int(coins.sum()), "n_non_member": int((~coins).sum())}
    made = factory.real(folder, scores={"canaries": values}, coins=coins, bounds=(factory.bound(**tosses),))
    return made.root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = bundle(folder, options.scores)
        own = {"DPAUDIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **own}
        uncached = {**environment, "DPAUDIT_NO_CACHE": "1"}
        gate = ["gate", str(root), "--now", "2026-11-23", "-q"]
        cpu_seconds(gate, environment, 1)  # fills the cache
        about, repeats = f"gate, {options.scores:,} scores", options.repeats
        rows = {
            "dpaudit --help": cpu_seconds(["--help"], environment, repeats),
            f"{about}, accounting cached": cpu_seconds(gate, environment, repeats),
            f"{about}, --no-recompute": cpu_seconds([*gate, "--no-recompute"], environment, repeats, code=3),
            f"{about}, claim recomputed": cpu_seconds(gate, uncached, repeats),
        }
        for label, seconds in rows.items():
            print(f"{label:<55}{seconds:8.3f} s CPU")
        subprocess.run(
            [sys.executable, "-m", "dpaudit", "report", str(root), "-o", str(folder / "r.html"), "--now", "2026-11-23"],
            check=True, env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        print(f"{'HTML report':<55}{(folder / 'r.html').stat().st_size:8d} bytes")
        print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
