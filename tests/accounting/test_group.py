import math

import numpy as np
import pytest

from dpaudit import events as ev
from dpaudit.accounting import convert_unit, epsilon, gdp_epsilon, group_event, steps_of, summarize
from dpaudit.accounting.group import event_at
from dpaudit.accounting.pld import pld_of
from dpaudit.errors import UnsupportedEvent, UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation

ADD = Relation.ADD_OR_REMOVE_ONE


def gaussian(z=1.0):
    return ev.Gaussian(noise_multiplier=z)


def step(z=1.0):
    return ev.PoissonSampled(sampling_rate=0.1, event=gaussian(z))


def test_gaussians_divide_their_noise():
    assert group_event(gaussian(3.0), 3) == gaussian(1.0)
    assert group_event(ev.Laplace(noise_multiplier=4.0), 2) == ev.Laplace(noise_multiplier=2.0)
    tree = ev.TreeAggregation(noise_multiplier=4.0, steps=(8,))
    assert group_event(tree, 2) == ev.TreeAggregation(noise_multiplier=2.0, steps=(8,))


def test_one_unit_is_itself():
    event = steps_of(1.0, sampling_rate=0.1, steps=5)
    assert group_event(event, 1) is event


@pytest.mark.statistical(failure_probability=1e-6)
def test_members_of_a_poisson_sample_as_simulated():
    q, z, k, trials = 0.3, 1.5, 3, 1_000_000
    event = group_event(ev.PoissonSampled(sampling_rate=q, event=gaussian(z)), k)
    profile = pld_of(event, relation=ADD).profiles()[0]
    rng = np.random.default_rng(11)
    x = rng.binomial(k, q, trials) + z * rng.standard_normal(trials)
    weights = [math.comb(k, m) * q**m * (1 - q) ** (k - m) for m in range(k + 1)]
    loss = np.log(sum(w * np.exp((2 * m * x - m * m) / (2 * z * z)) for m, w in enumerate(weights)))
    for eps in (0.0, 0.5, 1.0):
        gains = np.maximum(-np.expm1(eps - loss), 0)
        assert abs(float(profile.delta(np.array(eps))) - gains.mean()) < 5.2 * gains.std() / math.sqrt(trials)


def test_group_privacy_is_tighter_than_the_black_box_rule():
    run = steps_of(2.0, sampling_rate=0.05, steps=100)
    group = epsilon(group_event(run, 4), 1e-5)
    assert epsilon(run, 1e-5) < group < 4 * epsilon(run, 1e-7)
    assert epsilon(group_event(run, 4), 1e-5, "rdp") >= group


def test_black_boxes_follow_vadhans_lemma():
    event = group_event(ev.ApproximateDp(epsilon=0.5, delta=1e-8), 3)
    assert event.epsilon == pytest.approx(1.5)
    assert event.delta == pytest.approx(1e-8 * math.expm1(1.5) / math.expm1(0.5))
    assert group_event(ev.ApproximateDp(epsilon=0.0, delta=1e-8), 3).delta == pytest.approx(3e-8)


def test_a_public_coin_counts_any_member():
    event = group_event(ev.PubliclySampled(sampling_rate=0.1, event=gaussian(2.0)), 2)
    assert event.sampling_rate == pytest.approx(0.19)
    assert event.event == gaussian(1.0)
    certain = ev.PubliclySampled(sampling_rate=1.0, event=gaussian(2.0))
    assert group_event(certain, 2).sampling_rate == 1.0


def test_a_whole_batch_of_a_group_without_replacement():
    event = group_event(ev.SampledWithoutReplacement(population=4, sample_size=3, event=gaussian(6.0)), 2)
    assert event.sensitivities == (2.0, 4.0)
    np.testing.assert_allclose(event.probabilities, (0.5, 0.5))  # hypergeometric: C(2,1) C(2,2) / C(4,3) = 2/4


def test_wrappers_are_seen_through():
    run = ev.Composed(events=(ev.SelfComposed(event=gaussian(2.0), count=3), ev.NoOp()))
    assert group_event(run, 2) == ev.Composed(events=(ev.SelfComposed(event=gaussian(1.0), count=3), ev.NoOp()))
    one_pass = ev.ShuffledBatches(event=gaussian(2.0), batches=10)
    assert group_event(one_pass, 2).event == gaussian(1.0)


def test_what_has_no_group_bound_is_refused():
    truncated = ev.TruncatedPoissonGaussian(
        dataset_size=100, sampling_rate=0.1, max_batch_size=20, noise_multiplier=2.0
    )
    for event in (
        truncated,
        ev.PoissonSampled(sampling_rate=0.1, event=ev.Laplace(noise_multiplier=1.0)),
        ev.SampledWithoutReplacement(population=4, sample_size=3, event=gaussian()),
    ):
        with pytest.raises(UnsupportedEvent):
            group_event(event, 5)
    with pytest.raises(UsageError):
        group_event(gaussian(), 0)


def test_clients_from_examples_need_a_cap_that_was_enforced():
    run = steps_of(2.0, sampling_rate=0.05, steps=10)
    assert convert_unit(run, recorded="example", wanted="example") is run
    capped = convert_unit(run, recorded="example", wanted="client", max_examples_per_client=4)
    assert capped == group_event(run, 4)
    with pytest.raises(UsageError, match="max_examples_per_client"):
        convert_unit(run, recorded="example", wanted="client")
    with pytest.raises(UsageError, match="still takes part"):
        convert_unit(run, recorded="client", wanted="example")


def test_a_sample_of_a_sample_is_one_sample():
    twice = ev.PoissonSampled(sampling_rate=0.5, event=ev.PoissonSampled(sampling_rate=0.2, event=gaussian()))
    assert group_event(twice, 3) == group_event(step(), 3)


def test_ledgers_are_converted_from_their_own_unit():
    examples = PrivacyLedger(unit="example", max_examples_per_client=3)
    examples.record(step())
    clients = PrivacyLedger(unit="client")
    clients.record(step(z=4.0))
    with pytest.raises(UsageError, match="protect different units: client, example"):
        epsilon([examples, clients], 1e-5)
    event = event_at([examples, clients], unit="client")
    assert event == ev.Composed(events=(group_event(step(), 3), step(z=4.0)))
    assert event_at(examples, unit="client", max_examples_per_client=2) == group_event(step(), 2)
    assert event_at(examples) == event_at(examples, unit="example") == step()
    summary = summarize([examples, clients], delta=1e-5, unit="client", witness=False)
    assert summary.epsilon_pld == pytest.approx(epsilon(event, 1e-5))
    assert {item.id: item.text for item in summary.assumptions}["unit"] == "privacy unit: client"
    with pytest.raises(UsageError, match="does not follow"):
        event_at([examples, clients], unit="example")
    bare = PrivacyLedger(unit="example")
    bare.record(step())
    with pytest.raises(UsageError, match="needs max_examples_per_client"):
        summarize(bare, delta=1e-5, unit="client")


def test_groups_of_a_ledger():
    ledger = PrivacyLedger(unit="example")
    ledger.record(ev.Gaussian(noise_multiplier=2.0))
    summary = summarize(ledger, delta=1e-5, group_size=4, witness=False)
    assert summary.epsilon_pld == pytest.approx(gdp_epsilon(2.0, 1e-5))
    assert summary.epsilon_over_rounds == ()
