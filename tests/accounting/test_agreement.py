import numpy as np
import pytest

from dpaudit import events as ev
from dpaudit.accounting import agreement, check_agreement, compare_accountants, epsilon
from dpaudit.errors import AccountantsDisagree
from dpaudit.records import AssumptionStatus, Relation

ADD, REPLACE = Relation.ADD_OR_REMOVE_ONE, Relation.REPLACE_ONE


def gaussian(z=1.0):
    return ev.Gaussian(noise_multiplier=z)


def dp_sgd(q, z, steps):
    return ev.SelfComposed(event=ev.PoissonSampled(sampling_rate=q, event=gaussian(z)), count=steps)


def test_dp_accountings_rdp_is_caught_under_replace_one():
    found = compare_accountants(gaussian(), 1e-5, relation=REPLACE)
    assert found.at_fault == ("dp-accounting rdp",)
    assert found.epsilons["dp-accounting rdp"] == pytest.approx(4.7285, abs=1e-4)
    assert found.epsilons["dp-accounting pld"] == pytest.approx(9.9973, abs=1e-4)
    assert "dp-accounting rdp gives 4.72851, under 9.99726" in found.explanation


def test_dp_accountings_rdp_is_caught_without_replacement():
    batch = ev.SampledWithoutReplacement(population=50000, sample_size=500, event=gaussian())
    found = compare_accountants(ev.SelfComposed(event=batch, count=1000), 1e-5, relation=REPLACE)
    assert found.at_fault == ("dp-accounting rdp",)
    assert found.epsilons["dp-accounting pld"] is None, "it has no PLD for sampling without replacement"


@pytest.mark.parametrize(
    ("event", "relation"),
    [
        (dp_sgd(0.01, 1.0, 1000), ADD),
        (dp_sgd(0.01, 1.0, 1000), REPLACE),
        (gaussian(), ADD),
        (ev.SelfComposed(event=ev.Laplace(noise_multiplier=2.0), count=10), ADD),
        (ev.Composed(events=(gaussian(2.0), dp_sgd(0.1, 2.0, 30))), ADD),
    ],
)
def test_nobody_is_at_fault_where_all_are_right(event, relation):
    found = compare_accountants(event, 1e-5, relation=relation)
    assert found.at_fault == ()
    ours, theirs = found.epsilons["pld"], found.epsilons["dp-accounting pld"]
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert found.epsilons["rdp"] >= ours


def test_an_event_without_a_pld_cannot_be_compared():
    found = compare_accountants(ev.RepeatAndSelect(event=gaussian(), mean=3, shape=1), 1e-5, relation=ADD)
    assert found.at_fault == ()
    assert found.epsilons["rdp"] == pytest.approx(found.epsilons["dp-accounting rdp"], rel=1e-9)


def test_a_renyi_bound_under_the_pld_is_an_error_that_names_it():
    with pytest.raises(AccountantsDisagree, match="the RDP accountant is at fault"):
        check_agreement(gaussian(), 1e-5, relation=ADD, epsilon_rdp=3.0, epsilon_pld=4.3)


def test_a_pld_that_dp_accounting_contradicts_is_an_error(monkeypatch):
    monkeypatch.setattr(agreement, "witness_epsilon", lambda *_, **__: 4.45)
    with pytest.raises(AccountantsDisagree, match=r"4\.37718 by our PLD accountant and 4\.45 by dp-accounting"):
        check_agreement(gaussian(), 1e-5, relation=ADD, epsilon_rdp=4.73, epsilon_pld=4.377)


def test_a_grid_that_is_too_coarse_accuses_nobody():
    event = dp_sgd(1e-6, 1.0, 10**9)
    rough = epsilon(event, 1e-6, discretization=1e-4)
    rdp = epsilon(event, 1e-6, "rdp")
    assert rough > 2 * rdp, "on dp-accounting's grid a thousand million steps are lost in rounding"
    item = check_agreement(event, 1e-6, relation=ADD, epsilon_rdp=rdp, epsilon_pld=rough)
    assert item.status == AssumptionStatus.VERIFIED
    assert epsilon(event, 1e-6) < rdp


def test_agreement_is_an_assumption_verified():
    pld = epsilon(gaussian(), 1e-5)
    item = check_agreement(gaussian(), 1e-5, relation=ADD, epsilon_rdp=5.0, epsilon_pld=pld)
    assert item.status == AssumptionStatus.VERIFIED
    assert "dp-accounting's own PLD" in item.text
    alone = check_agreement(gaussian(), 1e-5, relation=ADD, epsilon_rdp=5.0, epsilon_pld=pld, witness=False)
    assert "dp-accounting" not in alone.text
    assert alone.status == AssumptionStatus.VERIFIED
    nothing = check_agreement(gaussian(), 1e-5, relation=ADD, epsilon_rdp=5.0, epsilon_pld=None)
    assert nothing.status == AssumptionStatus.NOT_CHECKED


def random_step(rng):
    """Return one of the steps that both accountants know, with parameters from mild to hopeless."""
    rate, z = float(10 ** rng.uniform(-4, 0)), float(10 ** rng.uniform(-0.3, 1.3))
    size = int(rng.integers(1, 500))
    return [
        gaussian(z),
        ev.PoissonSampled(sampling_rate=rate, event=gaussian(z)),
        ev.PubliclySampled(sampling_rate=0.4, event=ev.PoissonSampled(sampling_rate=rate, event=gaussian(z))),
        ev.SampledWithoutReplacement(population=1000, sample_size=size, event=gaussian(2 * z)),
        ev.TruncatedPoissonGaussian(
            dataset_size=1000, sampling_rate=size / 1000, max_batch_size=int(1.2 * size) + 1, noise_multiplier=z
        ),
        ev.PoissonSampled(sampling_rate=rate, event=ev.Composed(events=(gaussian(z), gaussian(10.0)))),
    ][int(rng.integers(6))]


@pytest.mark.parametrize("relation", [ADD, REPLACE])
@pytest.mark.parametrize("seed", range(25))
def test_renyi_is_never_under_pld_on_random_configurations(seed, relation):
    rng = np.random.default_rng(seed)
    event = ev.SelfComposed(event=random_step(rng), count=int(10 ** rng.uniform(0, 4)))
    delta = float(10 ** rng.uniform(-9, -2))
    rdp, pld = (epsilon(event, delta, accountant, relation=relation) for accountant in ("rdp", "pld"))
    found = check_agreement(event, delta, relation=relation, epsilon_rdp=rdp, epsilon_pld=pld, witness=False)
    assert found.status == AssumptionStatus.VERIFIED
