import math
import sys

import dp_accounting as dp
import pytest

from dpaudit import events as ev
from dpaudit.accounting import (
    epsilon,
    from_compute_dp_sgd_privacy,
    from_dp_accounting,
    from_tensorflow_privacy_query,
    steps_of,
    to_dp_accounting,
)
from dpaudit.accounting._renyi import ORDERS
from dpaudit.accounting.rdp import rdp_of
from dpaudit.errors import DataError, Refusal, UnsupportedEvent, UsageError
from dpaudit.records import Relation


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
def test_queries_that_do_not_state_their_cost_are_refused_by_name(tfp):
    import tensorflow as tf
    from tensorflow_privacy.privacy.dp_query import discrete_gaussian_query as discrete
    from tensorflow_privacy.privacy.dp_query import distributed_discrete_gaussian_query as distributed
    from tensorflow_privacy.privacy.dp_query import distributed_skellam_query as skellam
    from tensorflow_privacy.privacy.dp_query import restart_query as restarts
    from tensorflow_privacy.privacy.dp_query import tree_aggregation_query as trees

    real, whole = tf.zeros(3), tf.zeros(3, tf.int32)
    cumulative = trees.TreeCumulativeSumQuery.build_l2_gaussian_query(1.0, 1.0, real)
    residual = trees.TreeResidualSumQuery.build_l2_gaussian_query(1.0, 1.0, real)
    every_ten = restarts.PeriodicRoundRestartIndicator(10)
    queries = [
        (cumulative, real),
        (residual, real),
        (restarts.RestartQuery(residual, every_ten), real),
        (discrete.DiscreteGaussianSumQuery(l2_norm_bound=10.0, stddev=5.0), whole),
        (distributed.DistributedDiscreteGaussianSumQuery(l2_norm_bound=10.0, local_stddev=5.0), whole),
        (skellam.DistributedSkellamSumQuery(l1_norm_bound=10, l2_norm_bound=10.0, local_stddev=5.0), whole),
    ]
    for query, template in queries:
        event = from_tensorflow_privacy_query(query, template)
        for accountant in ("pld", "rdp"):
            with pytest.raises(UnsupportedEvent, match=type(query).__name__):
                epsilon(ev.SelfComposed(event=event, count=3), 1e-5, accountant)


class _Clock:
    """A query that cannot be asked, as trees seeded from the clock where TensorFlow is deterministic."""

    def initial_global_state(self):
        raise RuntimeError("Timestamp cannot be called when determinism is enabled")

    initial_sample_state = get_noised_result = initial_global_state


def test_a_query_that_cannot_be_asked_is_unsupported_and_named():
    event = from_tensorflow_privacy_query(_Clock(), None)
    with pytest.raises(UnsupportedEvent, match="_Clock cannot be asked"):
        epsilon(event, 1e-5)


@pytest.mark.filterwarnings("ignore")
def test_trees_with_restarts_cost_what_tensorflow_privacy_says(tfp):
    from tensorflow_privacy.privacy.analysis import tree_aggregation_accountant as library

    for steps in ((1,), (7,), (8, 8, 3), (1000,) * 5, (2, 1, 64)):
        ours = rdp_of(ev.TreeAggregation(noise_multiplier=3.0, steps=steps), relation=Relation.ADD_OR_REMOVE_ONE)
        theirs = library.compute_rdp_tree_restart(3.0, list(steps), list(ORDERS))
        assert ours.values == pytest.approx(theirs, rel=1e-12)


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
