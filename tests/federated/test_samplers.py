"""The samplers that choose among slots: what they draw, what is recorded, and what the checks of a run say of both."""

import numpy as np
import pytest

from dpaudit import accounting, events
from dpaudit.config import TrainingSection
from dpaudit.errors import UnsupportedEvent, UsageError
from dpaudit.federated import sampling
from dpaudit.federated.data import FederatedData
from dpaudit.federated.mechanism import round_event, rounds_per_event, sampled, whole_event
from dpaudit.federated.run_files import load_canary_participation, load_coins, load_participation, load_slots, open_run
from dpaudit.federated.sampling import Population
from dpaudit.federated.trainer import train
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import checks
from dpaudit.pipeline.design import attained_event
from dpaudit.pipeline.releases import releases_of
from dpaudit.records import Status
from dpaudit.verification import check_ledger

NOISE = events.Gaussian(noise_multiplier=1.3)
PEOPLE = Population(clients=60, client_of=None)


def training(sampler="shuffle", algorithm="dp-fedavg", rate=0.25, **more):
    more |= {"cohort_limit": 14} if sampler == "poisson-padded" else {}
    return TrainingSection(algorithm=algorithm, rounds=10, client_sampling_rate=rate, sampler=sampler, **more)


def cohorts(section, canaries=20, rounds=80, root=1):
    return [sampling.draw(section, PEOPLE, root=root, number=number, canaries=canaries) for number in range(rounds)]


def test_a_sample_without_replacement_has_one_size_and_canaries_are_in_it():
    drawn = np.array([cohort.draw.chosen for cohort in cohorts(training("without-replacement"))])
    assert set(drawn.sum(axis=1)) == {20}
    assert 0.15 < drawn[:, 60:].mean() < 0.35
    assert len({row.tobytes() for row in drawn}) == 80


def test_a_shuffled_pass_takes_everybody_once_and_passes_differ():
    drawn = np.array([cohort.draw.chosen for cohort in cohorts(training())])
    passes = drawn.reshape(20, 4, 80)
    assert (passes.sum(axis=1) == 1).all()
    assert len({one.tobytes() for one in passes}) == 20


def test_a_padded_cohort_never_exceeds_its_limit_and_the_cut_is_on_record():
    found = cohorts(training("poisson-padded"), rounds=200)
    drawn, chosen = (np.array([getattr(cohort.draw, name) for cohort in found]) for name in ("drawn", "chosen"))
    assert (chosen.sum(axis=1) == np.minimum(drawn.sum(axis=1), 14)).all()
    assert not (chosen & ~drawn).any()
    assert (drawn.sum(axis=1) > 14).mean() > 0.5
    assert sampling.largest_cohort(training("poisson-padded"), PEOPLE, canaries=20) == 14
    assert max(cohort.units.size for cohort in found) <= 14


def test_a_cohort_of_slots_depends_on_root_and_round_alone():
    for sampler in ("poisson-padded", "without-replacement", "shuffle"):
        alone = sampling.draw(training(sampler), PEOPLE, root=1, number=7, canaries=20)
        np.testing.assert_array_equal(alone.draw.chosen, cohorts(training(sampler), rounds=8)[7].draw.chosen)
        other = sampling.draw(training(sampler), PEOPLE, root=2, number=7, canaries=20)
        assert (other.draw.chosen != alone.draw.chosen).any()


def test_dropouts_leave_the_draw_as_it_is_and_examples_go_with_their_client():
    section = TrainingSection(
        algorithm="dp-fedsgd", rounds=4, client_sampling_rate=1.0, example_sampling_rate=0.25, sampler="shuffle",
        dropout_rate=0.4,
    )  # fmt: skip
    owner = np.arange(200, dtype=np.int32) % 10
    cohort = sampling.draw(section, Population(clients=10, client_of=owner), root=1, number=0, canaries=8)
    assert cohort.draw.chosen.sum() == 52
    assert 0 < cohort.dropouts < 10
    assert cohort.answered[owner[cohort.units]].all()
    assert cohort.units.size == (cohort.draw.chosen[:200] & cohort.answered[owner]).sum()


def test_the_denominator_is_fixed():
    assert sampling.expected_contributions(training(), PEOPLE) == 15
    assert sampling.expected_contributions(training("without-replacement"), PEOPLE) == 15
    assert sampling.expected_contributions(training("poisson-padded"), PEOPLE) == 15


@pytest.mark.parametrize(
    ("sampler", "event"),
    [
        ("without-replacement", events.SampledWithoutReplacement(population=80, sample_size=20, event=NOISE)),
        ("shuffle", events.ShuffledBatches(batches=4, event=NOISE)),
        (
            "poisson-padded",
            events.TruncatedPoissonGaussian(
                dataset_size=80, sampling_rate=0.25, max_batch_size=14, noise_multiplier=1.3
            ),
        ),
    ],
)
def test_each_sampler_is_recorded_as_what_it_is(sampler, event):
    assert round_event(training(sampler), 1.3, slots=80) == event


def test_passes_and_trees_that_are_not_finished_are_counted():
    assert whole_event(training(), 1.3) == events.SelfComposed(event=round_event(training(), 1.3), count=3)
    ftrl = training(algorithm="dp-ftrl")
    assert whole_event(ftrl, 1.3) == events.TreeAggregation(noise_multiplier=1.3, steps=(4, 4, 2))
    assert rounds_per_event(ftrl) == rounds_per_event(training()) == 4


def test_what_cannot_be_accounted_for_is_refused():
    with pytest.raises(UsageError, match="slots"):
        round_event(training("without-replacement"), 1.3)
    with pytest.raises(UnsupportedEvent, match="plain Gaussian"):
        sampled(training("poisson-padded"), events.Composed(events=(NOISE, NOISE)), slots=80)


def test_a_lower_bound_composes_what_a_cut_sample_attains_and_no_more(make_config):
    config = make_config(client_level=True, training={"sampler": "poisson-padded", "cohort_limit": 14, "rounds": 10})
    attained = attained_event(config, 1.3, slots=30)
    upper = whole_event(config.training, 1.3, slots=30)
    assert 0 < attained.event.sampling_rate < 14 / 30
    assert accounting.epsilon(attained, 1e-5) < accounting.epsilon(upper, 1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {"sampler": "shuffle", "client_sampling_rate": 0.4},
        {"sampler": "poisson-padded"},
        {"cohort_limit": 5},
        {"algorithm": "dp-ftrl", "sampler": "poisson"},
        {"algorithm": "dp-fedsgd", "sampler": "shuffle", "client_sampling_rate": 0.5},
    ],
)
def test_samplers_that_do_not_fit_are_refused(body):
    with pytest.raises(ValueError, match=r"training|sampl"):
        TrainingSection.model_validate({"algorithm": "dp-fedavg", "rounds": 3, "client_sampling_rate": 0.5, **body})


def go(config, data: FederatedData, out, resume=False):
    train(
        config, data, root=5, out=out, noise_multiplier=1.1, resume=resume, progress=lambda done, total: None,
        ledger_facts={"noise_multiplier": 1.1},
    )  # fmt: skip
    return open_run(out)


CONFIGS = [
    ("without-replacement", "dp-fedavg", {}),
    ("shuffle", "dp-fedavg", {}),
    ("poisson-padded", "dp-fedavg", {"cohort_limit": 9}),
    ("shuffle", "dp-fedsgd", {"client_sampling_rate": 1.0, "example_sampling_rate": 0.25}),
    ("shuffle", "dp-ftrl", {"server_momentum": 0.5}),
    ("shuffle", "dp-ftrl", {"aggregator": "tfp-tree"}),
]


@pytest.mark.parametrize(("sampler", "algorithm", "more"), CONFIGS)
def test_a_run_is_what_its_ledger_says_and_the_checks_see_a_forgery(
    make_config, data, tmp_path, sampler, algorithm, more
):
    config = make_config(
        client_level=algorithm != "dp-fedsgd",
        training={"algorithm": algorithm, "sampler": sampler, "client_sampling_rate": 0.25, "rounds": 16, **more},
    )
    run = go(config, data, tmp_path)
    ledger = PrivacyLedger.open(run.ledger)
    slots = run.units + 20
    recorded = events.Composed(events=tuple(entry.event for entry in ledger.events()))
    planned = whole_event(config.training, 1.1, slots=slots)
    assert accounting.epsilon(recorded, 1e-5) == pytest.approx(accounting.epsilon(planned, 1e-5), rel=1e-6)
    wrong = [c for c in check_ledger(ledger, rounds_run=16, noise_draws=16) if c.status != Status.PASS]
    assert not wrong
    coins, took_part, found = load_coins(tmp_path), load_canary_participation(tmp_path), load_slots(tmp_path)
    known = {"coins": coins, "eligible": run.canary_eligible(), "chosen": found[1][:, run.units :]}
    good = checks.check_canaries(config, participation=took_part, **known)
    assert all(check.status == Status.PASS for check in good)
    others = {"eligible": run.eligible, "client_of": data.train.client, "slots": found, "root": 5}
    arrived = load_participation(tmp_path)
    honest = checks.check_sampling(config, participation=arrived, **others)
    assert all(check.status != Status.FAIL for check in honest), honest
    assert Status.FAIL in {c.status for c in checks.check_sampling(config, participation=~arrived, **others)}
    took_part[0] = ~took_part[0] & coins
    assert Status.FAIL in {c.status for c in checks.check_canaries(config, participation=took_part, **known)}


@pytest.mark.parametrize(("sampler", "algorithm", "more"), CONFIGS)
def test_an_interrupted_run_leaves_the_same_ledger(make_config, data, tmp_path, sampler, algorithm, more):
    config = make_config(
        client_level=algorithm != "dp-fedsgd",
        training={"algorithm": algorithm, "sampler": sampler, "client_sampling_rate": 0.25, "rounds": 7, **more},
    )
    whole = go(config, data, tmp_path / "whole")

    def stop(done: int, _total: int) -> None:
        if done == 5:
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        train(config, data, root=5, out=tmp_path / "broken", noise_multiplier=1.1, resume=False, progress=stop,
              ledger_facts={"noise_multiplier": 1.1})  # fmt: skip
    broken = go(config, data, tmp_path / "broken", resume=True)
    entries = [PrivacyLedger.open(run.ledger).entries for run in (whole, broken)]
    assert [e.hash for e in entries[0]] == [e.hash for e in entries[1]]
    np.testing.assert_array_equal(whole.observations, broken.observations)


def test_releases_of_trees_are_nodes_with_fresh_noise(make_config, data, tmp_path):
    config = make_config(
        client_level=True, training={"algorithm": "dp-ftrl", "client_sampling_rate": 0.25, "rounds": 8}
    )
    run = go(config, data, tmp_path)
    found = releases_of(config, run, PrivacyLedger.open(run.ledger), load_canary_participation(tmp_path))
    coins = load_coins(tmp_path)
    assert found.plain.tolist() == [True, False, True, False] * 2
    assert not found.present[:, ~coins].any()
    assert (found.present[3] == coins).all(), "the node over a whole pass holds everybody who is in"
    noise = found.observations - found.present
    assert 0.7 < noise.std() / 1.1 < 1.3
