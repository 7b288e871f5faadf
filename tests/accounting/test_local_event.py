"""The event of a round of dp-local: a public coin over S Poisson-sampled Gaussians."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dpaudit import accounting
from dpaudit import events as ev
from dpaudit.accounting import RunningEpsilon, compare_accountants, epsilon
from dpaudit.accounting._renyi import ORDERS
from dpaudit.accounting.assumptions import without_amplification
from dpaudit.accounting.rdp import rdp_of
from dpaudit.config import TrainingSection
from dpaudit.federated.mechanism import round_event, whole_event
from dpaudit.gdp import gdp_epsilon
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation

ADD = Relation.ADD_OR_REMOVE_ONE


def training(p, q, *, epochs=1, rounds=1):
    return TrainingSection(
        algorithm="dp-local", rounds=rounds, client_sampling_rate=p, example_sampling_rate=q, local_epochs=epochs
    )


def test_one_round_of_full_batches_in_closed_form():
    """With q = 1 a client's steps are one Gaussian, and delta(eps) = p delta_mu(eps) (Balle and Wang 2018, eq. 6)."""
    p, z, steps, delta = 0.3, 3.0, 4, 1e-5
    event = round_event(training(p, 1.0, epochs=steps), z)
    mu = math.sqrt(steps) / z

    def excess(eps):
        return p * (norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)) - delta

    assert epsilon(event, delta) == pytest.approx(brentq(excess, 0.0, 50.0), rel=1e-3)


def test_clients_that_always_take_part_are_a_plain_composition():
    event = whole_event(training(1.0, 1.0, epochs=4, rounds=25), 10.0)
    assert epsilon(event, 1e-5) == pytest.approx(gdp_epsilon(math.sqrt(100) / 10.0, 1e-5), rel=1e-9)
    sampled = whole_event(training(1.0, 0.1, rounds=30), 1.0)
    flat = ev.SelfComposed(
        event=ev.PoissonSampled(sampling_rate=0.1, event=ev.Gaussian(noise_multiplier=1.0)), count=300
    )
    assert epsilon(sampled, 1e-5) == epsilon(flat, 1e-5)


@pytest.mark.parametrize(("p", "q", "z", "rounds"), [(0.25, 0.2, 1.0, 20), (0.5, 0.1, 0.8, 10), (0.9, 0.34, 2.0, 50)])
def test_agreement_with_dp_accounting_on_the_composed_event(p, q, z, rounds):
    from dp_accounting.pld import privacy_loss_distribution as library

    settings = training(p, q, rounds=rounds)
    steps = settings.local_steps
    one = library.from_gaussian_mechanism(z, sampling_prob=q, value_discretization_interval=1e-4)
    nothing = library.identity(1e-4)
    theirs = one.self_compose(steps).compute_mixture(nothing, p).self_compose(rounds).get_epsilon_for_delta(1e-5)
    found = compare_accountants(whole_event(settings, z), 1e-5, relation=ADD)
    assert found.at_fault == ()
    assert found.epsilons["pld"] == pytest.approx(theirs, rel=1e-5)
    assert found.epsilons["rdp"] >= found.epsilons["pld"]


def test_the_renyi_divergence_of_a_round_that_everybody_can_see():
    """exp((a - 1) D) = 1 - p + p exp((a - 1) S D_step): the mixing coin is part of the output."""
    p, q, z = 0.4, 0.2, 1.5
    settings = training(p, q)
    step = rdp_of(ev.PoissonSampled(sampling_rate=q, event=ev.Gaussian(noise_multiplier=z)), relation=ADD).values
    whole = rdp_of(round_event(settings, z), relation=ADD).values
    few = (ORDERS > 1.5) & (ORDERS < 20)
    logs = np.logaddexp(np.log1p(-p), np.log(p) + (ORDERS - 1) * settings.local_steps * step) / (ORDERS - 1)
    np.testing.assert_allclose(whole[few], logs[few], rtol=1e-9)


@pytest.mark.parametrize("relation", list(Relation))
def test_more_clients_more_steps_and_less_noise_cost_more(relation):
    def cost(p, q, epochs, z):
        return epsilon(whole_event(training(p, q, epochs=epochs, rounds=10), z), 1e-5, relation=relation)

    base = cost(0.3, 0.2, 1, 1.0)
    assert cost(0.6, 0.2, 1, 1.0) > base
    assert cost(0.3, 0.4, 1, 1.0) > base
    assert cost(0.3, 0.2, 2, 1.0) > base
    assert cost(0.3, 0.2, 1, 0.9) > base
    assert without_amplification(round_event(training(0.3, 0.2), 1.0)) == ev.SelfComposed(
        event=ev.Gaussian(noise_multiplier=1.0), count=5
    )


def test_epsilon_so_far_and_calibration_accept_the_event():
    settings = training(0.25, 0.2, rounds=40)
    running = RunningEpsilon(round_event(settings, 1.0), 1e-5)
    assert running.after(40) == pytest.approx(epsilon(whole_event(settings, 1.0), 1e-5), rel=0.02)
    z = accounting.calibrate_event(4.0, 1e-5, lambda z: whole_event(settings, z), accountant="pld")
    assert 4.0 * (1 - 1e-3) < epsilon(whole_event(settings, z), 1e-5) <= 4.0


def test_a_ledger_of_such_rounds_is_summed_up_and_less_noise_than_counted_on_is_refused():
    facts = {"unit": "example", "relation": "add-or-remove-one", "clip_norm": 1.0, "noise_stddev": 1.0}
    sampler = {"kind": "poisson", "client_rate": 0.25, "example_rate": 0.2}
    ledger = PrivacyLedger(**facts, sampler=sampler, units=1000, denominator=50.0)
    for number in range(10):
        ledger.record(round_event(training(0.25, 0.2), 1.0), round=number, noise_stddev=1.0)
    found = accounting.summarize(ledger, delta=1e-5, relation=ADD)
    assert found.epsilon_rdp >= found.epsilon_pld > 0
    wrong = PrivacyLedger(**{**facts, "noise_stddev": 0.5}, sampler=sampler)
    wrong.record(round_event(training(0.25, 0.2), 1.0), round=0)
    with pytest.raises(Exception, match="contradict the events"):
        wrong.epsilon(1e-5)
