import numpy as np
import pytest
from scipy.stats import chi2

from dpaudit import accounting
from dpaudit.events import NoOp, TreeAggregation
from dpaudit.federated.trees import TreeSum, lowest_bit, replaced_nodes
from dpaudit.pipeline.releases import node_sizes, over_nodes

WIDTH, PERIOD = 4000, 11


def tree(rounds=25, **options):
    return TreeSum(**{"clip_norm": 0.5, "noise_multiplier": 1.2, "period": PERIOD, "rounds": rounds, **options})


def released(aggregator, rounds=25, root=1, width=WIDTH):
    state, found = aggregator.start(width=width, root=root), []
    for number in range(rounds):
        noised = aggregator.noised(np.zeros(width), state=state, root=root, number=number, attempt=0)
        state = noised.state
        found.append(noised)
    return found


def test_the_nodes_of_a_prefix_are_its_binary_digits():
    inside = []
    for position in range(1, 200):
        for node in replaced_nodes(position):
            inside.remove(node)
        inside.append((lowest_bit(position), position))
        sizes = [size for size, _ in inside]
        assert sum(sizes) == position
        assert len(sizes) == position.bit_count() == len(set(sizes))


@pytest.mark.statistical(failure_probability=1e-6)
def test_sums_over_rounds_carry_one_draw_per_digit_and_nothing_piles_up():
    noise = np.array([noised.vector for noised in released(tree())])
    share = 1e-6 / 25
    for start in (0, PERIOD, 2 * PERIOD):
        sums = np.cumsum(noise[start : start + PERIOD], axis=0)
        for position, vector in enumerate(sums, start=1):
            low, high = chi2.ppf([share / 2, 1 - share / 2], WIDTH)
            assert low < (vector**2).sum() / (0.36 * position.bit_count()) < high


@pytest.mark.statistical(failure_probability=1e-6)
def test_every_round_gives_one_node_whose_noise_no_other_has():
    noise = np.array([noised.vector for noised in released(tree())])
    starts = np.arange(25) // PERIOD * PERIOD
    nodes = over_nodes(noise, starts)
    low, high = chi2.ppf([5e-7, 1 - 5e-7], nodes.size)
    assert low < (nodes**2).sum() / 0.36 < high
    assert np.abs(np.corrcoef(nodes) - np.eye(25)).max() < 6 / np.sqrt(WIDTH)
    assert node_sizes(starts)[:9].tolist() == [1, 2, 1, 4, 1, 2, 1, 8, 1]


def test_a_tree_is_paid_for_in_its_first_round_and_the_last_one_for_what_is_left():
    events = [noised.event for noised in released(tree(), width=1)]
    assert [number for number, event in enumerate(events) if event != NoOp()] == [0, 11, 22]
    assert [events[number].steps for number in (0, 11, 22)] == [(11,), (11,), (3,)]
    assert [noised.covered_by for noised in released(tree(), width=1)][:3] == [None, 0, 0]
    whole = TreeAggregation(noise_multiplier=1.2, steps=(11, 11, 3))
    assert accounting.epsilon(whole, 1e-5) == pytest.approx(accounting.epsilon(_composed(events), 1e-5))


def _composed(events):
    from dpaudit.events import Composed

    return Composed(events=tuple(events))


def test_a_round_that_is_noised_afresh_starts_a_new_tree_with_its_own_cost():
    aggregator = tree()
    before = released(aggregator, rounds=4, width=50)
    state = before[-1].state
    again = aggregator.noised(np.zeros(50), state=state, root=1, number=4, attempt=1)
    assert again.event == TreeAggregation(noise_multiplier=1.2, steps=(7,))
    first = aggregator.noised(np.zeros(50), state=state, root=1, number=4, attempt=0)
    assert np.abs(np.corrcoef(first.vector, again.vector)[0, 1]) < 0.7
    after = aggregator.noised(np.zeros(50), state=again.state, root=1, number=5, attempt=0)
    assert after.covered_by == 4
    np.testing.assert_allclose(
        after.vector + again.vector,
        aggregator.noised(np.zeros(50), state=again.state, root=1, number=5, attempt=0).vector + again.vector,
    )
    assert aggregator.noised(np.zeros(50), state=after.state, root=1, number=11, attempt=0).event.steps == (11,)


def test_a_round_depends_on_root_round_and_start_of_the_tree_alone():
    state = tree().start(width=9, root=1)
    alone = tree().noised(np.zeros(9), state=state, root=1, number=6, attempt=0).vector
    np.testing.assert_array_equal(alone, released(tree(), width=9)[6].vector)
    assert np.abs(alone - released(tree(), width=9, root=2)[6].vector).min() > 0


def test_the_planted_fault_halves_the_noise_and_nothing_that_is_said():
    honest, broken = released(tree(), width=5), released(tree(noise_factor=0.5), width=5)
    np.testing.assert_allclose([n.vector for n in broken], [n.vector / 2 for n in honest])
    assert [n.event for n in broken] == [n.event for n in honest]
