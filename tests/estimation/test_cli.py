import json

import numpy as np
import pytest

from dpaudit import estimation
from dpaudit.cli.estimate import METHODS
from dpaudit.cli.main import run
from dpaudit.estimation import estimate, reference

KEYS = {
    "method", "family", "epsilon", "mu", "delta", "confidence", "direction", "n_member", "n_non_member", "relation",
    "status", "reason", "assumptions",
}  # fmt: skip


@pytest.fixture(scope="module")
def scores():
    return reference.gaussian(2.0).draw(1000, np.random.default_rng(0))


@pytest.fixture
def file(tmp_path, scores):
    np.savez(tmp_path / "s.npz", member=scores.member, non_member=scores.non_member)
    return str(tmp_path / "s.npz")


def document(capsys, *arguments, code=0):
    assert run(["estimate", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_command_knows_every_method():
    assert set(METHODS) == set(estimation.METHODS)


def test_scores(capsys, file, scores):
    found = document(capsys, file, "--method", "one-run", "--method", "mean-shift", "--delta", "1e-5")
    assert found["schema"] == "dpaudit.estimate/v1"
    assert [b["method"] for b in found["bounds"]] == ["one-run", "mean-shift"]
    for bound in found["bounds"]:
        assert set(bound) >= KEYS
        assert bound["direction"] == "lower"
        expected = estimate(scores.member, scores.non_member, method=bound["method"], delta=1e-5)
        assert bound["epsilon"] == expected.epsilon


def test_options_reach_the_estimator(capsys, file, scores):
    arguments = ["--confidence", "0.9", "--group-size", "2", "--seed", "3", "--relation", "replace-one"]
    arguments += ["--curve", "gaussian", "--delta", "1e-6", "--guesses", "120"]
    (bound,) = document(
        capsys,
        file,
        "--method",
        "one-run-fdp",
        "--curve",
        "gaussian",
        "--delta",
        "1e-6",
        "--guesses",
        "120",
        *arguments,
    )["bounds"]
    options = {"curve": "gaussian", "delta": 1e-6, "guesses": 120, "confidence": 0.9, "group_size": 2, "seed": 3}
    expected = estimate(scores.member, scores.non_member, method="one-run-fdp", **options)
    assert bound["epsilon"] == expected.epsilon
    assert (bound["relation"], bound["group_size"], bound["guesses"]) == ("replace-one", 2, 120)
    (bound,) = document(capsys, file, "--method", "gdp", "--delta", "1e-5", "--declare", "independent-runs")["bounds"]
    assert bound["family"] == "gaussian"
    (bound,) = document(capsys, file, "--delta", "1e-5", "--threshold-selection", "bonferroni:4")["bounds"]
    assert (bound["method"], bound["threshold_selection"]) == ("one-run-max", "bonferroni:4")


def test_game(capsys):
    counts = ["--canaries", "1000", "--guesses", "100", "--correct", "75", "--delta", "1e-4"]
    (bound,) = document(capsys, *counts, "--method", "one-run")["bounds"]
    assert bound["epsilon"] == pytest.approx(0.67298, abs=1e-5)
    (bound,) = document(capsys, *counts, "--method", "one-run-fdp", "--curve", "gaussian")["bounds"]
    assert bound["epsilon"] == pytest.approx(0.84172, abs=1e-5)
    assert bound["mu"] == pytest.approx(0.26949, abs=1e-5)


def test_confusion(capsys):
    counts = ["--tp", "50", "--fn", "0", "--fp", "0", "--tn", "50", "--delta", "1e-5"]
    found = document(capsys, *counts, "--method", "clopper-pearson", "--method", "gdp", "--method", "bayes")
    assert [b["epsilon"] for b in found["bounds"]] == pytest.approx([2.569574, 16.209813, 4.194055], abs=1e-5)
    assert [b["family"] for b in found["bounds"]] == ["assumption-free", "gaussian", "credible"]


def test_pld_curve(capsys):
    game = ["--canaries", "1000", "--guesses", "200", "--correct", "180", "--delta", "1e-5", "--method", "one-run-fdp"]
    sampler = ["--curve", "pld", "--sampling-rate", "0.1", "--steps", "100"]
    (bound,) = document(capsys, *game, *sampler)["bounds"]
    (gaussian,) = document(capsys, *game, "--curve", "gaussian")["bounds"]
    assert gaussian["epsilon"] < bound["epsilon"] < 1.15 * gaussian["epsilon"]  # sub-sampling is no Gaussian
    assert bound["family"] == "gaussian"
    assert any("sampling rate 0.1, 100 steps" in a["text"] for a in bound["assumptions"])
    (whole,) = document(capsys, *game, "--curve", "pld", "--sampling-rate", "1", "--steps", "1")["bounds"]
    assert whole["epsilon"] == pytest.approx(gaussian["epsilon"], rel=2e-3)
    assert whole["epsilon"] <= gaussian["epsilon"]


def test_releases_share_the_error(capsys, file):
    (first,) = document(capsys, file, "--delta", "1e-5", "--release", "1")["bounds"]
    (third,) = document(capsys, file, "--delta", "1e-5", "--release", "3")["bounds"]
    assert 1 - first["confidence"] == pytest.approx(0.05 * 6 / np.pi**2)
    assert 1 - third["confidence"] == pytest.approx(0.05 * 6 / np.pi**2 / 9)
    assert third["epsilon"] < first["epsilon"]


def test_no_bound_is_inconclusive(capsys, tmp_path):
    np.savez(tmp_path / "s.npz", member=np.zeros(0), non_member=np.arange(9.0))
    (bound,) = document(capsys, str(tmp_path / "s.npz"), "--delta", "1e-5", code=3)["bounds"]
    assert bound["epsilon"] is None
    assert bound["reason"]
    assert bound["status"] == "unavailable"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--delta", "1e-5"],
        ["--delta", "1e-5", "--tp", "1"],
        ["--delta", "1e-5", "--tp", "1", "--fn", "1", "--fp", "1", "--tn", "1", "--canaries", "5"],
        ["--delta", "1e-5", "--canaries", "5", "--correct", "2"],
        ["--delta", "1e-5", "--canaries", "5", "--correct", "9", "--guesses", "5"],
        ["--delta", "1e-5", "--canaries", "5", "--correct", "2", "--guesses", "5", "--method", "gdp"],
        ["--delta", "1e-5", "--tp", "-1", "--fn", "1", "--fp", "1", "--tn", "1"],
        ["--delta", "2", "--tp", "1", "--fn", "1", "--fp", "1", "--tn", "1"],
        ["none.npz", "--delta", "1e-5"],
        ["--canaries", "5", "--correct", "2", "--guesses", "5", "--delta", "1e-5", "--curve", "pld"],
        ["--canaries", "5", "--correct", "2", "--guesses", "5", "--delta", "1e-5", "--steps", "3"],
        ["--canaries", "5", "--correct", "2", "--guesses", "5", "--delta", "1e-5", "--curve", "gaussian"],
        ["--canaries", "5", "--correct", "2", "--guesses", "5", "--delta", "1e-5", "--dimension", "10"],
        ["--canaries", "5", "--correct", "2", "--guesses", "5", "--delta", "1e-5", "--release", "0"],
        ["scores.xyz", "--delta", "1e-5"],
        ["--canaries", "5", "--correct", "2", "--guesses", "5"],
    ],
)
def test_usage_errors_exit_2_with_one_document(capsys, arguments):
    assert run(["estimate", *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_text_names_family_and_assumptions(capsys, file, scores):
    assert run(["estimate", file, "--delta", "1e-5", "--method", "one-run", "--method", "bayes"]) == 0
    out = capsys.readouterr().out
    assert "assumption-free" in out
    assert "credible, not confidence" in out
    assert "fair-coins" in out
    guesses = estimate(scores.member, scores.non_member, method="one-run", delta=1e-5).guesses
    assert f"chosen beforehand by planned:4, {guesses} guesses" in out
    assert "largest of several" in out


def test_estimate_needs_no_heavy_import(file):
    import subprocess
    import sys

    code = (
        "import sys; from dpaudit.cli.main import run; "
        f"assert run(['estimate', {file!r}, '--delta', '1e-5']) == 0; "
        "heavy = ('tensorflow', 'matplotlib', 'dp_accounting', 'scipy.stats', 'pyarrow'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_plan(capsys):
    arguments = ["--claim-epsilon", "1", "--delta", "1e-5", "--factor", "6", "--trials", "40", "--json"]
    assert run(["plan", *arguments, "--method", "mean-shift"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "dpaudit.plan/v1"
    assert found["canaries"] > 0
    assert found["power"] >= 0.8
    assert found["largest_certifiable_epsilon"] is None
    assert found["largest_certifiable_reason"]
    assert run(["plan", *arguments, "--method", "one-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_certifiable_epsilon"] > 1
    assert found["guesses"] <= found["canaries"]


def test_plan_of_the_per_step_audit(capsys):
    arguments = ["--claim-epsilon", "4", "--delta", "1e-5", "--factor", "1.5", "--trials", "50", "--json"]
    sampler = ["--sampling-rate", "0.1", "--steps", "100"]
    assert run(["plan", *arguments, "--method", "per-step", *sampler]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 2 <= found["canaries"] <= 20
    assert found["steps"] == 100
    assert found["threshold_selection"] is None
    assert run(["plan", *arguments, "--method", "per-step"]) == 2
    assert run(["plan", *arguments, "--method", "per-step", *sampler, "--group-size", "2"]) == 2
    assert run(["plan", *arguments, "--method", "one-run", *sampler]) == 2
    capsys.readouterr()
    both = [*arguments[:-1], "--method", "per-step", "--method", "gdp", *sampler]
    assert run(["plan", *both]) == 0
    out = capsys.readouterr().out
    assert "per-step: " in out
    assert "models refute epsilon 4" in out
    assert "threshold by --threshold-selection planned:6" in out
    assert run(["plan", *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [plan["method"] for plan in found["plans"]] == ["per-step", "gdp"]
    assert found["canaries"] == found["plans"][0]["canaries"]


def test_plan_out_of_reach_is_inconclusive(capsys):
    arguments = [
        "--claim-epsilon",
        "8",
        "--delta",
        "1e-5",
        "--trials",
        "10",
        "--max-canaries",
        "200",
        "--method",
        "one-run",
    ]
    assert run(["plan", *arguments]) == 3
    assert "not reached" in capsys.readouterr().out
    assert run(["plan", "--claim-epsilon", "-1", "--delta", "1e-5"]) == 2
