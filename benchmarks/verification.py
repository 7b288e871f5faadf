"""The statistical tests against their bars: prints markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/verification.py [--runs 41] [--honest 1000] [--steps 20]

Outputs are counted on each side, pilot included. CPU seconds of one test. "5 %" is the significance of the medians.
Beside DP-Auditorium: verification_dp_auditorium.py. Other libraries' steps: verification_peers.py.
"""

import argparse
import time

import numpy as np

from dpaudit import _rng
from dpaudit.records import Status
from dpaudit.verification import PrivacyClaim, Step, check_mechanism, check_step
from dpaudit.verification import subject_mechanisms as subjects
from dpaudit.verification._step_runs import as_tensors

BARS = [
    ("Laplace, half the noise, claimed 1-DP", subjects.laplace(0.5), PrivacyClaim.approximate(1.0), "200"),
    ("Laplace, noise 0.9, claimed 1-DP", subjects.laplace(0.9), PrivacyClaim.approximate(1.0), "6,000"),
    ("Gaussian, sigma 0.5, claimed sigma 1 (profile)", subjects.gaussian(0.5), PrivacyClaim.gaussian(1.0), "400"),
    ("Gaussian, sigma 0.9, claimed sigma 1 (profile)", subjects.gaussian(0.9), PrivacyClaim.gaussian(1.0), "-"),
    ("Laplace, half the noise, claimed (2, 0.619)-Renyi", subjects.laplace(0.5), PrivacyClaim.renyi(2, 0.619), "-"),
]


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(title, *cells):
    print(f"\n### {title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def checked(subject, claim, seeds, **options):
    """Return the results and the CPU seconds of one run."""
    start = time.process_time()
    found = [check_mechanism(subject.mechanism, subject.pairs, claim=claim, seed=seed, **options) for seed in seeds]
    return found, (time.process_time() - start) / len(found)


def refuted(results):
    return sum(result.status == Status.FAIL for result in results)


def medians(runs):
    header("Outputs until a wrong claim is refuted, 5 %", "mechanism", "median outputs", "90 % quantile", "bar",
           "refuted", "CPU s")  # fmt: skip
    for name, subject, claim, bar in BARS:
        found, seconds = checked(subject, claim, range(runs), significance=0.05, max_pairs=100_000)
        used = [result.n for result in found]
        row(name, f"{np.median(used):,.0f}", f"{np.quantile(used, 0.9):,.0f}", bar, f"{refuted(found)}/{runs}",
            f"{seconds:.3f}")  # fmt: skip


def catalogue(runs):
    header("Broken mechanisms, 1 %", "mechanism", "claim", "median outputs", "refuted", "CPU s", "slowest CPU s")
    for name, (subject, claim) in (subjects.BROKEN | subjects.ROUNDED).items():
        bits, times, found = name in subjects.ROUNDED, [], []
        for seed in range(runs):
            results, seconds = checked(subject, claim, [seed], max_pairs=500_000, float_bits=bits)
            times.append(seconds)
            found += results
        used = np.median([result.n for result in found])
        row(
            name, claim.text, f"{used:,.0f}", f"{refuted(found)}/{runs}", f"{np.median(times):.2f}", f"{max(times):.2f}"
        )


def honest(runs):
    header("Honest twins, 5 %, 1,000 outputs each", "mechanism", "claim", "false alarms", "CPU s")
    for name, (subject, claim) in (subjects.HONEST | subjects.HONEST_ROUNDED).items():
        bits = name in subjects.HONEST_ROUNDED
        found, seconds = checked(subject, claim, range(runs), significance=0.05, max_pairs=1000, float_bits=bits)
        row(name, claim.text, f"{refuted(found)}/{runs} = {refuted(found) / runs:.3f}", f"{seconds:.3f}")


def numpy_step(dimension, units, shortfall=0.0):
    """Return a DP server step in NumPy, float32, with three replays; counts its executions in `calls`."""
    sizes = (dimension // 2, dimension // 4, dimension - dimension // 2 - dimension // 4)
    rng, scale, calls = np.random.default_rng(0), np.float32(2 / np.sqrt(dimension)), []
    batch = tuple(rng.standard_normal((units, size), dtype=np.float32) * scale for size in sizes)

    def run(rows, seed, number=0):
        calls.append(seed)
        with np.errstate(all="ignore"):
            squares = sum((row.astype(np.float64) ** 2).sum(axis=1) for row in rows)
            fit = np.isfinite(squares)
            factor = np.minimum(1, 1 / np.sqrt(np.where(fit, squares, 1).clip(1e-30))) * fit
            sums = [factor.astype(np.float32) @ np.where(fit[:, None], row, 0) for row in rows]
        noise = _rng.stream(seed, "bench", number)
        sd = np.float32(1 - shortfall)
        return [(part + sd * noise.standard_normal(part.size, dtype=np.float32)) / np.float32(units) for part in sums]

    step = Step(run=run, batch=batch, clip_norm=1.0,
                replays=lambda rows, seed: {f"step {i}": run(rows, seed, i) for i in range(3)})  # fmt: skip
    return step, calls


def step_times():
    header("The step test, all checks together", "parameters", "units", "executions", "CPU s", "of which the step",
           "minimum detectable shortfall of noise", "status")  # fmt: skip
    for dimension, units in ((1_000, 24), (10_000, 24), (100_000, 24), (1_000_000, 12), (10_000_000, 4)):
        step, calls = numpy_step(dimension, units)
        start = time.process_time()
        results = check_step(lambda step=step: step, 1.0)
        total, executions = time.process_time() - start, len(calls)
        start = time.process_time()
        as_tensors(step.run(step.batch, 0))
        alone = (time.process_time() - start) * executions
        sensitivity = next(result for result in results if result.id == "step.sensitivity")
        statuses = sorted({result.status.value for result in results})
        row(f"{dimension:,}", units, executions, f"{total:.2f}", f"{alone:.2f}",
            f"{sensitivity.minimum_detectable:.4f}", ", ".join(statuses))  # fmt: skip


def step_errors(runs):
    header("Step test: small shortfalls and false alarms, 1 %", "parameters", "noise", "runs", "step.sensitivity fails",
           "any check fails")  # fmt: skip
    for dimension, shortfall, count in ((10_000, 0.0, 10 * runs), (10_000, 0.03, runs), (10_000, 0.05, runs),
                                        (1_000, 0.1, runs)):  # fmt: skip
        step, _ = numpy_step(dimension, 12, shortfall)
        seeds = range(0, 1000 * count, 1000)
        found = [check_step(lambda step=step: step, 1.0, seed=seed) for seed in seeds]
        sensitive = sum(r.status == Status.FAIL for results in found for r in results if r.id == "step.sensitivity")
        alarms = sum(any(r.status == Status.FAIL for r in results) for results in found)
        row(f"{dimension:,}", f"{1 - shortfall:g} of the claim", count, f"{sensitive}/{count}", f"{alarms}/{count}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=41)
    parser.add_argument("--honest", type=int, default=0, help="runs of each honest mechanism")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    medians(options.runs)
    catalogue(max(3, options.runs // 8))
    if options.honest:
        honest(options.honest)
    step_times()
    step_errors(options.steps)


if __name__ == "__main__":
    main()
