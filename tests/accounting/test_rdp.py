import logging
import math

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from scipy import integrate, stats

from dpaudit import events as ev
from dpaudit.accounting import epsilon, to_dp_accounting
from dpaudit.accounting._renyi import ORDERS
from dpaudit.accounting.rdp import rdp_of
from dpaudit.errors import Refusal, UnsupportedEvent
from dpaudit.records import Relation

ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE


def gaussian(z=1.0):
    return ev.Gaussian(noise_multiplier=z)


def sampled(q, z):
    return ev.PoissonSampled(sampling_rate=q, event=gaussian(z))


def library_rdp(event, relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE):
    logging.getLogger("absl").setLevel(logging.ERROR)
    return RdpAccountant(neighboring_relation=relation).compose(to_dp_accounting(event)).rdp


def test_orders_are_those_of_dp_accounting():
    np.testing.assert_array_equal(RdpAccountant().orders, ORDERS)


@pytest.mark.parametrize(
    ("q", "z"), [(0.01, 1.0), (0.1, 2.0), (0.02, 0.6), (1e-3, 0.8), (0.3, 0.7), (1e-4, 20.0), (1.0, 1.0)]
)
def test_sampled_gaussian_is_that_of_dp_accounting(q, z):
    theirs = library_rdp(sampled(q, z))
    known = np.isfinite(theirs)
    assert known.sum() > 140
    np.testing.assert_allclose(rdp_of(sampled(q, z), relation=ADD).values[known], theirs[known], rtol=1e-8, atol=1e-13)


def test_orders_that_dp_accounting_leaves_out_are_integrated():
    ours, theirs = rdp_of(sampled(0.5, 5.0), relation=ADD).values, library_rdp(sampled(0.5, 5.0))
    left_out = np.isinf(theirs)
    assert left_out.any()
    np.testing.assert_allclose(ours[~left_out], theirs[~left_out], rtol=1e-8)
    assert np.all(np.isfinite(ours))


def renyi_by_quadrature(upper, lower, order):
    def integrand(x):
        return math.exp(order * math.log(upper(x)) + (1 - order) * math.log(lower(x)))

    value, _ = integrate.quad(integrand, -25, 30, limit=1000, points=[0, 1, order], epsabs=1e-13)
    return math.log(value) / (order - 1)


@pytest.mark.parametrize("order", [1.1, 2.5, 7.8])
def test_fractional_orders_agree_with_numerical_integration(order):
    q, z = 0.1, 1.0

    def mixture(mean):
        return lambda x: (1 - q) * stats.norm.pdf(x, 0, z) + q * stats.norm.pdf(x, mean, z)

    index = int(np.argmin(np.abs(ORDERS - order)))
    added = rdp_of(sampled(q, z), relation=ADD).values[index]
    exact = renyi_by_quadrature(mixture(1), mixture(0), order)
    assert exact * (1 - 1e-7) <= added <= exact * 1.5, "a series of absolute values: an upper bound"
    moments = sampled_gaussian_by_integral(z, q)[index] / (ORDERS[index] - 1)
    assert moments == pytest.approx(exact, rel=1e-7)
    replaced = rdp_of(sampled(q, z), relation=REPLACE).values[index]
    assert replaced == pytest.approx(renyi_by_quadrature(mixture(1), mixture(-1), order), rel=1e-7)


def sampled_gaussian_by_integral(z, q):
    from dpaudit.accounting._renyi import log_mixture, log_moments, log_normal

    return log_moments(log_mixture(z, q, 1.0), lambda x: log_normal(x, 0, z), z, 1.0, ORDERS)


def test_conversion_is_that_of_dp_accounting():
    values = rdp_of(ev.SelfComposed(event=sampled(0.02, 0.8), count=500), relation=ADD)
    for delta in (1e-12, 1e-5, 1e-2, 0.5, 0.99):
        assert values.epsilon(delta) == pytest.approx(compute_epsilon(ORDERS, values.values, delta)[0], rel=1e-12)


@pytest.mark.parametrize(
    ("event", "answer", "rel"),
    [
        (gaussian(), 4.728507067, 1e-9),
        (ev.SelfComposed(event=sampled(0.01, 1.0), count=1000), 2.101366525, 1e-6),
        (ev.SelfComposed(event=sampled(256 / 60000, 1.1), count=14062), 2.596555870, 1e-8),
        (ev.SelfComposed(event=sampled(0.1, 2.0), count=200), 3.679745846, 1e-9),
        (ev.SelfComposed(event=ev.Laplace(noise_multiplier=2.0), count=10), 4.990334479142616, 1e-12),
        (ev.ZeroConcentratedDp(rho=0.1), 1.9142498748403742, 1e-12),
        (ev.ZeroConcentratedDp(rho=2.63), 12.691691480042895, 1e-12),
        (
            ev.RepeatAndSelect(event=ev.SelfComposed(event=sampled(0.01, 1.0), count=1000), mean=10, shape=1),
            4.103270656,
            1e-5,
        ),
    ],
)
def test_known_answers(event, answer, rel):
    """Answers of research/verification.md, section 4, and tests/known_answers."""
    assert epsilon(event, 1e-5, "rdp") == pytest.approx(answer, rel=rel)


def test_without_replacement_uses_twice_the_sensitivity(known_answers):
    event = ev.SampledWithoutReplacement(population=50000, sample_size=500, event=gaussian())
    composed = ev.SelfComposed(event=event, count=1000)
    wrong = known_answers("dp_accounting", "SampledWithoutReplacement(50000,500,Gaussian(z))")[0]["output"]
    library = RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    assert library.compose(to_dp_accounting(composed)).get_epsilon(1e-5) == pytest.approx(wrong, rel=1e-9)
    assert epsilon(composed, 1e-5, "rdp", relation="replace-one") == pytest.approx(20.987, abs=1e-3)


def test_public_coin_is_a_mixture_of_renyi_moments():
    inner, p = sampled(0.1, 1.0), 0.3
    mixed = rdp_of(ev.PubliclySampled(sampling_rate=p, event=inner), relation=ADD).values
    alone = rdp_of(inner, relation=ADD).values
    small = ORDERS < 20
    moments = np.log(1 - p + p * np.exp((ORDERS[small] - 1) * alone[small])) / (ORDERS[small] - 1)
    np.testing.assert_allclose(mixed[small], moments, rtol=1e-10)


def test_mixture_of_two_points_is_poisson_sampling():
    mixture = ev.MixtureOfGaussians(noise_multiplier=0.9, sensitivities=(0.0, 1.0), probabilities=(0.95, 0.05))
    poisson = sampled(0.05, 0.9)
    ours, theirs = rdp_of(mixture, relation=ADD).values, rdp_of(poisson, relation=ADD).values
    whole = np.floor(ORDERS) == ORDERS
    np.testing.assert_allclose(ours[whole], theirs[whole], rtol=1e-9, atol=1e-14)
    assert np.all(ours <= theirs * (1 + 1e-9))


EVERYTHING = [
    ev.SelfComposed(event=sampled(0.02, 0.7), count=300),
    ev.SelfComposed(event=ev.PubliclySampled(sampling_rate=0.4, event=sampled(0.2, 1.5)), count=60),
    ev.SelfComposed(event=ev.Laplace(noise_multiplier=3.0), count=20),
    ev.TreeAggregation(noise_multiplier=4.0, steps=(100, 100)),
    ev.SelfComposed(
        event=ev.SampledWithoutReplacement(population=1000, sample_size=20, event=gaussian(2.5)), count=100
    ),
    ev.SelfComposed(
        event=ev.TruncatedPoissonGaussian(
            dataset_size=5000, sampling_rate=0.02, max_batch_size=120, noise_multiplier=1.2
        ),
        count=200,
    ),
    ev.SelfComposed(event=ev.ShuffledBatches(event=gaussian(3.0), batches=10), count=5),
    ev.Composed(events=(ev.ApproximateDp(epsilon=0.4, delta=1e-7), ev.SelfComposed(event=sampled(0.1, 2.0), count=50))),
    ev.SelfComposed(event=ev.ApproximateDp(epsilon=0.2), count=30),
    ev.Composed(events=(gaussian(1.5), ev.Laplace(noise_multiplier=2.0))),
]


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize("event", EVERYTHING)
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_a_renyi_bound_is_never_under_the_pld(event, relation, delta):
    rdp = epsilon(event, delta, "rdp", relation=relation)
    pld = epsilon(event, delta, "pld", relation=relation)
    assert rdp >= pld * (1 - 1e-6)
    assert rdp < 4 * pld + 1


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_sampled_laplace_bound_lies_between(rate):
    event = ev.SelfComposed(
        event=ev.PoissonSampled(sampling_rate=rate, event=ev.Laplace(noise_multiplier=1.5)), count=10
    )
    assert epsilon(event, 1e-5, "pld") <= epsilon(event, 1e-5, "rdp")
    plain = ev.SelfComposed(event=ev.Laplace(noise_multiplier=1.5), count=10)
    assert epsilon(event, 1e-5, "rdp") < epsilon(plain, 1e-5, "rdp")


def test_repeat_and_select_needs_a_renyi_bound_inside():
    box = ev.ApproximateDp(epsilon=1.0, delta=1e-6)
    with pytest.raises(UnsupportedEvent, match="RepeatAndSelect"):
        epsilon(ev.RepeatAndSelect(event=box, mean=3, shape=1), 1e-5, "rdp")


@pytest.mark.parametrize("shape", [0.0, 1.0, 2.0, math.inf])
def test_repeat_and_select_agrees_with_dp_accounting(shape):
    event = ev.RepeatAndSelect(event=gaussian(4.0), mean=5, shape=shape)
    library = RdpAccountant().compose(to_dp_accounting(event)).get_epsilon(1e-5)
    assert epsilon(event, 1e-5, "rdp") == pytest.approx(library, rel=1e-9)
    assert epsilon(event, 1e-5, "rdp") > epsilon(gaussian(4.0), 1e-5, "rdp")


def test_refusals_name_the_event():
    with pytest.raises(Refusal, match="Gaussian has noise multiplier 0"):
        epsilon(gaussian(0.0), 1e-5, "rdp")
    with pytest.raises(UnsupportedEvent, match="tree"):
        epsilon(ev.Unsupported(description="tree"), 1e-5, "rdp")
    with pytest.raises(Refusal, match="infinite at delta"):
        epsilon(ev.ApproximateDp(epsilon=1.0, delta=1e-3), 1e-5, "rdp")


@pytest.mark.parametrize("z", [1e-9, 2e-3, 0.051])
def test_hardly_any_noise_is_not_under_reported(z):
    alone, half = gaussian(z), sampled(0.5, z)
    for relation in (ADD, REPLACE):
        exact = epsilon(alone, 1e-5, relation=relation)
        assert epsilon(alone, 1e-5, "rdp", relation=relation) >= exact
        assert epsilon(half, 1e-5, "rdp", relation=relation) > 0.24 * exact  # replacing half the time adds a quarter


def test_further_known_answers(known_answers):
    (entry,) = known_answers("opendp", "zCDP_to_approxDP")
    assert epsilon(ev.ZeroConcentratedDp(rho=0.5), 1e-5, "rdp") == pytest.approx(entry["output"], rel=1e-4)
    (entry,) = known_answers("reference-formula", "D_alpha Laplace")
    order = int(np.searchsorted(ORDERS, entry["input"]["alpha"]))
    laplace = rdp_of(ev.Laplace(noise_multiplier=entry["input"]["b"]), relation=Relation.ADD_OR_REMOVE_ONE)
    assert laplace.values[order] == pytest.approx(entry["output"], rel=1e-12)
    (entry,) = known_answers("dp_accounting", "SampledWithoutReplacement(N,b,Gaussian(z))")
    given = entry["input"]

    def without_replacement(z):
        batch = ev.SampledWithoutReplacement(population=given["N"], sample_size=given["b"], event=gaussian(z))
        return epsilon(ev.SelfComposed(event=batch, count=given["T"]), 1e-5, "rdp", relation="replace-one")

    # dp-accounting takes z for the noise over a difference of two contributions, which is 2 (its issue #378)
    assert without_replacement(2 * given["z"]) == pytest.approx(entry["output"], rel=1e-9)
    assert without_replacement(given["z"]) > 2 * entry["output"]
