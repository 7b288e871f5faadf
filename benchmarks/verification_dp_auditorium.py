"""Black-box tests beside Google's DP-Auditorium (hockey-stick tester), on the same samples, in one run.

    OMP_NUM_THREADS=1 python benchmarks/verification_dp_auditorium.py --sources FOLDER [--runs 10] [--largest 200000]

FOLDER holds the package `dp_auditorium` of github.com/google/differential-privacy (python/dp_auditorium; it is not on
PyPI). Its `__init__` is passed by, because it imports google-vizier, which these testers do not need. Without FOLDER
only the first table is printed: what the tester's error bound would need with a perfect classifier.

Both tools claim a false-alarm probability of 0.05. A case's power is the share of runs that refute; n counts outputs
on each side. CPU seconds of one call, TensorFlow's threads included.
"""

import argparse
import math
import sys
import time
import types
from pathlib import Path

import numpy as np

from dpaudit.gdp import gdp_delta
from dpaudit.records import Status
from dpaudit.verification import PrivacyClaim, check_mechanism
from dpaudit.verification.neighbours import SUMS

LEVEL = 0.05
SIZES = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)


def laplace(scale):
    return lambda d, n, rng: d + scale * rng.laplace(size=n)


def gaussian(sigma):
    return lambda d, n, rng: d + sigma * rng.standard_normal(n)


def laplace_delta(epsilon, scale):
    return max(0.0, 1 - math.exp((epsilon - 1 / scale) / 2))


# name, mechanism, our claim, the point (epsilon, delta) the tester is given, its true delta there
GDP = PrivacyClaim.gaussian(1.0)
PURE = PrivacyClaim.approximate(1.0)
NEAR_ZERO = (1e-3, float(gdp_delta(1e-3, 1.0)))
CASES = [
    ("Laplace 0.5, claimed 1-DP", laplace(0.5), PURE, (1.0, 0.0), laplace_delta(1.0, 0.5)),
    ("Laplace 0.9, claimed 1-DP", laplace(0.9), PURE, (1.0, 0.0), laplace_delta(1.0, 0.9)),
    ("Gaussian 0.5, claimed 1-GDP", gaussian(0.5), GDP, NEAR_ZERO, float(gdp_delta(1e-3, 2.0))),
    ("Gaussian 0.9, claimed 1-GDP", gaussian(0.9), GDP, NEAR_ZERO, float(gdp_delta(1e-3, 1 / 0.9))),
    ("Gaussian 0.5 at (4.377, 1e-5)", gaussian(0.5), GDP, (4.377178, 1e-5), float(gdp_delta(4.377178, 2.0))),
]


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def perfect(point, true_delta):
    """Outputs per side at which the tester's Hoeffding bound, on its test half, reaches the claim on average."""
    epsilon, delta = point
    return 2 * math.log(1 / LEVEL) * ((1 + math.exp(epsilon)) / (true_delta - delta)) ** 2 / 2


def hockey_stick(sources):
    """Return `rejects(x, y, epsilon, delta)` of the tester in FOLDER."""
    package = types.ModuleType("dp_auditorium")
    package.__path__ = [str(Path(sources) / "dp_auditorium")]
    sys.modules["dp_auditorium"] = package
    from dp_auditorium.configs import privacy_property, property_tester_config
    from dp_auditorium.testers import hockey_stick_tester as hs

    def rejects(x, y, epsilon, delta):
        config = property_tester_config.HockeyStickPropertyTesterConfig(
            training_config=hs.make_default_hs_training_config(),
            approximate_dp=privacy_property.ApproximateDp(epsilon, delta),
        )
        tester = hs.HockeyStickPropertyTester(config=config, base_model=hs.make_default_hs_base_model())
        return bool(tester.reject_property(tester.estimate_lower_bound(x[:, None], y[:, None], LEVEL)))

    return rejects


def ours(x, y, claim, seed):
    """Run our test on given samples; the mechanism hands them out in order."""
    left = {0.0: x, 1.0: y}
    used = {0.0: 0, 1.0: 0}

    def replay(dataset, n):
        start = used[dataset]
        used[dataset] += n
        return left[dataset][start : start + n]

    result = check_mechanism(replay, SUMS, claim=claim, significance=LEVEL, max_pairs=len(x), seed=seed)
    return result.status == Status.FAIL


def power(test, mechanism, n, runs):
    """Return the share of runs that refute, and the CPU seconds of one."""
    found, spent = 0, 0.0
    for run in range(runs):
        rng = np.random.default_rng([run, n])
        x, y = mechanism(0.0, n, rng), mechanism(1.0, n, rng)
        start = time.process_time()
        found += test(x, y, run)
        spent += time.process_time() - start
    return found / runs, spent / runs


def smallest(test, mechanism, runs, largest, wanted=0.8):
    """Return the smallest n of the grid with the wanted power, what it was there, and seconds; n None if none."""
    seen = (None, 0.0, 0.0)
    for n in SIZES:
        if n > largest:
            return (None, *seen[1:])
        found, seconds = power(test, mechanism, n, runs)
        seen = (n, found, seconds)
        if found >= wanted:
            return seen
    return (None, *seen[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", help="folder that holds the package dp_auditorium")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--largest", type=int, default=200_000)
    options = parser.parse_args()
    row("case", "outputs per side, hockey-stick bound with a perfect classifier")
    row("---", "---")
    for name, _, _, point, true_delta in CASES:
        row(name, f"{perfect(point, true_delta):,.0f}")
    print()
    if options.sources is None:
        print("no --sources: DP-Auditorium was not run.")
        return
    rejects = hockey_stick(options.sources)
    row("case", "dpaudit: n for power 0.8", "power", "CPU s", "hockey-stick: n for power 0.8", "power", "CPU s",
        "times fewer", "times faster")  # fmt: skip
    row(*["---"] * 9)
    for name, mechanism, claim, point, _ in CASES:
        n, share, seconds = smallest(lambda x, y, s, c=claim: ours(x, y, c, s), mechanism, 4 * options.runs, 10**6)
        theirs = smallest(
            lambda x, y, s, p=point: rejects(x, y, *p),  # noqa: ARG005
            mechanism,
            options.runs,
            options.largest,
        )
        their_n = f"more than {options.largest:,}" if theirs[0] is None else f"{theirs[0]:,}"
        bound = theirs[0] or options.largest
        row(name, f"{n:,}", f"{share:.2f}", f"{seconds:.3f}", their_n, f"{theirs[1]:.2f}", f"{theirs[2]:.2f}",
            f"{'> ' if theirs[0] is None else ''}{bound / n:.0f}", f"{theirs[2] / seconds:.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
