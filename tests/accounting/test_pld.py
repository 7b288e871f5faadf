import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy import integrate, stats

from dpaudit import events as ev
from dpaudit.accounting import _cells, epsilon, pld_that_fits, to_dp_accounting
from dpaudit.accounting.pld import effective_gaussian, flattened, pld_of
from dpaudit.errors import Refusal, UnsupportedEvent
from dpaudit.records import Relation

ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE
EPSILONS = np.array([0.0, 0.02, 0.3, 1.0, 2.5])


def gaussian(z=1.0):
    return ev.Gaussian(noise_multiplier=z)


def dp_sgd(q, z, steps):
    return ev.SelfComposed(event=ev.PoissonSampled(sampling_rate=q, event=gaussian(z)), count=steps)


def library_epsilon(event, delta, relation, step=1e-4):
    accountant = PLDAccountant(dp.NeighboringRelation[relation.name], step)
    return accountant.compose(to_dp_accounting(event)).get_epsilon(delta)


CONFIGURATIONS = [(0.01, 1.0, 1000), (256 / 60000, 1.1, 14062), (0.1, 2.0, 200), (0.02, 0.6, 100), (0.5, 3.0, 20)]


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize(("q", "z", "steps"), CONFIGURATIONS)
def test_poisson_sampled_gaussian_agrees_with_dp_accounting_on_the_same_grid(q, z, steps, relation):
    ours = epsilon(dp_sgd(q, z, steps), 1e-5, relation=relation, discretization=1e-3)
    assert ours == pytest.approx(library_epsilon(dp_sgd(q, z, steps), 1e-5, relation, 1e-3), rel=1e-6)


def test_known_answers_of_dp_accounting(known_answers):
    for entry in known_answers("dp_accounting", "PLDAccountant().compose(...)"):
        p = entry["input"]
        event = dp_sgd(p["q"], p["z"], p["T"])
        assert epsilon(event, p["delta"]) == pytest.approx(entry["output"], rel=1e-6)


def test_replace_one_is_the_sensitivity_of_two_contributions(known_answers):
    (entry,) = known_answers("dp_accounting", "REPLACE_ONE).compose(Gaussian(1.0)).get_epsilon(1e-5)")
    assert epsilon(gaussian(), 1e-5, relation="replace-one") == pytest.approx(entry["output"], rel=1e-6)
    found = known_answers("dp_accounting", "REPLACE_ONE).compose(SelfComposed(Poisson(0.01,Gaussian(1.0)),1000))")
    assert epsilon(dp_sgd(0.01, 1.0, 1000), 1e-5, relation="replace-one") == pytest.approx(found[0]["output"], rel=1e-6)


def test_prv_accountants_interval_holds_ours(known_answers):
    for entry in known_answers("prv-accountant", "PoissonSubsampledGaussian"):
        p = entry["input"]
        low, _, high = entry["output"]
        assert low <= epsilon(dp_sgd(p["q"], p["z"], p["T"]), p["delta"]) <= high


def test_laplace_and_its_known_answers(known_answers):
    event = ev.SelfComposed(event=ev.Laplace(noise_multiplier=2.0), count=10)
    (entry,) = known_answers("dp_accounting", "Laplace(b)x10")
    assert epsilon(event, 1e-5) == pytest.approx(entry["output"][0], rel=1e-6)
    (entry,) = known_answers("dp_accounting", "from_laplace_mechanism(b)")
    profile = pld_of(ev.Laplace(noise_multiplier=0.9), relation=ADD).profiles()[0]
    exact = 1 - np.exp((np.array([0, 0.5, 1]) - 1 / 0.9) / 2)
    np.testing.assert_allclose(profile.delta(np.array([0, 0.5, 1])), exact, rtol=1e-7)
    np.testing.assert_allclose(exact, entry["output"], rtol=1e-4)


@pytest.mark.parametrize("rate", [1.0, 0.3, 0.01])
def test_sampled_laplace_agrees_with_dp_accounting(rate):
    sampled = ev.PoissonSampled(sampling_rate=rate, event=ev.Laplace(noise_multiplier=0.7))
    event = ev.SelfComposed(event=sampled, count=7)
    assert epsilon(event, 1e-6) == pytest.approx(library_epsilon(event, 1e-6, ADD), rel=1e-6)


def test_laplace_under_replace_one_has_half_the_noise():
    one = epsilon(ev.Laplace(noise_multiplier=2.0), 1e-6, relation="replace-one")
    assert one == pytest.approx(epsilon(ev.Laplace(noise_multiplier=1.0), 1e-6), rel=1e-12)


def test_truncated_poisson_known_answer():
    event = ev.TruncatedPoissonGaussian(
        dataset_size=50000, sampling_rate=0.01, max_batch_size=600, noise_multiplier=1.0
    )
    composed = ev.SelfComposed(event=event, count=1000)
    assert epsilon(composed, 1e-5) == pytest.approx(1.838018086, rel=1e-6)  # research/verification.md, section 4
    assert epsilon(composed, 1e-5) > epsilon(dp_sgd(0.01, 1.0, 1000), 1e-5), "cutting batches costs something"


@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_truncated_poisson_agrees_with_dp_accounting(relation):
    event = ev.TruncatedPoissonGaussian(dataset_size=2000, sampling_rate=0.05, max_batch_size=110, noise_multiplier=1.5)
    composed = ev.SelfComposed(event=event, count=50)
    ours = epsilon(composed, 1e-5, relation=relation, discretization=1e-3)
    assert ours == pytest.approx(library_epsilon(composed, 1e-5, relation, 1e-3), rel=1e-6)
    never_cut = ev.TruncatedPoissonGaussian(
        dataset_size=100, sampling_rate=0.05, max_batch_size=100, noise_multiplier=1.5
    )
    plain = ev.PoissonSampled(sampling_rate=0.05, event=gaussian(1.5))
    assert epsilon(never_cut, 1e-5, relation=relation) == pytest.approx(epsilon(plain, 1e-5, relation=relation))


def test_deltas_under_the_resolution_are_left_to_rdp():
    with pytest.raises(Refusal, match="resolve deltas down to about 1e-12"):
        epsilon(dp_sgd(0.01, 1.0, 1000), 1e-16)
    assert epsilon(dp_sgd(0.01, 1.0, 1000), 1e-16, "rdp") > epsilon(dp_sgd(0.01, 1.0, 1000), 1e-10)
    assert epsilon(gaussian(), 1e-30) == pytest.approx(11.744, abs=1e-3), "Gaussians are exact at any delta"


def test_mixture_of_gaussians_known_answer(known_answers):
    mixture = ev.MixtureOfGaussians(noise_multiplier=1.0, sensitivities=(0, 1, 2), probabilities=(0.9, 0.09, 0.01))
    (entry,) = known_answers("dp_accounting", "MixtureOfGaussians")
    assert epsilon(ev.SelfComposed(event=mixture, count=100), 1e-5) == pytest.approx(entry["output"], rel=1e-6)


def hockey_stick(upper, lower, eps, reach=40):
    value, _ = integrate.quad(
        lambda x: max(upper(x) - math.exp(eps) * lower(x), 0.0), -reach, reach, limit=2000, points=[0, 1], epsabs=1e-13
    )
    return value


@pytest.mark.parametrize(("q", "z"), [(0.1, 1.0), (0.5, 0.7), (0.01, 2.0)])
def test_one_step_agrees_with_numerical_integration_and_is_never_under_it(q, z):
    def without(x):
        return stats.norm.pdf(x, 0, z)

    def with_unit(x):
        return (1 - q) * without(x) + q * stats.norm.pdf(x, 1, z)

    remove, add = pld_of(ev.PoissonSampled(sampling_rate=q, event=gaussian(z)), relation=ADD).profiles()
    for eps in EPSILONS:
        for profile, pair in ((remove, (with_unit, without)), (add, (without, with_unit))):
            exact = hockey_stick(*pair, eps)
            found = float(profile.delta(np.array(eps)))
            assert found == pytest.approx(exact, rel=1e-5, abs=1e-9)
            assert found >= exact - 1e-9


def test_replacement_of_a_sampled_unit_agrees_with_numerical_integration():
    q, z = 0.2, 1.3

    def density(mean):
        return lambda x: (1 - q) * stats.norm.pdf(x, 0, z) + q * stats.norm.pdf(x, mean, z)

    (profile,) = pld_of(ev.PoissonSampled(sampling_rate=q, event=gaussian(z)), relation=REPLACE).profiles()
    for eps in EPSILONS:
        exact = hockey_stick(density(1), density(-1), eps)
        assert float(profile.delta(np.array(eps))) == pytest.approx(exact, rel=1e-5, abs=1e-9)


def losses_of_rounds(rng, q, z, p, steps, trials, *, member):
    """Draw the total loss of `steps` rounds with a public coin p, secret sampling q, noise z, both directions."""
    total = np.zeros(trials)
    for _ in range(steps):
        happens = rng.random(trials) < p
        present = (rng.random(trials) < q) & member
        x = present + z * rng.standard_normal(trials)
        total += np.where(happens, np.log1p(q * np.expm1((2 * x - 1) / (2 * z * z))), 0.0)
    return total if member else -total


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("member", [True, False])
def test_public_coin_composes_as_simulated(member):
    p, q, z, steps, trials = 0.3, 0.2, 1.0, 20, 400_000
    event = ev.PubliclySampled(sampling_rate=p, event=ev.PoissonSampled(sampling_rate=q, event=gaussian(z)))
    pld = pld_of(ev.SelfComposed(event=event, count=steps), relation=ADD)
    profile = pld.profiles()[0 if member else 1]
    losses = losses_of_rounds(np.random.default_rng(7), q, z, p, steps, trials, member=member)
    for eps in (0.0, 0.5, 1.5):
        gains = np.maximum(-np.expm1(eps - losses), 0.0)
        margin = 5.1 * gains.std() / math.sqrt(trials)  # 5.1 standard errors: 3.4e-7 per comparison
        assert abs(float(profile.delta(np.array(eps))) - gains.mean()) < margin


def test_public_coin_one_round_is_a_mixture():
    inner = ev.PoissonSampled(sampling_rate=0.2, event=gaussian())
    event = ev.PubliclySampled(sampling_rate=0.3, event=inner)
    mixed, plain = pld_of(event, relation=ADD), pld_of(inner, relation=ADD)
    for ours, alone in zip(mixed.profiles(), plain.profiles(), strict=True):
        np.testing.assert_allclose(ours.delta(EPSILONS), 0.3 * alone.delta(EPSILONS), rtol=1e-9)


def test_public_coin_agrees_with_a_mixture_of_dp_accounting():
    from dpaudit.accounting.witness import witness_epsilon

    inner = ev.PoissonSampled(sampling_rate=0.1, event=gaussian())
    event = ev.SelfComposed(event=ev.PubliclySampled(sampling_rate=0.3, event=inner), count=300)
    library = witness_epsilon(event, 1e-5, relation=ADD, step=1e-3)
    assert epsilon(event, 1e-5, discretization=1e-3) == pytest.approx(library, rel=1e-6)


def test_a_public_coin_never_amplifies_and_a_certain_one_changes_nothing():
    inner = ev.PoissonSampled(sampling_rate=0.1, event=gaussian())
    half = epsilon(ev.SelfComposed(event=ev.PubliclySampled(sampling_rate=0.5, event=inner), count=200), 1e-5)
    assert epsilon(dp_sgd(0.05, 1.0, 200), 1e-5) < half < epsilon(dp_sgd(0.1, 1.0, 200), 1e-5)
    always = ev.PubliclySampled(sampling_rate=1.0, event=inner)
    assert epsilon(always, 1e-5) == pytest.approx(epsilon(inner, 1e-5), rel=1e-12)
    assert epsilon(ev.PubliclySampled(sampling_rate=0.0, event=inner), 1e-5) == 0.0


def test_without_replacement_covers_the_pair_that_attains_it():
    # Replacing one of N units while all others equal the new one: ((1 - g) N(0) + g N(2), N(0)), in both directions.
    event = ev.SampledWithoutReplacement(population=10, sample_size=2, event=gaussian(1.5))
    (replaced,) = pld_of(event, relation=REPLACE).profiles()
    pair = _cells.gaussian(0.75, 0.2, 1e-4)
    for profile in pair.profiles():
        assert np.all(replaced.delta(EPSILONS) >= profile.delta(EPSILONS) * (1 - 1e-9))
    np.testing.assert_allclose(replaced.delta(EPSILONS), pair.remove.profile().delta(EPSILONS), rtol=1e-9)
    composed = ev.SelfComposed(event=event, count=30)
    attained = pair.mapped(lambda pmf: _cells_power(pmf, 30)).epsilon(1e-5)
    assert epsilon(composed, 1e-5, relation="replace-one") >= attained * (1 - 1e-9)
    assert epsilon(composed, 1e-5) == pytest.approx(attained, rel=1e-9)


def _cells_power(pmf, count):
    from dpaudit.accounting._powers import self_composed

    return self_composed(pmf, count)


def test_without_replacement_is_not_accounted_as_dp_accounting_does():
    event = ev.SampledWithoutReplacement(population=50000, sample_size=500, event=gaussian())
    ours = epsilon(ev.SelfComposed(event=event, count=1000), 1e-5, relation="replace-one")
    assert 10 < ours < 20.987  # dp-accounting 0.6 says 3.576 by RDP; with the right sensitivity its bound is 20.987


def test_shuffled_batches_get_no_amplification():
    one_pass = ev.ShuffledBatches(event=gaussian(1.1), batches=235)
    assert epsilon(ev.SelfComposed(event=one_pass, count=60), 1e-5) == pytest.approx(
        epsilon(gaussian(1.1 / math.sqrt(60)), 1e-5), rel=1e-4
    )


def test_black_boxes_compose_as_kairouz_oh_viswanath():
    eps, k = 0.3, 12
    event = ev.SelfComposed(event=ev.ApproximateDp(epsilon=eps), count=k)
    profile = pld_of(event, relation=ADD).profiles()[0]
    share = math.exp(eps) / (1 + math.exp(eps))
    for target in (0.6, 1.2, 3.0):
        exact = sum(
            stats.binom.pmf(i, k, share) * max(0.0, -math.expm1(target - (2 * i - k) * eps)) for i in range(k + 1)
        )
        found = float(profile.delta(np.array(target)))
        assert exact - 1e-12 <= found <= exact * 1.001 + 1e-12


def test_deltas_of_black_boxes_add_up():
    event = ev.SelfComposed(event=ev.ApproximateDp(epsilon=0.1, delta=1e-7), count=50)
    with pytest.raises(Refusal, match="infinite at delta"):
        epsilon(event, 4e-6)
    assert epsilon(event, 1e-5) > epsilon(ev.SelfComposed(event=ev.ApproximateDp(epsilon=0.1), count=50), 1e-5)


def test_sampling_amplifies_a_black_box():
    sampled = ev.PoissonSampled(sampling_rate=0.1, event=ev.ApproximateDp(epsilon=1.0, delta=1e-7))
    found = epsilon(sampled, 2e-8)  # of which the box's own catastrophe takes 0.1 * 1e-7
    exact = math.log1p(0.1 * math.expm1(1.0))
    assert exact * (1 - 1e-6) <= found <= exact + 1e-4


def test_tree_aggregation_with_restarts_is_one_gaussian():
    event = ev.TreeAggregation(noise_multiplier=5.0, steps=(1000, 1000, 7))
    assert epsilon(event, 1e-5) == pytest.approx(epsilon(gaussian(5 / math.sqrt(10 + 10 + 3)), 1e-5), rel=1e-12)
    assert epsilon(ev.TreeAggregation(noise_multiplier=5.0, steps=()), 1e-5) == 0.0


def test_gaussians_of_one_sample_join_before_sampling():
    # an update and a clipping bit of the same cohort: one Gaussian of joint sensitivity (arXiv:1905.03871)
    both = ev.Composed(events=(gaussian(1.2), gaussian(4.0)))
    sampled = ev.PoissonSampled(sampling_rate=0.05, event=both)
    joint = gaussian((1.2**-2 + 4.0**-2) ** -0.5)
    other = ev.PoissonSampled(sampling_rate=0.05, event=joint)
    together = epsilon(ev.SelfComposed(event=sampled, count=100), 1e-5)
    assert together == pytest.approx(epsilon(ev.SelfComposed(event=other, count=100), 1e-5), rel=1e-9)


def test_sampling_a_sample_multiplies_the_rates():
    twice = ev.PoissonSampled(sampling_rate=0.5, event=ev.PoissonSampled(sampling_rate=0.1, event=gaussian()))
    once = ev.PoissonSampled(sampling_rate=0.05, event=gaussian())
    assert epsilon(twice, 1e-5) == pytest.approx(epsilon(once, 1e-5), rel=1e-12)


def test_mixed_compositions_agree_with_dp_accounting():
    event = ev.Composed(
        events=(
            dp_sgd(0.01, 0.9, 300),
            gaussian(8.0),
            ev.SelfComposed(event=ev.Laplace(noise_multiplier=20.0), count=5),
            dp_sgd(0.02, 1.5, 100),
        )
    )
    assert epsilon(event, 1e-6) == pytest.approx(library_epsilon(event, 1e-6, ADD), rel=1e-6)


def test_order_and_grouping_do_not_matter():
    first, second = ev.PoissonSampled(sampling_rate=0.1, event=gaussian()), ev.Laplace(noise_multiplier=3.0)
    one = ev.Composed(events=(first, second, first))
    other = ev.Composed(events=(ev.SelfComposed(event=first, count=2), ev.Composed(events=(second, ev.NoOp()))))
    assert flattened(one) == flattened(other)
    assert epsilon(one, 1e-5) == epsilon(other, 1e-5)


@pytest.mark.parametrize("steps", [2500, 10_000, 1_000_000])
def test_many_steps_keep_their_digits_down_to_tiny_deltas(steps):
    from dpaudit.accounting._powers import self_composed
    from dpaudit.gdp import gdp_epsilon

    single = _cells.gaussian(math.sqrt(steps), 1.0, 1e-4).remove
    spread = float(single.probs @ single.losses**2 - (single.probs @ single.losses) ** 2)
    composed = self_composed(single, steps).profile()
    deltas = np.array([1e-3, 1e-5, 1e-7, 1e-9, 1e-10])
    exact = gdp_epsilon(math.sqrt(steps * spread), deltas)  # the grid's own variance is part of the bound
    np.testing.assert_allclose(composed.epsilon(deltas), exact, rtol=2e-5)


def test_mass_is_kept_by_every_construction():
    for pld in (
        _cells.gaussian(0.8, 0.01, 1e-4),
        _cells.gaussian_replaced(0.8, 0.01, 1e-4),
        _cells.laplace(0.5, 0.2, 1e-4),
        _cells.approximate(0.7, 1e-3, 1e-4),
        _cells.mixture(1.0, np.array([0.0, 1, 2]), np.array([0.9, 0.09, 0.01]), 1e-3),
    ):
        for pmf in (pld.remove, pld.add):
            if pmf is not None:
                assert math.fsum(pmf.probs) + pmf.infinity == pytest.approx(1.0, abs=1e-14)
                assert np.all(pmf.probs >= 0)
                assert float(pmf.probs @ np.exp(-pmf.losses)) <= 1 + 1e-12


def test_a_coarser_grid_is_never_smaller():
    for relation in (ADD, REPLACE):
        values = [epsilon(dp_sgd(0.02, 0.8, 50), 1e-5, relation=relation, discretization=h) for h in (1e-2, 1e-3, 1e-4)]
        assert values == sorted(values, reverse=True)
        assert values[0] == pytest.approx(values[2], rel=2e-2)


def test_tiny_losses_take_a_finer_grid():
    event = dp_sgd(1e-4, 5.0, 10**6)  # a step loses 2e-5
    assert pld_that_fits(event, relation=ADD).step < 1e-5
    tight, default = epsilon(event, 1e-6), epsilon(event, 1e-6, discretization=1e-4)
    assert tight < 0.6 * default
    assert tight >= epsilon(event, 1e-6, discretization=1e-6) * (1 - 1e-9)
    assert pld_that_fits(dp_sgd(0.01, 1.0, 1000), relation=ADD).step == 1e-4


def test_huge_losses_take_a_coarser_grid_and_stay_bounds():
    event = ev.SelfComposed(event=ev.PoissonSampled(sampling_rate=0.9, event=gaussian(0.2)), count=2000)
    pld = pld_that_fits(event, relation=ADD)
    assert pld.step > 1e-4
    assert epsilon(event, 1e-5) < epsilon(ev.SelfComposed(event=gaussian(0.2), count=2000), 1e-5)


def test_effective_gaussian():
    assert effective_gaussian(ev.SelfComposed(event=gaussian(2.0), count=4)) == pytest.approx(1.0)
    assert effective_gaussian(ev.NoOp()) is None
    assert effective_gaussian(ev.Composed(events=(gaussian(), ev.Laplace(noise_multiplier=1.0)))) is None
    assert effective_gaussian(ev.Composed(events=(gaussian(), gaussian(0.0)))) == 0.0


@pytest.mark.parametrize(
    ("event", "error", "match"),
    [
        (ev.Unsupported(description="a query from elsewhere"), UnsupportedEvent, "Unsupported: a query from elsewhere"),
        (ev.NonPrivate(reason="(raw labels)"), Refusal, "NonPrivate released data without protection .raw labels"),
        (gaussian(0.0), Refusal, "Gaussian has noise multiplier 0"),
        (ev.Laplace(noise_multiplier=0.0), Refusal, "Laplace has noise multiplier 0"),
        (dp_sgd(0.1, 0.0, 10), Refusal, "PoissonSampled has noise multiplier 0"),
        (ev.RepeatAndSelect(event=gaussian(), mean=3, shape=1), UnsupportedEvent, "RepeatAndSelect.*RDP has one"),
        (ev.ZeroConcentratedDp(rho=0.1), UnsupportedEvent, "ZeroConcentratedDp"),
        (
            ev.PoissonSampled(sampling_rate=0.1, event=ev.TreeAggregation(noise_multiplier=1.0, steps=(3,))),
            UnsupportedEvent,
            "PoissonSampled",
        ),
        (
            ev.SampledWithoutReplacement(population=9, sample_size=3, event=ev.Laplace(noise_multiplier=1.0)),
            UnsupportedEvent,
            "SampledWithoutReplacement",
        ),
    ],
)
def test_what_has_no_bound_is_refused_by_name(event, error, match):
    with pytest.raises(error, match=match):
        epsilon(ev.Composed(events=(gaussian(), event)), 1e-5)


def test_replace_one_is_refused_where_no_pair_is_known():
    laplace = ev.PoissonSampled(sampling_rate=0.1, event=ev.Laplace(noise_multiplier=1.0))
    box = ev.PoissonSampled(sampling_rate=0.1, event=ev.ApproximateDp(epsilon=1.0))
    mixture = ev.MixtureOfGaussians(noise_multiplier=1.0, sensitivities=(0, 1), probabilities=(0.5, 0.5))
    for event in (laplace, box, mixture):
        for accountant in ("pld", "rdp"):
            with pytest.raises(UnsupportedEvent):
                epsilon(event, 1e-5, accountant, relation="replace-one")


def test_nothing_costs_nothing():
    assert epsilon(ev.NoOp(), 1e-5) == 0.0
    assert epsilon(ev.Composed(events=()), 1e-5) == 0.0
    assert epsilon(ev.SelfComposed(event=gaussian(0.0), count=0), 1e-5) == 0.0
    assert epsilon(ev.PoissonSampled(sampling_rate=0.0, event=gaussian()), 1e-5) == 0.0
