# ruff: noqa: E402 - tensorflow-privacy needs its switch set before it is imported
import sys
import types

import numpy as np
import pytest
from scipy.stats import chi2

from dpaudit import events
from dpaudit.errors import UnsupportedEvent, UsageError

sys.skip_tf_privacy_import = True
pytest.importorskip("tensorflow_privacy", reason="needs tensorflow-privacy")

import dp_accounting
import tensorflow as tf
from tensorflow_privacy.privacy.dp_query import no_privacy_query, quantile_adaptive_clip_sum_query

from dpaudit.federated.aggregation import GaussianSum, make_aggregator
from dpaudit.federated.tfp import QueryAggregator, gaussian_sum_query, translate

ROWS = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32) * np.logspace(-2, 2, 9)[:, None].astype(
    np.float32
)


def test_the_adapter_sums_what_our_aggregator_sums():
    ours, theirs = (
        GaussianSum(clip_norm=0.7, noise_multiplier=1.0),
        gaussian_sum_query(clip_norm=0.7, noise_multiplier=1.0),
    )
    for rows in (ROWS, np.zeros((3, 6), np.float32), np.full((2, 6), 3e38, np.float32)):
        np.testing.assert_allclose(theirs.clipped_sum(rows), ours.clipped_sum(rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(theirs.clipped_sum(np.zeros((0, 6), np.float32)), np.zeros(6))


@pytest.mark.parametrize("z", [0.834, 1.3, 2.0, 0.1])
@pytest.mark.parametrize("clip_norm", [0.1, 0.5, 1.0, 3.0])
def test_the_recorded_event_never_promises_more_noise_than_was_calibrated(z, clip_norm):
    aggregator = gaussian_sum_query(clip_norm=clip_norm, noise_multiplier=z)
    event = aggregator.noised(np.zeros(3), root=1, number=0, attempt=0).event
    assert z <= event.noise_multiplier <= z * (1 + 1e-6)
    assert aggregator.noise_stddev == pytest.approx(z * clip_norm, rel=1e-6)


@pytest.mark.statistical(failure_probability=1e-6)
def test_the_noise_is_the_promised_one_and_new_in_every_round_and_attempt():
    aggregator = make_aggregator("tfp-gaussian", clip_norm=0.5, noise_multiplier=1.2)
    places = [(0, 0), (1, 0), (2, 0), (63, 0), (64, 0), (1, 1), (2, 1)]
    total = np.full(5000, 3.0)
    draws = np.array([aggregator.noised(total, root=1, number=n, attempt=a).vector - total for n, a in places])
    low, high = chi2.ppf([5e-7, 1 - 5e-7], draws.size)
    assert low < ((draws / 0.6) ** 2).sum() < high
    assert np.abs(np.corrcoef(draws) - np.eye(len(places))).max() < 5.6 / np.sqrt(5000)


def test_any_draw_can_be_reached_again_in_any_order():
    first = gaussian_sum_query(clip_norm=0.5, noise_multiplier=1.2)
    in_order = [first.noised(np.zeros(4), root=1, number=n, attempt=0).vector for n in range(70)]
    second = gaussian_sum_query(clip_norm=0.5, noise_multiplier=1.2)
    for n in (5, 6, 3, 69, 64):
        np.testing.assert_array_equal(second.noised(np.zeros(4), root=1, number=n, attempt=0).vector, in_order[n])
    with_retry = second.noised(np.zeros(4), root=1, number=6, attempt=1).vector
    assert (with_retry != in_order[6]).all()
    np.testing.assert_array_equal(second.noised(np.zeros(4), root=1, number=7, attempt=0).vector, in_order[7])


def test_the_planted_fault_halves_the_noise_and_nothing_that_is_said():
    honest, broken = (gaussian_sum_query(clip_norm=1.0, noise_multiplier=2.0, noise_factor=f) for f in (1.0, 0.5))
    a, b = (q.noised(np.full(100, 7.0), root=1, number=0, attempt=0) for q in (honest, broken))
    np.testing.assert_allclose(b.vector - 7.0, (a.vector - 7.0) / 2, rtol=1e-4, atol=1e-5)
    assert a.event == b.event
    assert honest.noise_stddev == broken.noise_stddev


def test_known_events_are_translated():
    gaussian = dp_accounting.GaussianDpEvent(1.5)
    expected = events.Gaussian(noise_multiplier=1.5)
    cases = {
        gaussian: expected,
        dp_accounting.NoOpDpEvent(): events.NoOp(),
        dp_accounting.LaplaceDpEvent(2.0): events.Laplace(noise_multiplier=2.0),
        dp_accounting.PoissonSampledDpEvent(0.1, gaussian): events.PoissonSampled(sampling_rate=0.1, event=expected),
        dp_accounting.SelfComposedDpEvent(gaussian, 3): events.SelfComposed(event=expected, count=3),
        dp_accounting.SampledWithoutReplacementDpEvent(100, 10, gaussian): events.SampledWithoutReplacement(
            population=100, sample_size=10, event=expected
        ),
    }
    for theirs, ours in cases.items():
        assert translate(theirs) == ours
    both = dp_accounting.ComposedDpEvent([gaussian, dp_accounting.NoOpDpEvent()])
    assert translate(both) == events.Composed(events=(expected, events.NoOp()))
    tree = dp_accounting.SingleEpochTreeAggregationDpEvent(1.5, [3, 4])
    assert translate(tree) == events.TreeAggregation(noise_multiplier=1.5, steps=(3, 4))
    assert isinstance(translate(dp_accounting.NonPrivateDpEvent()), events.NonPrivate)


@pytest.mark.parametrize(
    "event",
    [
        dp_accounting.UnsupportedDpEvent(),
        dp_accounting.ZCDpEvent(0.1),
        dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.UnsupportedDpEvent()),
        types.SimpleNamespace(noise_multiplier=3.0),
        None,
    ],
)
def test_an_event_without_translation_is_an_error_not_a_zero(event):
    with pytest.raises(UnsupportedEvent, match="no counterpart"):
        translate(event)


def test_a_query_without_privacy_is_recorded_as_such():
    query = QueryAggregator(no_privacy_query.NoPrivacySumQuery(), name="none", noise_stddev=0.0)
    noised = query.noised(query.clipped_sum(ROWS), root=1, number=0, attempt=0)
    np.testing.assert_allclose(noised.vector, ROWS.sum(axis=0), rtol=1e-4)
    assert isinstance(noised.event, events.NonPrivate)


def test_queries_that_do_not_sum_or_keep_state_are_refused():
    with pytest.raises(UsageError, match="a query that sums"):
        QueryAggregator(no_privacy_query.NoPrivacyAverageQuery, name="x", noise_stddev=0.0)
    adaptive = quantile_adaptive_clip_sum_query.QuantileAdaptiveClipSumQuery(
        initial_l2_norm_clip=1.0, noise_multiplier=1.0, target_unclipped_quantile=0.5, learning_rate=0.2,
        clipped_count_stddev=1.0, expected_num_records=9.0,
    )  # fmt: skip
    with pytest.raises(UsageError, match="more than one vector"):
        QueryAggregator(adaptive, name="x", noise_stddev=1.0).clipped_sum(ROWS)
    assert tf.executing_eagerly()
