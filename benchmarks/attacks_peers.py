"""The peers of benchmarks/attacks.py, in an environment of their own; called by it.

Needs numpy, scipy, pandas, scikit-learn, and: tensorflow-empirical-privacy 0.1.0 (compute_score_lira is read from
the installed file, because importing the package fails on current TensorFlow) and privacyguard-platform 0.0.2, both
without their dependencies. Of sacroml 2.0.1's quantile attack only the regressor is run, with its settings.
"""

import ast
import functools
import json
import logging
import sys
import time
import tracemalloc
import typing
from pathlib import Path

import numpy as np
import scipy.stats
from _attack_inputs import lira_input, quantile_input, rmia_input

N = 10_000


def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def lira_of_tensorflow(data):
    """compute_score_lira of tensorflow-privacy: one example after the other."""
    folder = next(Path(p) for p in sys.path if (Path(p) / "tensorflow_privacy/privacy/privacy_tests").is_dir())
    path = folder / "tensorflow_privacy/privacy/privacy_tests/membership_inference_attack/advanced_mia.py"
    names = ("compute_score_lira", "replace_nan_with_column_mean")
    wanted = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) in names]
    scope = {"np": np, "scipy": scipy, "functools": functools, "logging": logging}
    scope |= {"Union": typing.Union, "Sequence": typing.Sequence}
    exec(compile(ast.Module(wanted, []), str(path), "exec"), scope)
    target, reference, inside = data
    stats = [[reference[chosen[:, u], u][:, None] for u in range(target.size)] for chosen in (inside, ~inside)]
    return timed(lambda: -np.ravel(scope["compute_score_lira"](target[:, None], *stats, median_or_mean="mean")))


def rmia_of_privacyguard(data):
    from privacy_guard.attacks.rmia_attack import RmiaAttack

    p, reference, inside, z, z_reference = data
    attack = RmiaAttack.__new__(RmiaAttack)
    arguments = (p, reference.T, inside.T, z, z_reference.T, 0.3, reference.shape[0] // 2)

    def call():
        return attack._compute_membership_scores(*arguments)

    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return timed(call), peak


def quantile_of_sacro(data):
    """The regressor of sacroml's QMIAAttack with its settings: one quantile, early stopping; fit and predict."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, _, known, phi = data
    model = HistGradientBoostingRegressor(
        loss="quantile", quantile=0.99, max_iter=100, random_state=0, early_stopping=True
    )
    return timed(lambda: model.fit(known, phi).predict(x))


def main():
    rows = []
    _, cpu, wall = lira_of_tensorflow(lira_input(100_000))
    rows.append(("LiRA online, 1e5 examples x 64 models, variance per example", "tensorflow-privacy", cpu, wall, None))
    (_, cpu, wall), peak = rmia_of_privacyguard(rmia_input(N))
    rows.append(("RMIA offline, n = z = 1e4, 8 reference models", "PrivacyGuard", cpu, wall, peak))
    _, cpu, wall = quantile_of_sacro(quantile_input(100_000))
    rows.append(("quantile regression, 1e5 x 64 features, one quantile", "sacroml's regressor", cpu, wall, None))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
