import math
import sys

import dp_accounting as dp
import pytest

from dpaudit import events as ev
from dpaudit.accounting import (
    epsilon,
    from_compute_dp_sgd_privacy,
    from_dp_accounting,
    from_opacus,
    from_parameters,
    from_tensorflow_privacy_query,
    steps_of,
    to_dp_accounting,
)
from dpaudit.errors import DataError, Refusal, UnsupportedEvent, UsageError


def gaussian(z=1.0):
    return ev.Gaussian(noise_multiplier=z)


ROUND_TRIPS = [
    ev.NoOp(),
    ev.NonPrivate(),
    gaussian(1.5),
    ev.Laplace(noise_multiplier=2.0),
    ev.SelfComposed(event=ev.PoissonSampled(sampling_rate=0.1, event=gaussian()), count=7),
    ev.Composed(events=(gaussian(), ev.Laplace(noise_multiplier=1.0))),
    ev.SampledWithoutReplacement(population=100, sample_size=3, event=gaussian()),
    ev.RepeatAndSelect(event=gaussian(), mean=4.0, shape=math.inf),
    ev.MixtureOfGaussians(noise_multiplier=1.0, sensitivities=(0.0, 1.0), probabilities=(0.5, 0.5)),
    ev.ZeroConcentratedDp(rho=0.3, xi=0.1),
    ev.TruncatedPoissonGaussian(dataset_size=100, sampling_rate=0.1, max_batch_size=20, noise_multiplier=2.0),
]


@pytest.mark.parametrize("event", ROUND_TRIPS)
def test_there_and_back_through_dp_accounting(event):
    assert from_dp_accounting(to_dp_accounting(event)) == event


def test_trees_of_dp_accounting():
    one = dp.SingleEpochTreeAggregationDpEvent(2.0, 1000)
    assert from_dp_accounting(one) == ev.TreeAggregation(noise_multiplier=2.0, steps=(1000,))
    forest = dp.SingleEpochTreeAggregationDpEvent(2.0, [3, 900, 20])  # a unit is in one of them at most
    assert from_dp_accounting(forest) == ev.TreeAggregation(noise_multiplier=2.0, steps=(900,))
    assert from_dp_accounting(dp.SingleEpochTreeAggregationDpEvent(2.0, [])) == ev.NoOp()
    restarts = ev.TreeAggregation(noise_multiplier=2.0, steps=(10, 20))
    assert epsilon(from_dp_accounting(to_dp_accounting(restarts)), 1e-5) == pytest.approx(epsilon(restarts, 1e-5))
    special = dp.NeighboringRelation.REPLACE_SPECIAL
    library = dp.rdp.RdpAccountant(neighboring_relation=special).compose(one).get_epsilon(1e-5)
    assert epsilon(from_dp_accounting(one), 1e-5, "rdp") == pytest.approx(library, rel=1e-9)


def test_bounds_in_place_of_what_has_no_counterpart():
    response = from_dp_accounting(dp.RandomizedResponseDpEvent(noise_parameter=0.5, num_buckets=4))
    assert response == ev.ApproximateDp(epsilon=math.log(4 / 0.5 - 3))
    assert from_dp_accounting(dp.RandomizedResponseDpEvent(noise_parameter=1.0, num_buckets=4)) == ev.NoOp()
    assert isinstance(from_dp_accounting(dp.RandomizedResponseDpEvent(noise_parameter=0, num_buckets=4)), ev.NonPrivate)
    discrete = dp.dp_event.DiscreteLaplaceDpEvent(noise_parameter=0.25, sensitivity=2)
    assert from_dp_accounting(discrete) == ev.ApproximateDp(epsilon=0.5)
    other = from_dp_accounting(dp.SampledWithReplacementDpEvent(100, 5, dp.GaussianDpEvent(1.0)))
    assert isinstance(other, ev.Unsupported)
    with pytest.raises(UnsupportedEvent, match="SampledWithReplacementDpEvent"):
        epsilon(other, 1e-5)
    assert isinstance(from_dp_accounting(dp.UnsupportedDpEvent()), ev.Unsupported)


def test_only_events_of_dp_accounting_are_taken():
    with pytest.raises(DataError, match=r"expected an event of dp-accounting; got builtins\.dict"):
        from_dp_accounting({"noise_multiplier": 1.0})
    for event in (ev.ApproximateDp(epsilon=1.0), ev.PubliclySampled(sampling_rate=0.1, event=gaussian())):
        with pytest.raises(UsageError, match="dp-accounting has no event"):
            to_dp_accounting(event)


def test_jax_privacy_returns_events_of_dp_accounting():
    """jax_privacy.accounting.dpsgd_event and its siblings build exactly these (read at 12d6c56; not installed)."""
    sampled = dp.PoissonSampledDpEvent(0.1, dp.GaussianDpEvent(3.0))
    event = from_dp_accounting(dp.SelfComposedDpEvent(sampled, 512))
    assert event == steps_of(3.0, sampling_rate=0.1, steps=512)
    assert epsilon(event, 1e-6) == pytest.approx(3.77, abs=0.005), "the value of its documentation"


@pytest.fixture(scope="module")
def tfp():
    """Return tensorflow-privacy as installed: its switch skips the imports that no longer work."""
    sys.skip_tf_privacy_import = True
    pytest.importorskip("tensorflow")
    return pytest.importorskip("tensorflow_privacy.privacy.dp_query", reason="tensorflow-privacy is not installed")


@pytest.mark.filterwarnings("ignore")
def test_queries_of_tensorflow_privacy(tfp):
    import tensorflow as tf
    from tensorflow_privacy.privacy.dp_query import gaussian_query, no_privacy_query, quantile_adaptive_clip_sum_query
    from tensorflow_privacy.privacy.dp_query import tree_aggregation_query as trees

    template = tf.zeros(3)
    fixed = gaussian_query.GaussianSumQuery(l2_norm_clip=2.0, stddev=3.0)
    assert from_tensorflow_privacy_query(fixed, template) == gaussian(1.5)
    adaptive = quantile_adaptive_clip_sum_query.QuantileAdaptiveClipSumQuery(
        initial_l2_norm_clip=1.0,
        noise_multiplier=1.2,
        target_unclipped_quantile=0.5,
        learning_rate=0.2,
        clipped_count_stddev=5.0,
        expected_num_records=100,
    )
    both = from_tensorflow_privacy_query(adaptive, template)
    assert isinstance(both, ev.Composed)
    assert [round(part.noise_multiplier, 6) for part in both.events] == [1.2, 10.0]  # the bit is centred: +-1/2
    open_ = from_tensorflow_privacy_query(no_privacy_query.NoPrivacySumQuery(), template)
    with pytest.raises(Refusal, match="NonPrivate"):
        epsilon(open_, 1e-5)
    tree = trees.TreeCumulativeSumQuery.build_l2_gaussian_query(1.0, 1.0, template)
    assert isinstance(from_tensorflow_privacy_query(tree, template), ev.Unsupported), "0.9.0 does not state its cost"
    with pytest.raises(DataError, match="expected a tensorflow-privacy DPQuery"):
        from_tensorflow_privacy_query(object(), template)


@pytest.mark.filterwarnings("ignore")
def test_parameters_of_compute_dp_sgd_privacy(tfp, known_answers):
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as library

    for entry in known_answers("tensorflow-privacy", "_compute_dp_sgd_example_privacy"):
        p = entry["input"]
        event = from_compute_dp_sgd_privacy(
            number_of_examples=60000,
            batch_size=256,
            num_epochs=p["num_epochs"],
            noise_multiplier=p["noise_multiplier"],
            used_microbatching=p["used_microbatching"],
        )
        assert epsilon(event, p["delta"], "rdp") == pytest.approx(entry["output"], rel=1e-5)
    shuffled = from_compute_dp_sgd_privacy(
        number_of_examples=60000,
        batch_size=256,
        num_epochs=60,
        noise_multiplier=1.1,
        used_microbatching=False,
        poisson=False,
    )
    theirs = library._compute_dp_sgd_example_privacy(60, 1.1, 1e-5, used_microbatching=False)
    assert epsilon(shuffled, 1e-5, "rdp") == pytest.approx(theirs, rel=1e-9)
    assert theirs == pytest.approx(56.95, abs=0.01)
    with pytest.raises(UsageError, match="batch_size must be at most"):
        from_compute_dp_sgd_privacy(number_of_examples=5, batch_size=6, num_epochs=1, noise_multiplier=1.0)


class OpacusAccountant:
    """As opacus.accountants.IAccountant (read at commit 01c5c4c; Opacus needs torch and is not installed)."""

    def __init__(self):
        self.history = [(1.0, 0.01, 600), (1.3, 0.02, 400)]

    def state_dict(self):
        return {"history": self.history, "mechanism": "rdp"}


def test_history_of_opacus():
    expected = ev.Composed(
        events=(steps_of(1.0, sampling_rate=0.01, steps=600), steps_of(1.3, sampling_rate=0.02, steps=400))
    )
    accountant = OpacusAccountant()
    as_json = {"history": [list(entry) for entry in accountant.history], "mechanism": "rdp"}
    for form in (accountant, accountant.state_dict(), accountant.history, as_json):
        assert from_opacus(form) == expected
    single = from_opacus([(1.0, 0.01, 1000)])
    assert epsilon(single, 1e-5, "rdp") == pytest.approx(2.101366525, rel=1e-6)
    assert epsilon(from_opacus([(1.0, 0.01, 1000)], sampler="shuffle"), 1e-5) > epsilon(single, 1e-5)
    for wrong in ({"mechanism": "rdp"}, object(), {"history": "x"}, [(1.0, 0.01)], [1.0]):
        with pytest.raises(DataError):
            from_opacus(wrong)


def test_dictionaries_of_parameters():
    expected = steps_of(3.0, sampling_rate=0.1, steps=512)
    assert from_parameters({"noise_multiplier": 3.0, "sampling_prob": 0.1, "iterations": 512}) == expected
    assert from_parameters({"noise_multiplier": 3.0, "sample_rate": 0.1, "steps": 512}) == expected
    assert from_parameters({"sigma": 3.0, "q": 0.1, "rounds": 512, "learning_rate": 1.0}) == expected
    flower = {"noise_multiplier": 3.0, "num_sampled_clients": 10, "num_available_clients": 100, "num_rounds": 5}
    batch = ev.SampledWithoutReplacement(population=10, sample_size=1, event=gaussian(3.0))  # the ratio matters only
    assert from_parameters(flower) == ev.SelfComposed(event=batch, count=5)
    assert from_parameters({**flower, "sampler": "none"}) == ev.SelfComposed(event=gaussian(3.0), count=5)
    with pytest.raises(DataError, match="lack sampling_rate, steps"):
        from_parameters({"noise_multiplier": 1.0})
    with pytest.raises(DataError, match="more than once: sampling_rate, q"):
        from_parameters({"noise_multiplier": 1.0, "q": 0.1, "sampling_rate": 0.2, "steps": 3})


def test_samplers_of_steps():
    assert steps_of(1.0, sampling_rate=1.0, steps=3) == ev.SelfComposed(event=gaussian(), count=3)
    passes = steps_of(1.0, sampling_rate=256 / 60000, steps=14062, sampler="shuffle")
    assert passes.count == 60
    assert isinstance(passes.event, ev.ShuffledBatches)
    exact = steps_of(1.0, sampling_rate=0.1, steps=10, sampler="shuffle")
    assert exact.count == 1, "ten tenths are one pass, whatever floating point says"
    for rate in (0.3, 0.07, 1 / 3):
        batch = steps_of(1.0, sampling_rate=rate, steps=1, sampler="without-replacement").event
        assert batch.sample_size / batch.population == pytest.approx(rate, rel=1e-9)
    batch = steps_of(1.0, sampling_rate=0.0333, steps=1, sampler="without-replacement", population=100).event
    assert (batch.sample_size, batch.population) == (4, 100) or batch.sample_size / batch.population == 0.04
    with pytest.raises(UsageError, match="sampler must be one of"):
        steps_of(1.0, sampling_rate=0.1, steps=1, sampler="bernoulli")
    with pytest.raises(UsageError, match="give population"):
        steps_of(1.0, sampling_rate=1e-9, steps=1, sampler="without-replacement")
