"""Accounting and calibration beside dp-accounting, in one process: prints markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/accounting.py [--grid] [--repeat 3]

Times are the best of `--repeat` runs in CPU seconds of this process (both libraries run on one core here).
"reached" is the epsilon of our multiplier by dp-accounting, on its default grid of 1e-4 and on one of 5e-5.
`--grid` adds 30 configurations from (q = 1, T = 1) to (q = 1e-4, T = 1e6) under both relations: some minutes.
"""

import argparse
import platform
import time
from importlib.metadata import version

import dp_accounting as dp
import numpy as np
from dp_accounting.pld import PLDAccountant

from dpaudit import events as ev
from dpaudit.accounting import (
    PrivacyCurve,
    RunningEpsilon,
    calibrate_noise,
    epsilon,
    pld_that_fits,
    steps_of,
    to_dp_accounting,
)
from dpaudit.records import Relation

ADD = Relation.ADD_OR_REMOVE_ONE
SHAPES = [(1.0, 1), (0.5, 10), (0.1, 100), (0.05, 1000), (0.01, 1000), (256 / 60000, 14062)]
SHAPES += [(1e-3, 10**5), (1e-3, 10**6), (1e-4, 10**5), (1e-4, 10**6)]


def timed(function, repeat):
    best, result = float("inf"), None
    for _ in range(repeat):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return result, best


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def header(*cells):
    row(*cells)
    row(*["---"] * len(cells))


def library(relation, step=1e-4):
    return PLDAccountant(dp.NeighboringRelation[relation.name], step)


def calibrations(cases, repeat):
    header("q", "T", "epsilon", "relation", "dpaudit z", "dp-accounting z", "relative", "reached / target - 1",
           "at 5e-5", "dpaudit s", "dp-accounting s", "times faster")  # fmt: skip
    for rate, steps, target, delta, relation in cases:

        def make_event(z, rate=rate, steps=steps):
            return to_dp_accounting(steps_of(z, sampling_rate=rate, steps=steps))

        def ours(rate=rate, steps=steps, target=target, delta=delta, relation=relation):
            return calibrate_noise(target, delta, sampling_rate=rate, steps=steps, relation=relation)

        def theirs(make_event=make_event, target=target, delta=delta, relation=relation):
            return dp.calibrate_dp_mechanism(lambda: library(relation), make_event, target, delta)

        z, mine = timed(ours, repeat)
        reference, other = timed(theirs, 1)
        reached, finer = (
            library(relation, step).compose(make_event(z)).get_epsilon(delta) / target - 1 for step in (1e-4, 5e-5)
        )
        row(f"{rate:.4g}", steps, target, relation.value, f"{z:.7g}", f"{reference:.7g}", f"{z / reference - 1:+.1e}",
            f"{reached:+.1e}", f"{finer:+.1e}", f"{mine:.3f}", f"{other:.2f}", f"{other / mine:.0f}")  # fmt: skip


def single_numbers(repeat):
    header("event", "accountant", "dpaudit", "dp-accounting", "dpaudit s", "dp-accounting s", "times faster")
    for rate, z, steps in [(0.01, 1.0, 1000), (256 / 60000, 1.1, 14062), (0.02, 0.6, 100), (1e-3, 1.0, 10**6)]:
        event = steps_of(z, sampling_rate=rate, steps=steps)
        converted = to_dp_accounting(event)
        for relation in Relation:
            mine, first = timed(lambda e=event, r=relation: epsilon(e, 1e-5, relation=r), repeat)
            other, second = timed(lambda c=converted, r=relation: library(r).compose(c).get_epsilon(1e-5), repeat)
            row(f"q={rate:.4g}, z={z}, T={steps}", f"PLD, {relation.value}", f"{mine:.9g}", f"{other:.9g}",
                f"{first:.3f}", f"{second:.3f}", f"{second / first:.0f}")  # fmt: skip
        mine, first = timed(lambda e=event: epsilon(e, 1e-5, "rdp"), repeat)
        other, second = timed(lambda c=converted: dp.rdp.RdpAccountant().compose(c).get_epsilon(1e-5), repeat)
        row(f"q={rate:.4g}, z={z}, T={steps}", "RDP", f"{mine:.9g}", f"{other:.9g}", f"{first:.3f}", f"{second:.3f}",
            f"{second / first:.0f}")  # fmt: skip


def sampled(rate, z):
    return ev.PoissonSampled(sampling_rate=rate, event=ev.Gaussian(noise_multiplier=z))


ROUNDS = [
    ("public coin 0.3, q 0.1, z 1", ev.PubliclySampled(sampling_rate=0.3, event=sampled(0.1, 1.0)), ADD),
    ("q 256/60000, z 1.1", sampled(256 / 60000, 1.1), ADD),
    ("q 0.01, z 0.6", sampled(0.01, 0.6), Relation.REPLACE_ONE),
    ("q 0.5, z 0.7", sampled(0.5, 0.7), ADD),
    ("q 1e-4, z 1", sampled(1e-4, 1.0), ADD),
]


def running(repeat):
    header("epsilon after each of 1000 rounds", "relation", "mean ms", "slowest ms", "epsilon after 1000")
    for name, event, relation in ROUNDS:

        def thousand(event=event, relation=relation):
            spent = RunningEpsilon(event, 1e-5, relation=relation)
            each = []
            for rounds in range(1, 1001):
                start = time.process_time()
                reached = spent.after(rounds)
                each.append(1000 * (time.process_time() - start))
            return each, reached

        (each, reached), _ = timed(thousand, repeat)
        row(name, relation.value, f"{np.mean(each):.2f}", f"{np.max(each):.2f}", f"{reached:.4g}")
    print()
    curve = PrivacyCurve(pld_that_fits(ev.SelfComposed(event=ROUNDS[0][1], count=1000), relation=ADD))
    deltas = np.geomspace(1e-10, 0.5, 200)
    _, profile = timed(lambda: curve.epsilon(deltas), repeat)
    header("what", "milliseconds")
    row("profile at 200 deltas from a composed PLD", f"{1000 * profile:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(f"dp-accounting {version('dp-accounting')}, numpy {version('numpy')}, Python {platform.python_version()}\n")
    print("Calibration by PLD, delta 1e-5\n")
    calibrations([(256 / 60000, 14062, 3.0, 1e-5, ADD), (1e-3, 10**6, 3.0, 1e-5, Relation.REPLACE_ONE)], options.repeat)
    print("\nOne epsilon at delta 1e-5\n")
    single_numbers(options.repeat)
    print("\nRounds and profiles\n")
    running(options.repeat)
    if options.grid:
        print("\nGrid, delta 1e-6\n")
        cases = [(q, t, e, 1e-6, r) for r in Relation for q, t in SHAPES for e in (0.1, 2.0, 20.0)]
        calibrations(cases, 1)


if __name__ == "__main__":
    main()
