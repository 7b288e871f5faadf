"""How tight the bounds are: every cell of the reference table, the per-step audit, the scores of jax_privacy's test.

    python benchmarks/estimation_tightness.py [--trials 400]

Every number of guesses and every threshold is planned for the claimed epsilon, before a score is drawn. Means of 95 %
bounds with their standard errors. The reference (tests/known_answers/lower_bounds_table.json) has means and standard
deviations over an unstated, small number of repetitions; its one-run columns are at the best number of guesses of the
same repetitions.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from dpaudit import accounting
from dpaudit.estimation import estimate, per_step_bound, reference

DELTA = 1e-5
COLUMNS = {
    "steinke": ("one-run", {}),
    "eps-delta": ("one-run-fdp", {}),
    "gaussian": ("one-run-fdp", {"curve": "gaussian"}),
    "clopper-pearson": ("clopper-pearson", {}),
    "bayes": ("bayes", {}),
    "gdp": ("gdp", {}),
    "gdp-bonferroni": ("gdp", {"threshold_selection": "bonferroni:17"}),
    "independent": ("independent-canaries", {}),
    "mean-shift": ("mean-shift", {}),
}
LARGER = "larger of two"
TABLE = Path(__file__).parents[1] / "tests" / "known_answers" / "lower_bounds_table.json"
RUNS = ("independent-runs",)
PER_STEP = {
    "mean-shift": "one coin in or out",
    "mean-shift-centred": "the same, null known to be centred",
    "mean-shift-signed": "coin decides the sign",
    "gdp": "error rates",
}


def cell(canaries, epsilon, trials):
    """Return mean and standard error of every column."""
    rng, mechanism = np.random.default_rng(20240607), reference.gaussian_of(epsilon, DELTA)
    found = {column: [] for column in (*COLUMNS, LARGER)}
    for _ in range(trials):
        scores = mechanism.draw(canaries, rng)
        for column, (method, options) in (COLUMNS | {LARGER: ("one-run-max", {})}).items():
            bound = estimate(
                scores.member, scores.non_member, method=method, delta=DELTA, interest_epsilon=epsilon, declared=RUNS,
                **options,
            )  # fmt: skip
            found[column].append(bound.details["epsilon_if_assumed"] if bound.epsilon is None else bound.epsilon)
    return {name: (float(np.mean(v)), float(np.std(v) / math.sqrt(trials))) for name, v in found.items()}


def reference_table(trials):
    rows = json.loads(TABLE.read_text())["rows"]
    names = list(COLUMNS)
    print(f"\n### Gaussian mechanism, delta {DELTA:g}: dpaudit (reference), {trials} audits a cell\n")
    print("| m | epsilon | " + " | ".join([*names, LARGER]) + " |\n" + "|---" * (len(names) + 3) + "|")
    scores = {name: [] for name in names}
    for row in rows:
        count = trials if row["canaries"] < 100_000 else max(20, trials // 4)
        found = cell(row["canaries"], row["epsilon"], count)
        texts = []
        for name in names:
            (mean, error), (theirs, deviation) = found[name], row[name]
            texts.append(f"{mean:.2f} ({theirs:.2f})")
            spread = math.hypot(error, deviation / math.sqrt(20), 0.005)
            scores[name].append(((mean - theirs) / spread, mean / theirs if theirs else None))
        print(
            f"| {row['canaries']} | {row['epsilon']:g} | " + " | ".join([*texts, f"{found[LARGER][0]:.2f}"]) + " |",
            flush=True,
        )
    print("\n| method | cells at or above the reference | worst ratio where the reference exceeds 0.5 | lowest z |")
    print("|---|---|---|---|")
    large = {(r["canaries"], r["epsilon"], n) for r in rows for n in names if r[n][0] > 0.5}
    for name in names:
        ratios = [
            ratio for row, (_, ratio) in zip(rows, scores[name], strict=True)
            if (row["canaries"], row["epsilon"], name) in large
        ]  # fmt: skip
        above = sum(z >= 0 for z, _ in scores[name])
        print(f"| {name} | {above} of {len(rows)} | {min(ratios):.3f} | {min(z for z, _ in scores[name]):+.1f} |")
    print("\nz: difference over its standard error, the reference taken as a mean of 20 audits rounded to 0.01.")


def per_step(trials, canaries=100):
    """One coin per step and canary; noise calibrated to epsilon by the accountant that then composes the bound."""
    print(f"\n### Per-step audit, {canaries} canaries, {trials} audits: mean bound / epsilon\n")
    print("| q, T | epsilon | noise | " + " | ".join(f"{k} ({v})" for k, v in PER_STEP.items()) + " |")
    print("|---" * (3 + len(PER_STEP)) + "|")
    rng = np.random.default_rng(11)
    for rate, steps in ((0.1, 100), (0.02, 500)):
        for epsilon in (1.0, 4.0, 8.0):
            noise = accounting.calibrate_noise(epsilon, DELTA, sampling_rate=rate, steps=steps)
            grid = noise * np.geomspace(0.9, 2.5, 25)
            curve = [
                accounting.epsilon(accounting.steps_of(z, sampling_rate=rate, steps=steps), DELTA) for z in grid
            ]  # fmt: skip
            texts = []
            for method in PER_STEP:
                found = []
                for _ in range(trials):
                    coins = rng.random(canaries * steps) < 0.5
                    low = -1.0 if method == "mean-shift-signed" else 0.0
                    scores = np.where(coins, 1.0, low) + noise * rng.normal(size=coins.size)
                    bound = per_step_bound(
                        scores[coins], scores[~coins], delta=DELTA, method=method, claimed_noise_multiplier=noise,
                        compose=lambda z, g=grid, c=curve: float(np.exp(np.interp(np.log(z), np.log(g), np.log(c)))),
                    )  # fmt: skip
                    found.append(bound.epsilon if bound.epsilon is not None else bound.details["epsilon_if_assumed"])
                texts.append(f"{np.mean(found) / epsilon:.3f} (above {np.mean(np.greater(found, epsilon)):.2f})")
            print(f"| {rate:g}, {steps} | {epsilon:g} | {noise:.3f} | " + " | ".join(texts) + " |")


def quantile_scores():
    """Deterministic normal quantiles, 10,000 a side, delta 1e-6: the scores of jax_privacy's own unit test."""
    theirs = {1: (4.887, 1.133, 2.165, 4.335), 2: (10.997, 2.312, 4.722, 10.241), 4: (26.360, 4.396, 9.134, 24.69)}
    print("\n### Scores of jax_privacy's unit test (delta 1e-6): dpaudit (jax_privacy 2.0.0), ratio\n")
    print("| shift | epsilon | one-run | one-run-fdp, gaussian | one-run-max | gdp |\n|---|---|---|---|---|---|")
    levels = (np.arange(10_000) + 0.5) / 10_000
    for shift, (epsilon, *others) in theirs.items():
        texts = []
        asked = [("one-run", {}), ("one-run-fdp", {"curve": "gaussian"}), ("one-run-max", {}), ("gdp", {})]
        compare = [others[0], others[1], others[0], others[2]]
        for (method, options), other in zip(asked, compare, strict=True):
            bound = estimate(
                ndtri(levels) + shift, ndtri(levels), method=method, delta=1e-6, interest_epsilon=epsilon,
                declared=RUNS, **options,
            )  # fmt: skip
            texts.append(f"{bound.epsilon:.3f} ({other:.3f}), {bound.epsilon / other:.2f}")
        print(f"| {shift} | {epsilon:g} | " + " | ".join(texts) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    start = time.process_time()
    quantile_scores()
    per_step(max(20, trials // 4))
    reference_table(trials)
    print(f"\n{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
