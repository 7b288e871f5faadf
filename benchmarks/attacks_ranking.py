"""How attacks rank on over-fitted models without privacy: digits and generated IoT windows, over 5 seeds.

    python benchmarks/attacks_ranking.py [--seeds 5] [--models 65] [--json]

Each seed draws balanced halves for all models, trains them at once, and takes each of 8 models as the target and the
other 64 as the attacker's. Reported per attack: AUC and TPR at 1 % FPR, means over targets and seeds; and the margin
over the loss attack in TPR at 1 % FPR with a 95 % t interval over seeds (the mean over targets is one observation).
"""

import argparse
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy.stats import t as student
from sklearn.datasets import load_digits

from dpaudit.attacks.base import Observed
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.registry import make
from dpaudit.config import ModelSection
from dpaudit.federated import iot
from dpaudit.federated.twins import train_twins

ATTACKS = (
    "loss", "entropy", "modified-entropy", "confidence-margin", "calibrated-loss", "lira-offline",
    "lira", "rmia-offline", "rmia",
)  # fmt: skip
TARGETS = 8


def digits(_seed):
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int32), 10


def windows(seed):
    x, y, _, classes = iot.generate(devices=60, windows_per_device=30, heterogeneity=1.0, root=seed)
    return x.reshape(len(x), -1).astype(np.float32), y.astype(np.int32), classes


def tpr_at(scores, member, fpr=0.01):
    others = np.sort(scores[~member])
    return float(np.mean(scores[member] > others[len(others) - 1 - int(fpr * len(others))]))


def one_seed(source, seed, models):
    x, y, classes = source(seed)
    rng = np.random.default_rng(seed)
    inside = np.argsort(rng.random((models, len(y))), axis=0) < models // 2
    twins = train_twins(ModelSection(hidden=(64,)), x, y, inside, classes=classes, root=seed, epochs=60)
    logits = twins.logits(x)
    fit = [float((logits.argmax(axis=2) == y)[chosen].mean()) for chosen in (inside, ~inside)]
    found = {name: [] for name in ATTACKS}
    for target in range(TARGETS):
        rest = np.arange(models) != target
        seen = Observed(logits=logits[target], labels=y, reference_logits=logits[rest], reference_in=inside[rest])
        for name in ATTACKS:
            scores = make(name).score(seen)
            found[name].append((auc(scores, inside[target]), tpr_at(scores, inside[target])))
    return {name: np.mean(values, axis=0) for name, values in found.items()}, fit


def margin(values):
    """Return mean and 95 % t interval over seeds."""
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    reach = float(student.ppf(0.975, len(values) - 1)) * spread
    return mean, mean - reach, mean + reach


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", type=int, default=65)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = {}
    for name, source in (("digits", digits), ("iot", windows)):
        start = time.process_time()
        runs = [one_seed(source, seed, options.models) for seed in range(options.seeds)]
        table = {}
        for attack in ATTACKS:
            values = np.array([found[attack] for found, _ in runs])
            gap = margin([found[attack][1] - found["loss"][1] for found, _ in runs])
            table[attack] = {"auc": values[:, 0].mean(), "tpr_at_1": values[:, 1].mean(), "margin_over_loss": gap}
        fit = np.mean([fit for _, fit in runs], axis=0)
        document[name] = {"attacks": table, "train_accuracy": fit[0], "test_accuracy": fit[1]}
        document[name]["cpu_s"] = time.process_time() - start
    print(json.dumps(document) if options.json else markdown(document))


def markdown(document):
    lines = []
    for name, result in document.items():
        lines.append(
            f"\n{name}: accuracy {result['train_accuracy']:.1%} on members, {result['test_accuracy']:.1%} on others, "
            f"{result['cpu_s']:.0f} CPU s\n\n| attack | AUC | TPR at 1 % FPR | margin over loss, 95 % interval |\n"
            "| --- | --- | --- | --- |"
        )
        for attack, row in sorted(result["attacks"].items(), key=lambda item: item[1]["tpr_at_1"]):
            mean, low, high = row["margin_over_loss"]
            text = "" if attack == "loss" else f"{mean:+.2%} [{low:+.2%}, {high:+.2%}]"
            lines.append(f"| {attack} | {row['auc']:.4f} | {row['tpr_at_1']:.2%} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
