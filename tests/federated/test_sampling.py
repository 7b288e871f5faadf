import numpy as np
import pytest
from scipy.stats import binom

from dpaudit.federated import canaries, sampling
from dpaudit.federated.sampling import Population

ROUNDS = 400
CLIENT_OF = np.arange(200, dtype=np.int32) % 20


def cohorts(training, population, root=1, rounds=ROUNDS):
    return [sampling.draw(training, population, root=root, number=number) for number in range(rounds)]


def inside(count: int, n: int, p: float) -> bool:
    low, high = binom.ppf([1e-8, 1 - 1e-8], n, p)
    return bool(low <= count <= high)


@pytest.mark.statistical(failure_probability=1e-6)
def test_client_cohorts_are_poisson(make_config):
    training = make_config(client_level=True, training={"client_sampling_rate": 0.3}).training
    drawn = np.array([c.answered for c in cohorts(training, Population(clients=50, client_of=None))])
    assert inside(int(drawn.sum()), drawn.size, 0.3)
    sizes = drawn.sum(axis=1)
    variance_ratio = sizes.var() / (50 * 0.3 * 0.7)
    assert 0.5 < variance_ratio < 1.7  # a fixed cohort size has variance 0; the ratio of 400 sizes has sd 0.07
    assert all(inside(int(n), ROUNDS, 0.3) for n in drawn.sum(axis=0))


@pytest.mark.statistical(failure_probability=1e-6)
def test_examples_are_sampled_within_answering_clients_only(make_config):
    config = make_config(training={"client_sampling_rate": 0.5, "example_sampling_rate": 0.2, "dropout_rate": 0.1})
    population = Population(clients=20, client_of=CLIENT_OF)
    drawn = cohorts(config.training, population)
    assert all(c.answered[CLIENT_OF[c.units]].all() for c in drawn)
    assert all((c.sampled | ~c.answered).all() for c in drawn)
    assert all(c.dropouts == (c.sampled & ~c.answered).sum() for c in drawn)
    answered = sum(int(c.answered[CLIENT_OF].sum()) for c in drawn)
    assert inside(sum(c.units.size for c in drawn), answered, 0.2)
    assert inside(sum(int(c.sampled.sum()) for c in drawn), 20 * ROUNDS, 0.5)
    assert inside(sum(c.dropouts for c in drawn), sum(int(c.sampled.sum()) for c in drawn), 0.1)


def test_a_cohort_depends_on_root_and_round_alone(make_config):
    training = make_config(training={"example_sampling_rate": 0.5}).training
    population = Population(clients=20, client_of=CLIENT_OF)
    alone = sampling.draw(training, population, root=1, number=7)
    np.testing.assert_array_equal(alone.units, cohorts(training, population, rounds=8)[7].units)
    others = [c.units.tolist() for c in cohorts(training, population)]
    assert len({tuple(units) for units in others}) == ROUNDS
    assert sampling.draw(training, population, root=2, number=7).units.tolist() != alone.units.tolist()


def test_the_denominator_is_the_expected_cohort_before_dropouts(make_config):
    training = make_config(
        training={"client_sampling_rate": 0.5, "example_sampling_rate": 0.2, "dropout_rate": 0.5}
    ).training
    assert sampling.expected_contributions(training, Population(clients=20, client_of=CLIENT_OF)) == pytest.approx(20.0)
    client_level = make_config(client_level=True, training={"client_sampling_rate": 0.1}).training
    assert sampling.expected_contributions(client_level, Population(clients=80, client_of=None)) == pytest.approx(8.0)


@pytest.mark.statistical(failure_probability=1e-6)
def test_canary_coins_are_fair_and_canaries_obey_the_sampler_of_examples(make_config):
    config = make_config(canaries={"count": 2000}, training={"client_sampling_rate": 0.5, "example_sampling_rate": 0.2})
    population = Population(clients=20, client_of=CLIENT_OF)
    fakes = canaries.make_canaries(config.canaries, population, root=1)
    assert inside(int(fakes.coins.sum()), 2000, 0.5)
    assert np.bincount(fakes.client).tolist() == [100] * 20
    chances = 0
    present = 0
    for cohort in cohorts(config.training, population, rounds=50):
        here = canaries.takes_part(fakes, config.training, cohort, root=1)
        able = cohort.answered[fakes.client] & fakes.coins
        assert not (here & ~able).any()
        chances, present = chances + int(able.sum()), present + int(here.sum())
    assert inside(present, chances, 0.2)


@pytest.mark.statistical(failure_probability=1e-6)
def test_client_canaries_are_clients_of_their_own_that_always_answer(make_config):
    config = make_config(
        client_level=True, canaries={"count": 500}, training={"client_sampling_rate": 0.1, "dropout_rate": 0.9}
    )
    population = Population(clients=20, client_of=None)
    fakes = canaries.make_canaries(config.canaries, population, root=1)
    assert fakes.client.tolist() == list(range(20, 520))
    present = sum(
        int(canaries.takes_part(fakes, config.training, cohort, root=1).sum())
        for cohort in cohorts(config.training, population, rounds=100)
    )
    assert inside(present, 100 * int(fakes.coins.sum()), 0.1)


def test_a_canary_asks_for_more_than_the_clip_norm_along_its_own_coordinate(make_config):
    config = make_config(canaries={"count": 5, "norm_factor": 10.0})
    fakes = canaries.make_canaries(config.canaries, Population(clients=6, client_of=CLIENT_OF), root=1)
    present = np.array([True, False, False, True, False])
    (block,) = canaries.contributions(fakes, present, parameters=3, clip_norm=0.5)
    expected = np.zeros((2, 8))
    expected[0, 3] = expected[1, 6] = 5.0
    np.testing.assert_array_equal(block.rows, expected)
    assert list(canaries.contributions(fakes, np.zeros(5, bool), parameters=3, clip_norm=0.5)) == []
