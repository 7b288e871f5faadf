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
from tensorflow_privacy.privacy.dp_query import (
    dp_query,
    gaussian_query,
    no_privacy_query,
    normalized_query,
    restart_query,
    tree_aggregation_query,
)

from dpaudit.accounting.pld import effective_gaussian
from dpaudit.federated.aggregation import GaussianSum, make_aggregator
from dpaudit.federated.tfp import QueryAggregator, QueryRequest
from dpaudit.federated.tfp_events import translate

WIDTH = 6
ROWS = np.random.default_rng(0).standard_normal((9, WIDTH)).astype(np.float32) * np.logspace(-2, 2, 9)[:, None].astype(
    np.float32
)
REQUEST = QueryRequest(clip_norm=1.0, noise_multiplier=1.2, expected=9.0)


class Host:
    """The part of the server that holds an aggregator's state."""

    def __init__(self, aggregator, *, width=WIDTH, root=1, state=None):
        self.aggregator, self.width, self.root = aggregator, width, root
        started = aggregator.start(width=width, root=root)
        self.state = started if state is None else state

    def sum(self, rows):
        return self.aggregator.clipped_sum(rows, width=self.width, state=self.state)

    def noised(self, total, number=0, attempt=0):
        return self.aggregator.noised(total, state=self.state, root=self.root, number=number, attempt=attempt)

    def round(self, rows, number):
        noised = self.noised(self.sum(rows), number)
        self.state = noised.state
        return noised


def gaussian(clip_norm=0.5, noise_multiplier=1.2, **options):
    return make_aggregator("tfp-gaussian", clip_norm=clip_norm, noise_multiplier=noise_multiplier, **options)


def adaptive(noise_multiplier=1.2, expected=9.0):
    return make_aggregator("tfp-adaptive-clip", clip_norm=1.0, noise_multiplier=noise_multiplier, expected=expected)


def tree(kind="Residual", stated=True, restart=None):
    def build(request):
        query = getattr(tree_aggregation_query, f"Tree{kind}SumQuery").build_l2_gaussian_query(
            request.clip_norm,
            request.noise_multiplier,
            tf.TensorSpec([request.width]),
            noise_seed=request.seed,
            use_efficient=False,
        )
        if restart is None:
            return query
        return restart_query.RestartQuery(query, restart_query.PeriodicRoundRestartIndicator(restart))

    def event(number):
        return events.TreeAggregation(noise_multiplier=1.2, steps=(4,)) if number % 4 == 0 else events.NoOp()

    return QueryAggregator(build, REQUEST, name="tree", stated=event if stated else None)


def test_the_adapter_sums_what_our_aggregator_sums():
    ours, theirs = (Host(a) for a in (GaussianSum(clip_norm=0.7, noise_multiplier=1.0), gaussian(0.7, 1.0)))
    for rows in (ROWS, np.zeros((3, WIDTH), np.float32), np.full((2, WIDTH), 3e38, np.float32), ROWS[:, :4]):
        np.testing.assert_allclose(theirs.sum(rows), ours.sum(rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(theirs.sum(np.zeros((0, WIDTH), np.float32)), np.zeros(WIDTH))


@pytest.mark.parametrize("z", [0.834, 1.3, 2.0, 0.1])
@pytest.mark.parametrize("clip_norm", [0.1, 0.5, 1.0, 3.0])
def test_the_recorded_event_never_promises_more_noise_than_was_calibrated(z, clip_norm):
    aggregator = gaussian(clip_norm, z)
    noised = Host(aggregator).noised(np.zeros(WIDTH))
    assert z <= noised.event.noise_multiplier <= z * (1 + 1e-6)
    assert noised.noise_stddev == aggregator.noise_stddev == pytest.approx(z * clip_norm, rel=1e-6)


@pytest.mark.statistical(failure_probability=1e-6)
def test_the_noise_is_the_promised_one_and_new_in_every_round_and_attempt():
    host = Host(gaussian(), width=5000)
    places = [(0, 0), (1, 0), (2, 0), (63, 0), (64, 0), (1, 1), (2, 1)]
    total = np.full(5000, 3.0)
    draws = np.array([host.noised(total, *place).vector - total for place in places])
    low, high = chi2.ppf([5e-7, 1 - 5e-7], draws.size)
    assert low < ((draws / 0.6) ** 2).sum() < high
    assert np.abs(np.corrcoef(draws) - np.eye(len(places))).max() < 5.6 / np.sqrt(5000)


@pytest.mark.parametrize("make", [gaussian, adaptive])
def test_any_draw_can_be_reached_again_in_any_order(make):
    first, second = Host(make()), Host(make())
    total = first.sum(np.zeros((0, WIDTH), np.float32))
    in_order = [first.noised(total, n).vector for n in range(70)]
    for n in (5, 6, 3, 69, 64):
        np.testing.assert_array_equal(second.noised(total, n).vector, in_order[n])
    assert (second.noised(total, 6, attempt=1).vector != in_order[6]).all()
    np.testing.assert_array_equal(second.noised(total, 7).vector, in_order[7])


def test_the_planted_fault_halves_the_noise_and_nothing_that_is_said():
    honest, broken = (Host(gaussian(1.0, 2.0, noise_factor=f)) for f in (1.0, 0.5))
    a, b = (host.noised(np.full(WIDTH, 7.0)) for host in (honest, broken))
    np.testing.assert_allclose(b.vector - 7.0, (a.vector - 7.0) / 2, rtol=1e-4, atol=1e-5)
    assert a.event == b.event
    assert a.noise_stddev == b.noise_stddev


@pytest.mark.parametrize("z", [0.3, 1.2, 5.0])
@pytest.mark.parametrize("expected", [1.0, 50.0, 4000.0])
def test_adaptive_clipping_costs_what_was_calibrated_for_sum_and_count_together(z, expected):
    host = Host(adaptive(z, expected))
    noised = host.round(ROWS, 0)
    assert isinstance(noised.event, events.Composed)
    total, count = (part.noise_multiplier for part in noised.event.events)
    assert z <= effective_gaussian(noised.event) <= z * (1 + 1e-5)
    assert total == pytest.approx(noised.noise_stddev / 1.0, rel=1e-6)
    assert total <= 1.16 * z
    assert count >= 2 * max(expected / 20, z) * (1 - 1e-6)


def test_the_clip_follows_the_median_norm_and_the_sum_is_clipped_to_it():
    host = Host(adaptive(0.01, expected=400.0))
    rows = np.random.default_rng(1).standard_normal((400, WIDTH)).astype(np.float32) * 0.05
    norms = np.linalg.norm(rows, axis=1)
    for number in range(80):
        clip = host.aggregator.clip_norm_of(host.state)
        total = host.sum(rows)
        factors = np.minimum(1, clip / norms)
        np.testing.assert_allclose(total[:WIDTH], (rows * factors[:, None]).sum(axis=0), rtol=1e-3, atol=1e-4)
        assert total[WIDTH:].sum() == pytest.approx(np.count_nonzero(norms <= clip) - 200, abs=1.01)
        assert host.round(rows, number).noise_stddev == pytest.approx(clip * 0.01, rel=1e-3)
    # Noise on the count: at most 20 / 400 of the fraction (four sigma of 5 / 400), times the learning rate.
    assert clip == pytest.approx(np.median(norms), rel=0.1)


def test_a_tree_is_the_sum_of_its_rounds_with_noise_that_does_not_pile_up():
    for kind in ("Residual", "Cumulative"):
        host = Host(tree(kind))
        rounds = [host.round(ROWS, number).vector for number in range(8)]
        clear = host.sum(ROWS)
        noise = np.cumsum([vector - clear for vector in rounds], axis=0)
        # After 8 rounds one node of the tree carries the noise of all of them.
        assert np.abs(noise[7]).max() < 5.5 * 1.2, kind
        assert len({float(row[0]) for row in noise}) == 8


def test_residual_and_cumulative_trees_release_the_same_rounds():
    one, other = Host(tree("Residual", restart=3)), Host(tree("Cumulative", restart=3))
    for number in range(7):
        np.testing.assert_allclose(
            one.round(ROWS, number).vector, other.round(ROWS, number).vector, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("make", [adaptive, tree, lambda: tree("Cumulative", restart=3)])
def test_a_state_saved_as_arrays_goes_on_as_if_nothing_had_happened(make):
    unbroken, broken = Host(make()), Host(make())
    for number in range(5):
        unbroken.round(ROWS, number)
        broken.round(ROWS, number)
    saved = {name: array.copy() for name, array in broken.state.items()}
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in saved.values())
    resumed = Host(make(), state=saved)
    for number in range(5, 9):
        np.testing.assert_array_equal(resumed.round(ROWS, number).vector, unbroken.round(ROWS, number).vector)


def test_a_replayed_round_starts_from_the_state_before_it():
    host = Host(adaptive())
    first = host.noised(host.sum(ROWS), 0)
    again = host.noised(host.sum(ROWS), 0)
    np.testing.assert_array_equal(first.vector, again.vector)
    assert host.aggregator.clip_norm_of(host.state) == 1.0 != host.aggregator.clip_norm_of(first.state)


def test_noise_that_is_part_of_the_state_is_never_drawn_afresh():
    host = Host(tree())
    with pytest.raises(UsageError, match="cannot be reproduced to the bit"):
        host.noised(host.sum(ROWS), 3, attempt=1)
    assert np.isfinite(Host(gaussian()).noised(np.zeros(WIDTH), 3, attempt=1).vector).all()


def test_the_seed_of_a_tree_comes_from_the_root_of_the_run():
    one, same, other = (Host(tree(), root=root).round(ROWS, 0).vector for root in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


def test_an_average_is_turned_back_into_a_sum():
    def build(_):
        return normalized_query.NormalizedQuery(gaussian_query.GaussianSumQuery(1.0, 1e-6), denominator=9.0)

    host = Host(QueryAggregator(build, REQUEST, name="average"))
    total = host.sum(ROWS)
    np.testing.assert_allclose(host.noised(total).vector, total, rtol=1e-4, atol=1e-4)


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


def test_an_unsupported_event_is_an_error_unless_the_cost_is_stated():
    with pytest.raises(UnsupportedEvent, match="UnsupportedDpEvent"):
        Host(tree(stated=False)).round(ROWS, 0)
    assert Host(tree()).round(ROWS, 0).event == events.TreeAggregation(noise_multiplier=1.2, steps=(4,))


def test_a_query_without_privacy_is_recorded_as_such():
    host = Host(QueryAggregator(lambda _: no_privacy_query.NoPrivacySumQuery(), REQUEST, name="none"))
    noised = host.noised(host.sum(ROWS))
    np.testing.assert_allclose(noised.vector, ROWS.sum(axis=0), rtol=1e-4)
    assert isinstance(noised.event, events.NonPrivate)
    assert noised.noise_stddev is None


class _TwoVectors(dp_query.SumAggregationDPQuery):
    def initial_sample_state(self, template=None):
        return tf.zeros((3, 3)), template

    def preprocess_record(self, params, record):
        return record, record

    def get_noised_result(self, sample_state, global_state):
        return sample_state[1], global_state, dp_accounting.NoOpDpEvent()


def test_what_is_not_a_fit_query_is_refused():
    with pytest.raises(UsageError, match="a query that sums"):
        Host(QueryAggregator(lambda _: object(), REQUEST, name="x"))
    with pytest.raises(UsageError, match="a server needs one vector of 6 numbers"):
        Host(QueryAggregator(lambda _: _TwoVectors(), REQUEST, name="x"))
    with pytest.raises(UsageError, match="cannot be imported"):
        make_aggregator("no_such_module:build", clip_norm=1.0, noise_multiplier=1.0).noise_stddev  # noqa: B018
    assert tf.executing_eagerly()


def test_code_that_seeds_tensorflow_between_rounds_does_not_make_their_noise_the_same():
    quiet, disturbed = Host(gaussian()), Host(gaussian())
    zero = np.zeros(WIDTH)
    honest = [quiet.noised(zero, number).vector for number in range(3)]
    seen = []
    for number in range(3):
        tf.random.set_seed(1)
        seen.append(disturbed.noised(zero, number).vector)
    np.testing.assert_array_equal(seen, honest)
    assert len({vector.tobytes() for vector in seen}) == 3
