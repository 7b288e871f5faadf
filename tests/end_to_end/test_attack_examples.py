"""The examples of attacks on models of other frameworks run as their README says, each in a process of its own."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "attacks"
FILES = ["--members", "members.npz", "--non-members", "non_members.npz"]


def run(folder, *words, code=0):
    paths = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def attack(folder, *words):
    document = json.loads(run(folder, "-m", "dpaudit", "attack", *words, "--json"))
    return {r["attack"]: r for r in document["attacks"]}, {c["id"]: c["status"] for c in document["checks"]}


def test_scikit_learn(tmp_path):
    run(tmp_path, EXAMPLES / "scikit_learn.py")
    results, checks = attack(tmp_path, "scikit_learn:probabilities", *FILES, "--no-control")
    assert results["loss"]["auc_ci"][0] > 0.7
    assert checks["attack.comparable"] == "pass"


def test_arrays(tmp_path):
    run(tmp_path, EXAMPLES / "arrays.py")
    results, _ = attack(tmp_path, "outputs.npz")
    assert results["lira"]["auc_ci"][0] > 0.51
    assert results["lira"]["auc"] > results["loss"]["auc"] + 0.03


@pytest.mark.slow
def test_plain_keras(tmp_path):
    run(tmp_path, EXAMPLES / "plain_keras.py")
    names = [word for name in ("loss", "lira", "rmia", "gradient-norm") for word in ("--attack", name)]
    results, checks = attack(tmp_path, "model.keras", *FILES, *names, "--shadow-models", "16")
    assert checks["attack.alive"] == "pass"
    assert results["lira"]["auc_ci"][0] > 0.5
    assert len(results) == 4


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorflow_privacy") is None, reason="tensorflow-privacy is not installed")
def test_tensorflow_privacy(tmp_path):
    run(tmp_path, EXAMPLES / "tf_privacy.py")
    results, checks = attack(tmp_path, "saved_model", *FILES, "--claim-epsilon", "3", "--delta", "1e-5")
    assert checks == {"attack.comparable": "pass", "attack.alive": "pass", "attack.worst_group": "pass"}
    assert results["loss"]["auc_ci"][0] < 0.55 < results["loss"]["auc_ceiling"]


@pytest.mark.slow
def test_federation(tmp_path):
    plain, noised = json.loads(run(tmp_path, EXAMPLES / "federation.py"))
    part = "which example took part in a round, AUC"
    assert plain[part] > 0.75 > noised[part] + 0.1
    assert plain["whose it is, accuracy"] > noised["whose it is, accuracy"] + 0.2
    image, public = "one image read off the first layer, mean squared error", "nearest public image, mean squared error"
    assert plain[image] < 1e-6
    assert plain["the same from the sum of all clients"] > plain[public]
    assert noised[image] > noised[public]
