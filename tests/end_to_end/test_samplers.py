"""Every sampler and DP-FTRL through the whole pipeline: train, account, audit, step test, gate."""

import importlib.util
import subprocess
import sys

import pytest

CONFIG = """
policy = "demonstration"
[run]
name = "{name}"
seed = 20260102
[claim]
epsilon = 8.0
delta = 1e-5
unit = "client"
[data]
source = "iot"
[data.iot]
devices = 800
windows_per_device = 20
[partition]
kind = "by-client"
[model]
hidden = [16]
[training]
rounds = 40
client_sampling_rate = 0.125
clip_norm = 0.5
local_batch_size = 10
local_learning_rate = 0.2
{training}
[canaries]
count = 1000
[audit]
attacks = ["loss"]
reference_models = 0
{more}
"""
RUNS = {
    "without-replacement": 'algorithm = "dp-fedavg"\nsampler = "without-replacement"',
    "shuffle": 'algorithm = "dp-fedavg"\nsampler = "shuffle"',
    "dp-ftrl": 'algorithm = "dp-ftrl"\nserver_momentum = 0.5',
    "tfp-tree": 'algorithm = "dp-ftrl"\nserver_momentum = 0.5\naggregator = "tfp-tree"',
}


def run(tmp_path, name, more=""):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(name=name, training=RUNS[name], more=more))
    command = [sys.executable, "-m", "dpaudit", "run", str(path), "--out", str(tmp_path / "out"), "--quiet"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNS))
def test_an_honest_run_passes(tmp_path, name):
    if name == "tfp-tree" and importlib.util.find_spec("tensorflow_privacy") is None:
        pytest.skip("needs tensorflow-privacy")
    done = run(tmp_path, name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_half_the_noise_on_the_nodes_of_a_tree_is_caught(tmp_path):
    done = run(tmp_path, "dp-ftrl", "[demonstration]\nnoise_factor = 0.5")
    assert done.returncode == 1, done.stdout + done.stderr
    for rule in ("DPA007", "DPA101", "DPA102"):
        assert any("FAIL" in line and rule in line for line in done.stdout.splitlines()), rule
