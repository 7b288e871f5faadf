"""Numbers of public tools and of independent implementations (tests/known_answers/lower_bounds.json)."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri

from dpaudit.estimation import estimate, exact_auc, fdp, steinke
from dpaudit.estimation.curves import gaussian_family
from dpaudit.estimation.multi_run import epsilon_from_rates, mu_from_rates, rate_limits
from dpaudit.gdp import gdp_epsilon
from dpaudit.records import ScoreSet

KNOWN = json.loads((Path(__file__).parents[1] / "known_answers" / "lower_bounds.json").read_text())
CASES = KNOWN["cases"]
TOOLS = {case["id"]: case for case in KNOWN["from_tools"]}


def named(prefix):
    return [
        pytest.param(case["inputs"], case["outputs"], id=str(case["inputs"]))
        for case in CASES
        if case["name"].startswith(prefix)
    ]


def game(inputs):
    return {"canaries": inputs["m"], "guesses": inputs["r"], "correct": inputs["v"]}


@pytest.mark.parametrize(("inputs", "outputs"), named("steinke p-value"))
def test_steinke_p_value(inputs, outputs):
    found = steinke.p_value(**game(inputs), epsilon=inputs["eps"], delta=inputs["delta"])
    for value in outputs.values():
        assert found == pytest.approx(value, rel=1e-9)


def test_steinke_p_value_of_two_tools():
    case = TOOLS["one_run_p_value"]
    found = steinke.p_value(**game(case["inputs"]), epsilon=case["inputs"]["eps"], delta=case["inputs"]["delta"])
    for value in case["outputs"].values():
        assert found == pytest.approx(value, rel=case["rtol"])


def test_steinke_paper():
    (case,) = [case for case in CASES if case["name"].startswith("steinke_eps")]
    found = steinke.epsilon_lower_bound(**game(case["inputs"]), delta=case["inputs"]["delta"])
    assert found == pytest.approx(case["outputs"]["paper"], abs=5e-4)
    assert found == pytest.approx(case["outputs"]["jax_privacy"], abs=1e-6)


def test_steinke_pure():
    case = TOOLS["one_run_eps_pure"]
    found = steinke.epsilon_lower_bound(**game(case["inputs"]), delta=0.0)
    for value in case["outputs"].values():
        assert found == pytest.approx(value, rel=case["rtol"])


@pytest.mark.parametrize(("inputs", "outputs"), named("one-run lower bound"))
def test_one_run_bounds(inputs, outputs):
    arguments = game(inputs)
    found = steinke.epsilon_lower_bound(**arguments, delta=inputs["delta"])
    assert found == pytest.approx(outputs["steinke_independent_implementation"], abs=1e-6)
    assert found == pytest.approx(outputs["steinke_jax_privacy"], abs=1e-6)
    mu = fdp.largest_refuted_parameter(gaussian_family(), **arguments)
    assert mu == pytest.approx(outputs["mahloujifar_gdp_mu_independent_implementation"], abs=1e-6)
    epsilon = gdp_epsilon(mu, inputs["delta"])
    assert epsilon == pytest.approx(outputs["mahloujifar_gdp_independent_implementation"], abs=1e-5)
    if outputs["mahloujifar_gdp_jax_privacy"] is not None:
        assert epsilon == pytest.approx(outputs["mahloujifar_gdp_jax_privacy"], abs=1e-5)


def test_one_run_fdp_of_two_tools():
    case = TOOLS["one_run_fdp_eps"]
    mu = fdp.largest_refuted_parameter(gaussian_family(), **game(case["inputs"]))
    exact, grid = case["outputs"].values()
    assert gdp_epsilon(mu, 1e-5) == pytest.approx(exact, rel=1e-6)
    assert gdp_epsilon(mu, 1e-5) == pytest.approx(grid, rel=case["rtol"])


@pytest.mark.parametrize(("delta", "expected"), [(1e-5, 2.787), (1e-4, 2.746)])
def test_eps_delta_curve(delta, expected):
    """Section 0, finding 3 of the research notes."""
    assert fdp.epsilon_lower_bound(canaries=10**5, guesses=1500, correct=1429, delta=delta) == pytest.approx(
        expected, abs=1e-3
    )


@pytest.mark.parametrize(("inputs", "outputs"), named("multi-run from confusion"))
def test_multi_run(inputs, outputs):
    fpr, fnr = rate_limits(
        false_positives=inputs["fp"],
        non_members=inputs["fp"] + inputs["tn"],
        false_negatives=inputs["fn"],
        members=inputs["fn"] + inputs["tp"],
        error=inputs["alpha"],
    )
    for key in ("cp_independent_implementation", "cp_microsoft"):
        assert epsilon_from_rates(fpr, fnr, inputs["delta"]) == pytest.approx(outputs[key], rel=1e-9)
    wanted = max(0.0, outputs["gdp_mu_jaxprivacy_ci"])  # negative mu is no evidence
    assert mu_from_rates(fpr, fnr) == pytest.approx(wanted, rel=1e-9)
    if wanted:
        found = gdp_epsilon(mu_from_rates(fpr, fnr), inputs["delta"])
        assert found == pytest.approx(outputs["gdp_eps_independent_implementation"], rel=1e-7)


def test_adversarial_count_gives_no_assumption_free_bound():
    (case,) = [case for case in CASES if case["name"].startswith("adversarial")]
    arguments = game(case["inputs"])
    assert steinke.epsilon_lower_bound(**arguments, delta=1e-5) == 0.0
    assert fdp.epsilon_lower_bound(**arguments, delta=1e-5) == 0.0
    mu = fdp.largest_refuted_parameter(gaussian_family(), **arguments)
    assert gdp_epsilon(mu, 1e-5) == pytest.approx(case["outputs"]["mahloujifar_gdp"], abs=1e-4)


def test_null_scores_give_zero():
    rng = np.random.default_rng(7)
    member, other = rng.normal(size=500), rng.normal(size=500)
    for method in ("one-run", "one-run-fdp", "one-run-max", "clopper-pearson", "gdp", "mean-shift"):
        assert estimate(member, other, method=method, delta=1e-5).epsilon == 0.0
    assert exact_auc(ScoreSet(member=member, non_member=other)) == pytest.approx(
        TOOLS["null_scores"]["outputs"]["sklearn roc_auc_score"], abs=1e-9
    )


@pytest.mark.parametrize(("shift", "truth"), [(1, 4.887), (2, 10.997), (4, 26.36)])
def test_scores_of_the_unit_test_of_jax_privacy(shift, truth):
    """Deterministic normal quantiles: at least 2 (Steinke) and 1.3 (f-DP) times their bounds, and below the truth."""
    outputs = TOOLS["jax_own_known_answers"]["outputs"]
    levels = (np.arange(10_000) + 0.5) / 10_000
    member, other = ndtri(levels) + shift, ndtri(levels)
    theirs = {key.split()[4].split("(")[0]: value for key, value in outputs.items() if f"shift={shift} " in key}
    interest = None if shift == 1 else truth  # for shift 1 the default rule is enough
    one = estimate(member, other, method="one-run", delta=1e-6, interest_epsilon=interest).epsilon
    fdp_bound = estimate(
        member, other, method="one-run-fdp", curve="gaussian", delta=1e-6, interest_epsilon=interest
    ).epsilon
    pearson = estimate(member, other, method="clopper-pearson", delta=1e-6, interest_epsilon=interest).epsilon
    assert theirs["epsilon_one_run"] * (2 if shift < 4 else 1.7) <= one <= truth
    assert theirs["epsilon_one_run_fdp"] * 1.3 <= fdp_bound <= truth
    assert theirs["epsilon_clopper_pearson"] <= pearson <= truth
