"""Bayesian, independent canaries, mean shift, one shot, per step, shared coordinates: known answers and oracles."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dpaudit.errors import UsageError
from dpaudit.estimation import estimate, estimate_confusion, estimate_game, per_step_bound, reference, steinke
from dpaudit.estimation.independent_canaries import mu_lower_bound, tail_probability
from dpaudit.estimation.mean_shift import noncentrality_lower_bound
from dpaudit.estimation.one_shot import gaussian_pair_epsilon, published_lower_estimate
from dpaudit.estimation.shared_coordinates import play_shared_coordinates
from dpaudit.gdp import gdp_epsilon, gdp_mu
from dpaudit.records import BoundStatus

KNOWN = json.loads((Path(__file__).parents[1] / "known_answers" / "lower_bounds.json").read_text())
CASES = KNOWN["cases"]


def named(prefix):
    return [(case["inputs"], case["outputs"]) for case in CASES if case["name"].startswith(prefix)]


@pytest.mark.parametrize(("inputs", "outputs"), named("multi-run from confusion"))
def test_bayes(inputs, outputs):
    counts = {key: inputs[key] for key in ("tp", "fp", "tn", "fn")}
    found = estimate_confusion(**counts, method="bayes", delta=inputs["delta"])
    assert found.epsilon == pytest.approx(outputs["zb_independent_implementation"], abs=1e-4)
    if outputs["zb_microsoft"] is not None:  # root tolerance 1e-2 there
        assert found.epsilon == pytest.approx(outputs["zb_microsoft"], abs=1e-2)


def test_bayes_of_privacy_estimates():
    (case,) = [c for c in KNOWN["from_tools"] if c["id"] == "bayesian_joint_beta"]
    counts = {key.lower(): case["inputs"][key] for key in ("TP", "FP", "TN", "FN")}
    value = case["outputs"]["privacy-estimates 0.1.0.post1 compute_eps_lo(...,method=joint-beta)"]
    assert estimate_confusion(**counts, method="bayes", delta=1e-5).epsilon == pytest.approx(value, rel=case["rtol"])


def test_bayes_against_simulation_of_the_posterior():
    rng, n = np.random.default_rng(0), 400_000
    fnr, fpr = rng.beta(30.5, 70.5, n), rng.beta(5.5, 95.5, n)
    found = estimate_confusion(tp=70, fn=30, fp=5, tn=95, method="bayes", delta=1e-3).epsilon
    inside = (np.exp(found) * fpr + fnr >= 1 - 1e-3) & (fpr + np.exp(found) * fnr >= 1 - 1e-3)
    assert np.mean(inside) == pytest.approx(0.05, abs=6 * np.sqrt(0.05 / n))


@pytest.mark.parametrize(("inputs", "outputs"), named("xiang"))
def test_independent_canaries(inputs, outputs):
    game = {"canaries": inputs["n"], "guesses": inputs["r"], "correct": inputs["r"] - inputs["errors"]}
    epsilon = gdp_epsilon(mu_lower_bound(**game), 1e-5)
    assert epsilon == pytest.approx(outputs["author_repo_RESULTS_txt"], abs=4e-4)  # a grid there
    assert epsilon == pytest.approx(outputs["independent_implementation"], abs=5e-4)


@pytest.mark.parametrize(("inputs", "outputs"), named("one-run lower bound"))
def test_independent_canaries_of_games(inputs, outputs):
    found = estimate_game(
        canaries=inputs["m"],
        guesses=inputs["r"],
        correct=inputs["v"],
        method="independent-canaries",
        delta=inputs["delta"],
    )
    assert found.epsilon == pytest.approx(outputs["xiang_gdp_independent_implementation"], abs=5e-4)


@pytest.mark.statistical(failure_probability=1e-6)
def test_tail_probability_of_independent_channels():
    rng, n, r, mu, trials = np.random.default_rng(1), 60, 25, 1.5, 20_000
    bits = rng.random((trials, n)) < 0.5
    x = np.where(bits, mu / 2, -mu / 2) + rng.normal(size=(trials, n))
    order = np.argsort(-np.abs(x), axis=1)[:, :r]
    wrong = np.take_along_axis((x > 0) != bits, order, 1).sum(1)
    for errors in (0, 2, 4):
        expected = tail_probability(canaries=n, guesses=r, errors=errors, mu=mu)
        assert np.mean(wrong <= errors) == pytest.approx(
            expected, abs=5.5 * np.sqrt(expected * (1 - expected) / trials)
        )


@pytest.mark.parametrize(("t", "freedom"), [(3.0, 2), (5.0, 50), (2.0, 98), (30.0, 998), (4.0, 5)])
def test_noncentral_t_against_scipy(t, freedom):
    found = noncentrality_lower_bound(t, freedom, 0.05)
    assert stats.nct.sf(t, freedom, found) == pytest.approx(0.05, abs=1e-7)


def test_noncentral_t_of_a_million_scores():
    """For many degrees of freedom T is N(nc, 1 + nc^2 / (2 df))."""
    found = noncentrality_lower_bound(500.0, 10**6, 0.05)
    assert (500 - found) / np.sqrt(1 + found**2 / (2 * 10**6)) == pytest.approx(stats.norm.ppf(0.95), abs=2e-3)
    assert noncentrality_lower_bound(-3.0, 10, 0.05) == 0.0


@pytest.mark.parametrize(("inputs", "outputs"), named("eps of two Gaussians"))
def test_epsilon_of_two_gaussians(inputs, outputs):
    found = gaussian_pair_epsilon(*(inputs[key] for key in ("mu1", "std1", "mu2", "std2", "delta")))
    assert found == pytest.approx(outputs["google_one_shot_epe"], rel=1e-9)


def test_published_one_shot_estimate():
    ((inputs, outputs),) = named("Andrew eps_lo")
    cosines = np.random.default_rng(0).normal(0.02, 0.01, 200)
    assert published_lower_estimate(list(cosines), inputs["d"], inputs["delta"]) == pytest.approx(
        outputs["google"], rel=1e-9
    )


def test_one_shot_roads():
    rng, d = np.random.default_rng(2), 10_000
    included, excluded = rng.normal(0.02, 0.01, 300), rng.normal(0, 0.01, 300)
    known = estimate(included, [], method="one-shot", delta=1e-6, options={"dimension": d})
    both = estimate(included, excluded, method="one-shot", delta=1e-6)
    truth = gdp_epsilon(2.0, 1e-6)
    assert 0.85 * truth < known.epsilon < truth
    assert 0.8 * truth < both.epsilon < truth
    nothing = estimate(included, [], method="one-shot", delta=1e-6)
    assert nothing.epsilon is None
    assert "dimension" in nothing.reason
    skewed = 0.01 * (rng.exponential(size=300) + 1)
    refuted = estimate(skewed, [], method="one-shot", delta=1e-6, options={"dimension": d})
    assert "gaussian-scores" in refuted.reason
    wide = estimate(2 * included, [], method="one-shot", delta=1e-6, options={"dimension": d})
    assert wide.status is BoundStatus.ASSUMPTION_REFUTED
    assert "known-variance" in wide.reason


def test_gaussian_scores_are_checked():
    rng = np.random.default_rng(3)
    skewed = estimate(rng.exponential(size=500) + 1, rng.exponential(size=500), method="mean-shift", delta=1e-5)
    assert skewed.status is BoundStatus.ASSUMPTION_REFUTED
    assert "gaussian-scores" in skewed.reason
    assert skewed.epsilon is None
    assert skewed.details["epsilon_if_assumed"] > 0
    spread = estimate(rng.normal(1, 2, 500), rng.normal(0, 1, 500), method="mean-shift", delta=1e-5)
    assert "equal-variances" in spread.reason
    for method in ("independent-canaries", "gdp"):
        found = estimate(rng.normal(1, 2, 500), rng.normal(0, 1, 500), method=method, delta=1e-5)
        assert "equal-variances" in found.reason


def step_scores(rng, noise, n, signed=False):
    coins = rng.random(n) < 0.5
    values = np.where(coins, 1.0, -1.0 if signed else 0.0) + noise * rng.normal(size=n)
    return values[coins], values[~coins]


def test_per_step_is_sharper_with_signs():
    found = {"mean-shift": [], "mean-shift-centred": [], "mean-shift-signed": [], "gdp": []}
    rng = np.random.default_rng(4)
    for _ in range(40):
        for method, values in found.items():
            scores = step_scores(rng, 4.0, 4000, signed=method == "mean-shift-signed")
            bound = per_step_bound(
                *scores, compose=lambda z: 1 / z, delta=1e-5, method=method, claimed_noise_multiplier=4.0
            )
            values.append(bound.details.get("epsilon_if_assumed", bound.epsilon))
    means = {method: np.mean(values) for method, values in found.items()}
    assert means["gdp"] < means["mean-shift"] < means["mean-shift-centred"] < means["mean-shift-signed"] < 0.25


@pytest.mark.parametrize("method", ["mean-shift", "mean-shift-centred", "gdp"])
def test_per_step_copies_are_divided_out(method):
    """Three copies of the canary on one coin: the scores shift by 3, the bound is on one."""
    rng, noise = np.random.default_rng(8), 2.0
    coins = rng.random(4000) < 0.5
    scores = 3.0 * coins + noise * rng.normal(size=4000)
    options = {"compose": lambda z: 1 / z, "delta": 1e-5, "method": method, "claimed_noise_multiplier": noise}
    three = per_step_bound(scores[coins], scores[~coins], group_size=3, **options)
    assert 0.85 / noise < three.mu < 1 / noise
    assert three.epsilon == pytest.approx(three.mu)
    assert three.group_size == 3
    with pytest.raises(UsageError, match="group_size"):
        per_step_bound(scores[coins], scores[~coins], group_size=0, **options)


def test_per_step_details():
    scores = step_scores(np.random.default_rng(5), 1.0, 2000)
    calls = []

    def compose(noise):
        calls.append(noise)
        return 3.25

    bound = per_step_bound(*scores, compose=compose, delta=1e-5, declared=["iid-steps"])
    assert calls == [pytest.approx(1 / bound.mu)]
    assert bound.epsilon == 3.25
    assert bound.details["noise_multiplier_upper"] == pytest.approx(1 / bound.mu)
    assert {a.id: a.status for a in bound.assumptions}["iid-steps"] == "declared"
    nothing = per_step_bound(scores[1], scores[0], compose=compose, delta=1e-5)
    assert (nothing.epsilon, nothing.mu) == (0.0, 0.0)
    assert len(calls) == 1
    assert per_step_bound([], scores[1], compose=compose, delta=1e-5).epsilon is None
    off = per_step_bound(scores[0] + 5, scores[1] + 5, compose=compose, delta=1e-5, method="mean-shift-centred")
    assert off.status is BoundStatus.ASSUMPTION_REFUTED
    assert "centred-null" in off.reason
    with pytest.raises(UsageError, match="claimed_noise_multiplier"):
        per_step_bound(*scores, compose=compose, delta=1e-5, method="gdp")


@pytest.mark.slow
def test_per_step_reaches_90_percent_of_epsilon():
    """100 canaries, one coin per step and canary, composed by PLD: the sub-sampled settings of the research notes.

    At epsilon = 1 with q = 0.1 it takes the knowledge that scores without a canary are centred.
    """
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    def epsilon(noise, rate, steps):
        accountant = PLDAccountant(value_discretization_interval=1e-3)
        accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), steps)
        return accountant.get_epsilon(1e-5)

    rng = np.random.default_rng(0)
    settings = [
        (0.1, 100, 1.386, "mean-shift", 0.9),
        (0.1, 100, 0.936, "mean-shift", 0.9),
        (0.02, 500, 0.851, "mean-shift", 0.9),
        (0.02, 500, 0.655, "mean-shift", 0.9),
        (0.02, 500, 1.880, "mean-shift", 0.9),
        (0.1, 100, 3.942, "mean-shift-centred", 0.87),  # 0.90 over 100 audits
    ]
    for rate, steps, noise, method, share in settings:
        grid = noise * np.array([0.97, 1, 1.03, 1.07, 1.12, 1.2, 1.35])
        curve = np.log([epsilon(z, rate, steps) for z in grid])
        truth = np.exp(curve[1])
        found = [
            per_step_bound(
                *step_scores(rng, noise, 100 * steps),
                compose=lambda z, g=grid, c=curve: float(np.exp(np.interp(np.log(z), np.log(g), c))),
                delta=1e-5,
                method=method,
            ).epsilon
            for _ in range(25)
        ]
        values = [v for v in found if v is not None]
        assert len(values) >= 24
        assert share * truth <= np.mean(values) <= truth


def test_shared_coordinates_play_like_single_ones_when_alone():
    """One canary per coordinate: the surest sums are those furthest from one half."""
    rng = np.random.default_rng(6)
    coins = rng.random((200, 1)) < 0.5
    sums = coins[:, 0] + 0.7 * rng.normal(size=200)
    game = play_shared_coordinates(sums, coins, noise=0.7, guesses=50)
    order = np.argsort(-np.abs(sums - 0.5))[:50]
    assert game.correct == np.sum((sums[order] > 0.5) == coins[order, 0])
    assert (game.canaries, game.guesses) == (200, 50)


def test_revealed_coins_of_a_noiseless_sum_give_the_last_one_away():
    coins = np.array([[True, False], [True, False], [False, True]])
    assert play_shared_coordinates(coins.sum(1).astype(float), coins, noise=1e-3, guesses=6).correct >= 3


@pytest.mark.statistical(failure_probability=1e-6)
def test_shared_coordinates_keep_the_bound_and_help():
    """Gaussian sums of 1 and of 4 canaries at epsilon = 4: coverage of Steinke's bound with adaptive reveal."""
    rng, noise, trials = np.random.default_rng(7), 1 / gdp_mu(4.0, 1e-5), 300
    means = {}
    for shared in (1, 4):
        bounds = []
        for _ in range(trials):
            coins = rng.random((100, shared)) < 0.5
            game = play_shared_coordinates(coins.sum(1) + noise * rng.normal(size=100), coins, noise=noise, guesses=40)
            bounds.append(
                steinke.epsilon_lower_bound(canaries=game.canaries, guesses=40, correct=game.correct, delta=1e-5)
            )
        assert sum(b > 4.0 for b in bounds) <= stats.binom.isf(1e-6 / 2, trials, 0.05)
        means[shared] = np.mean(bounds)
    assert means[4] > means[1]


@pytest.mark.parametrize("guesses", [0, 9])
def test_impossible_numbers_of_guesses(guesses):
    with pytest.raises(UsageError, match="guesses"):
        play_shared_coordinates(np.zeros(4), np.zeros((4, 2), bool), noise=1.0, guesses=guesses)


def test_reference_mechanisms_have_the_epsilon_they_say():
    assert reference.laplace(1.0).epsilon(1e-9) == pytest.approx(1.0)
    assert reference.randomised_response(2.0).epsilon(0.0) == pytest.approx(2.0)
    assert reference.gaussian_of(3.0, 1e-5).epsilon(1e-5) == pytest.approx(3.0)
    assert reference.reveal(1.0, 1e-3, 100, 5).epsilon(1e-3) == 1.0
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(0.5)))
    assert reference.sampled_gaussian(0.5, 0.2).epsilon(1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    with pytest.raises(UsageError, match="probability"):
        reference.reveal(1.0, 0.5, 100, 5)
