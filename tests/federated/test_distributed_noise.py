"""Integer noise as an aggregator of our server, against the queries of tensorflow-privacy, and mutants of it."""

import dataclasses
import math
import sys

import numpy as np
import pytest
from scipy.stats import chi2

from dpaudit import _rng, accounting, events
from dpaudit.config import TrainingSection
from dpaudit.errors import UsageError
from dpaudit.federated import distributed_noise, integer_noise
from dpaudit.federated.aggregation import aggregator_of, make_aggregator
from dpaudit.federated.canaries import make_canaries
from dpaudit.federated.clipping import Block
from dpaudit.federated.mechanism import round_event
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.quantisation import Quantiser
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline.releases import noise_inflation
from dpaudit.records import Status
from dpaudit.verification import check_ledger

KINDS = ("discrete-gaussian", "skellam")
CLIENTS, PARAMETERS = 12, 400


def section(**changes):
    body = {
        "algorithm": "dp-fedavg", "rounds": 8, "client_sampling_rate": 1.0, "aggregator": KINDS[0],
        "minimum_contributions": 8, "noise_multiplier": 0.7, **changes,
    }  # fmt: skip
    return TrainingSection(**body)


def make_server(make_config, *, ledger=None, draws=None, canaries=6, aggregator=KINDS[0], **changes):
    training = section(aggregator=aggregator, **changes)
    population = Population(clients=CLIENTS, client_of=None)
    fakes = make_canaries(make_config(canaries={"count": canaries}).canaries, population, root=1)
    plan = Plan(training=training, population=population, canaries=fakes, root=1, direction=-1.0)
    return Server(
        plan,
        aggregator=aggregator_of(training, noise_multiplier=0.7, expected=plan.denominator),
        optimizer=make_optimizer(training),
        weights=np.zeros(PARAMETERS),
        ledger=PrivacyLedger() if ledger is None else ledger,
        on_draw=None if draws is None else lambda number, attempt: draws.append((number, attempt)),
    )


def updates(cohort, count=None, value=0.02):
    units = cohort.units[:count]
    return [Block(units=units, rows=np.full((units.size, PARAMETERS), value, np.float32))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_a_round_is_that_of_its_shares(make_config, kind):
    """Chi-square limits at 1e-6 in each tail; the 12 shares that come have sqrt(12 / 8) of what is promised."""
    ledger = PrivacyLedger()
    server = make_server(make_config, ledger=ledger, aggregator=kind)
    collected, release = server.run_round(0, lambda _, cohort: updates(cohort))
    noise = release.vector - collected.total[: release.vector.size]
    expected = 0.7 * math.sqrt(12 / 8)
    low, high = chi2.ppf([1e-6, 1 - 1e-6], noise.size) * expected**2
    assert low < float(noise @ noise) < high
    steps = release.vector / Quantiser(clip_norm=1.0, width=noise.size).granularity
    assert np.array_equal(steps, np.rint(steps)), "what is released lies on the grid"
    (entry,) = ledger.events()
    assert entry.facts["shares"] == 12
    assert entry.facts["noise_stddev"] == 0.7
    assert entry.facts["noise_stddev_expected"] == pytest.approx(expected, rel=1e-4)
    assert noise_inflation(ledger, 1) == pytest.approx([math.sqrt(1.5)], rel=1e-4)
    assert entry.event.noise_multiplier == pytest.approx(0.7 * 256 / 257)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ledger_never_says_more_than_was_planned(make_config, kind):
    """Before the width of the model is known the plan takes the coarsest grid: epsilon can only be smaller later."""
    aggregator = make_aggregator(kind, clip_norm=0.3, noise_multiplier=0.9, expected=20, minimum=10)
    planned = accounting.epsilon(round_event(section(aggregator=kind, minimum_contributions=10), 0.9), 1e-6, "rdp")
    gaussian = accounting.epsilon(events.Gaussian(noise_multiplier=0.9), 1e-6, "rdp")
    spent = [accounting.epsilon(aggregator.event(width), 1e-6, "rdp") for width in (1, 100, 4096, 5000, 10**6)]
    assert all(gaussian < epsilon <= planned * (1 + 1e-12) for epsilon in spent)
    assert planned < 1.01 * gaussian


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_with_too_few_shares_releases_nothing(make_config, kind, tmp_path):
    path, draws = tmp_path / "ledger.jsonl", []
    ledger = PrivacyLedger(path, noise_multiplier=0.7, clip_norm=1.0)
    server = make_server(make_config, ledger=ledger, draws=draws, aggregator=kind)
    counts = {0: 12, 1: 7, 2: 8}
    for number, count in counts.items():
        before = server.weights.copy()
        _, release = server.run_round(number, lambda _, cohort, count=count: updates(cohort, count))
        assert release.withheld == (count < 8)
        assert release.withheld == np.array_equal(before, server.weights)
    first, second, third = ledger.events()
    assert draws == [(0, 0), (2, 0)]
    assert second.event == events.NoOp()
    assert "7 shares" in second.facts["withheld"]
    assert "release_sha256" not in second.facts
    assert third.facts["noise_stddev_expected"] == pytest.approx(0.7, rel=1e-4)
    assert np.isnan(noise_inflation(ledger, 3)[1])
    checks = {check.id: check for check in check_ledger(ledger, rounds_run=3, noise_draws=2)}
    assert all(check.status == Status.PASS for check in checks.values()), checks
    again = make_server(make_config, ledger=PrivacyLedger.open(path, append=True), aggregator=kind)
    for number, count in counts.items():
        _, release = again.run_round(number, lambda _, cohort, count=count: updates(cohort, count))
        assert release.replayed
    np.testing.assert_array_equal(again.weights, server.weights)
    assert len(list(PrivacyLedger.open(path).events())) == 3
    assert first.event.noise_multiplier > 0


def test_a_round_that_was_withheld_may_be_released_when_more_come(make_config):
    ledger = PrivacyLedger()
    make_server(make_config, ledger=ledger).run_round(0, lambda _, cohort: updates(cohort, 3))
    _, release = make_server(make_config, ledger=ledger).run_round(0, lambda _, cohort: updates(cohort))
    assert (release.withheld, release.attempt) == (False, 1)
    withheld, released = ledger.events()
    assert released.facts["attempt"] == 1
    assert "withheld" in withheld.facts


def test_a_pass_is_paid_for_by_its_first_release(make_config):
    """Two batches in a pass, the first of which is withheld: the second carries the event of the pass."""
    ledger = PrivacyLedger()
    changes = {"sampler": "shuffle", "client_sampling_rate": 0.5, "minimum_contributions": 2}
    server = make_server(make_config, ledger=ledger, canaries=0, **changes)
    for number, count in enumerate((0, None, None, None)):
        server.run_round(number, lambda _, cohort, count=count: updates(cohort, count))
    kinds = [type(entry.event) for entry in ledger.events()]
    assert kinds == [events.NoOp, events.ShuffledBatches, events.ShuffledBatches, events.NoOp]
    assert [entry.facts.get("covered_by_round") for entry in ledger.events()] == [None, None, None, 2]
    planned = round_event(section(**changes), 0.7)
    assert isinstance(planned, events.ShuffledBatches)


def test_fixed_size_samples_are_accounted_for_as_public(make_config):
    training = section(sampler="without-replacement", client_sampling_rate=0.5, minimum_contributions=2)
    event = round_event(training, 0.7, slots=18)
    assert isinstance(event, events.PubliclySampled)
    assert event.sampling_rate == 0.5


def test_what_a_device_cannot_send_is_sent_as_zeros_with_its_share(make_config):
    """A NaN must not take a share away: then the noise would tell who sent one."""
    ledger = PrivacyLedger()
    server = make_server(make_config, ledger=ledger)

    def one_nan(_, cohort):
        (block,) = updates(cohort)
        block.rows[0, 0] = np.nan
        yield block

    server.run_round(0, one_nan)
    *_, entry = ledger.events()
    assert (entry.facts["realised_units"], entry.facts["rejected"], entry.facts["shares"]) == (11, 1, 12)


def test_canaries_bring_no_share(make_config):
    ledger = PrivacyLedger()
    make_server(make_config, ledger=ledger, canaries=50).run_round(0, lambda _, cohort: updates(cohort))
    (entry,) = ledger.events()
    assert entry.facts["shares"] == 12


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"minimum_contributions": None}, "minimum_contributions belongs to"),
        ({"client_sampling_rate": 0.5}, "it must be no secret"),
        ({"client_sampling_rate": 0.5, "sampler": "poisson-padded", "cohort_limit": 9}, "it must be no secret"),
        ({"aggregator": "gaussian"}, "minimum_contributions belongs to"),
        ({"algorithm": "dp-ftrl", "client_sampling_rate": 0.5}, "dp-ftrl needs training.aggregator"),
    ],
)
def test_configurations_that_are_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        section(**changes)


def test_numbers_that_are_refused():
    for minimum in (None, 21):
        with pytest.raises(UsageError, match="at most the 20"):
            make_aggregator(KINDS[0], clip_norm=1.0, noise_multiplier=1.0, expected=20, minimum=minimum)
    low = make_aggregator(KINDS[1], clip_norm=1.0, noise_multiplier=0.05, expected=20, minimum=2)
    with pytest.raises(UsageError, match="noise multiplier of at least"):
        low.start(width=10, root=1)
    high = make_aggregator(KINDS[0], clip_norm=1.0, noise_multiplier=50.0, expected=20, minimum=1)
    with pytest.raises(UsageError, match="minimum_contributions"):
        high.start(width=10, root=1)
    honest = make_aggregator(KINDS[0], clip_norm=1.0, noise_multiplier=1.0, expected=20, minimum=2)
    state = honest.start(width=10, root=1)
    with pytest.raises(UsageError, match="must not be released"):
        honest.noised(np.append(np.zeros(10), 1.0), state=state, root=1, number=0, attempt=0)
    with pytest.raises(UsageError, match="does not fit 32 bits"):
        honest.noised(np.append(np.zeros(10), 1e8), state=state, root=1, number=0, attempt=0)


def residual_ratio(aggregator, rounds=40, width=500, shares=8):
    """Root mean square of the noise over what is promised, and the chi-square limits of an honest aggregator."""
    state = aggregator.start(width=width, root=3)
    total = np.append(np.zeros(width), float(shares))
    squares = sum(
        float(np.square(aggregator.noised(total, state=state, root=3, number=n, attempt=0).vector).sum())
        for n in range(rounds)
    )
    freedom = rounds * width
    low, high = np.sqrt(chi2.ppf([1e-6, 1 - 1e-6], freedom) / freedom)
    return math.sqrt(squares / freedom) / aggregator.noise_stddev, low, high


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_of_the_noise_are_seen(kind, monkeypatch):
    """Half of the noise, and one of eight shares missing (6 % less): both leave the limits of the honest one."""
    honest = make_aggregator(kind, clip_norm=0.5, noise_multiplier=1.0, expected=8, minimum=8)
    ratio, low, high = residual_ratio(honest)
    assert low < ratio < high
    assert residual_ratio(dataclasses.replace(honest, noise_factor=0.5))[0] < low
    shares = distributed_noise.IntegerSum.share
    drawn = []

    def lazy(self, rng, width, **size):
        drawn.append(1)
        return np.zeros(width, np.int64) if len(drawn) % 8 == 0 else shares(self, rng, width, **size)

    monkeypatch.setattr(distributed_noise.IntegerSum, "share", lazy)
    assert residual_ratio(honest)[0] < low


# --- against the queries of tensorflow-privacy -------------------------------------------------------------------


@pytest.fixture(scope="module")
def queries():
    sys.skip_tf_privacy_import = True
    pytest.importorskip("tensorflow_privacy", reason="needs tensorflow-privacy")
    from tensorflow_privacy.privacy.dp_query import distributed_discrete_gaussian_query, distributed_skellam_query

    return distributed_discrete_gaussian_query, distributed_skellam_query


def both_queries(queries, grid, stddev):
    gaussian, skellam = queries
    # float32 norms of integers up to 2^24 are exact to a part in ten million: a bound of that much more is theirs
    l2 = float(np.float32(grid.l2_norm) * np.float32(1 + 1e-6))
    return (
        gaussian.DistributedDiscreteGaussianSumQuery(l2_norm_bound=l2, local_stddev=stddev),
        skellam.DistributedSkellamSumQuery(
            l1_norm_bound=math.ceil(grid.l1_norm), l2_norm_bound=l2, local_stddev=stddev
        ),
    )


def test_the_queries_accept_what_we_quantise_and_refuse_what_is_longer(queries):
    import tensorflow as tf

    grid = Quantiser(clip_norm=1.0, width=300)
    rows = (np.random.default_rng(4).standard_normal((6, 300)) * np.logspace(-3, 3, 6)[:, None]).astype(np.float32)
    integers = grid.quantised(rows, key=b"k").astype(np.int32)
    for query in both_queries(queries, grid, 0.0):
        params = query.derive_sample_params(query.initial_global_state())
        total = query.initial_sample_state(tf.zeros(300, tf.int32))
        for row in integers:
            preprocessed = query.preprocess_record(params, tf.constant(row))
            total = query.accumulate_preprocessed_record(total, preprocessed)
        np.testing.assert_array_equal(total, integers.sum(axis=0))
        with pytest.raises(tf.errors.InvalidArgumentError, match="norm exceeds"):
            query.preprocess_record(params, tf.constant(integers[-1] * 2))


def test_the_queries_add_the_noise_that_we_add(queries, monkeypatch):
    """Two-sample chi-square of 20,000 draws each at standard deviation 3, failing honestly once in a million."""
    import tensorflow as tf

    size, stddev = 20_000, 3
    grid = Quantiser(clip_norm=1.0, width=size)
    tf.random.set_seed(5)
    monkeypatch.setattr(tf, "timestamp", lambda: tf.constant(12.5, tf.float64))  # the seed of their Skellam noise
    samplers = (integer_noise.discrete_gaussian, integer_noise.skellam)
    for query, sampler in zip(both_queries(queries, grid, float(stddev)), samplers, strict=True):
        params = query.derive_sample_params(query.initial_global_state())
        theirs = np.asarray(query.preprocess_record(params, tf.zeros(size, tf.int32)))
        ours = sampler(_rng.stream(6, "cross-check"), stddev**2, size)
        edges = np.arange(-10, 11)
        a, b = (np.histogram(np.clip(x, -10, 9), edges)[0] for x in (theirs, ours))
        keep = a + b > 0
        statistic = float(((a - b)[keep] ** 2 / (a + b)[keep]).sum())
        assert statistic < chi2.isf(1e-6, keep.sum() - 1)
