"""The example of local DP-SGD in silos ends PASS, spends what it claims, and learns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("silos") / "out"
    command = [sys.executable, "-m", "dpaudit", "run", "examples/silos_local_dp.toml", "--out", str(folder), "--quiet"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return folder


def test_the_run_passes_and_nothing_is_skipped_silently(out):
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["status"] == "pass"
    said = {f["rule"]: f["message"] for f in verdict["findings"]}
    for check in ("noise.reuse", "noise.clients", "noise.overlap", "noise.model", "noise.model-sum", "clip."):
        assert check in said["DPA007"]
    for check in (
        "sampling.example-repeats",
        "sampling.cohort",
        "ledger.draws",
        "step.sensitivity",
        "step.denominator",
    ):
        assert check in said["DPA102"]
    assert "half-noise" in said["DPA105"]


def test_what_was_spent_and_what_was_learnt(out):
    accounting, bounds, training = (
        json.loads((out / "evidence" / f"{name}.json").read_text()) for name in ("accounting", "bounds", "training")
    )
    assert accounting["epsilon_pld"] <= 8.0 <= accounting["epsilon_rdp"]
    found = {bound["method"]: bound["epsilon"] for bound in bounds}
    assert 6.0 < found["per-step"] <= accounting["epsilon_pld"]
    assert training["holdout_accuracy"] > 0.8
    assert (training["local_steps"], training["sampler"]) == (10, "PoissonSampled")
    assert "Local steps of a client in a round" in (out / "report.html").read_text()
