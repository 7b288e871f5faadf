"""Canaries in the model's own directions, as data and as clients: their examples, coins, gates and samplers."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit import config as configuration
from dpaudit.config import CanaryFamily
from dpaudit.errors import ConfigError, DataError, UsageError
from dpaudit.federated import canary_data, canary_sources, models
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import make_canaries
from dpaudit.federated.canary_families import gradient_source, make_families, make_family
from dpaudit.federated.canary_sources import Moment
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import Block
from dpaudit.federated.data import FederatedData, prepare
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger

ROOT = 2**90 + 1
P = 300
EXAMPLES = Population(clients=4, client_of=(np.arange(40) % 4).astype(np.int32))
CLIENTS = Population(clients=5, client_of=None)
AT = Moment(number=3, weights=np.zeros(P), clip_norm=2.0)


def section(kind, count=50, **keys):
    return CanaryFamily.model_validate({"kind": kind, "count": count, **keys})


def gradient(kind, *, count=50, population=EXAMPLES, parameters=P, first=0, **keys):
    wanted = section(kind, count, **keys)
    source = gradient_source(wanted, parameters=parameters, root=ROOT)
    return make_family(wanted, source, population, first=first, root=ROOT)


def rows_of(family, wanted, at=AT):
    return np.concatenate([block.rows for block in family.source.contributions(wanted, at)])


# --- configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ('kind = "dirac"\ncount = 3', "'random', 'chosen'"),
        ('kind = "random"', "missing key 'canaries.family.0.count'"),
        ('kind = "random"\ncount = 0', "greater than or equal to 1"),
        ('kind = "random"\ncount = 3\nname = "A/b"', "pattern"),
        ('kind = "random"\ncount = 3\nname = "coins"', "cannot be called 'coins'"),
        ('kind = "random"\ncount = 3\ncoordinates = [1, 2, 3]', "coordinates belongs to canaries of kind chosen"),
        ('kind = "chosen"\ncount = 3\ncoordinates = [1, 2, 2]', "3 different numbers"),
        ('kind = "chosen"\ncount = 2\ncoordinates = [1, -2]', "greater than or equal to 0"),
        ('kind = "blank"\ncount = 3\nnorm_factor = 2.0', "norm_factor belongs to canaries of kind random or chosen"),
        ('kind = "blank"\ncount = 3\nvalue = 2.0', "value belongs to canaries of kind feature"),
        ('kind = "blank"\ncount = 3\nexamples = 2', "examples belongs to client-level privacy"),
        ('kind = "random"\ncount = 3\n[[canaries.family]]\nkind = "random"\ncount = 2', "two canary families"),
        ('kind = "random"\ncount = 3\ncuont = 2', "Did you mean 'count'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_the_configuration(family, message):
    text = f"""
[run]
name = "x"
[claim]
epsilon = 8.0
delta = 1e-5
unit = "example"
[data]
source = "digits"
[partition]
clients = 5
[training]
algorithm = "dp-fedsgd"
rounds = 3
client_sampling_rate = 0.5
[[canaries.family]]
{family}
"""
    with pytest.raises(ConfigError) as error:
        configuration.parse(text)
    assert message in str(error.value)


def test_a_family_is_named_after_its_kind_and_counts_among_the_canaries(make_config):
    families = [{"kind": "feature", "count": 3}, {"kind": "chosen", "count": 4, "name": "own"}]
    canaries = make_config(canaries={"family": families}).canaries
    assert [family.name for family in canaries.family] == ["feature", "own"]
    assert (canaries.total, canaries.private_features) == (27, 3)


# --- directions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "chosen"])
def test_what_is_seen_of_a_canary_is_its_inner_product_with_the_sum(kind):
    family, total = gradient(kind, count=20), np.random.default_rng(0).normal(size=P)
    rows = rows_of(family, np.arange(20))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 20.0, rtol=1e-6)
    units = rows.astype(float) / np.linalg.norm(rows, axis=1, keepdims=True)
    seen, sizes = family.source.observe(total, AT)
    np.testing.assert_allclose(seen, units @ total / 2.0, atol=1e-6)
    np.testing.assert_array_equal(sizes, 1.0)
    small = gradient(kind, count=20, norm_factor=0.25)
    np.testing.assert_array_equal(small.source.observe(total, AT)[1], 0.25)


def test_chosen_coordinates_are_those_of_the_configuration():
    family = gradient("chosen", count=2, coordinates=[7, 3])
    assert np.argwhere(rows_of(family, np.arange(2))).tolist() == [[0, 7], [1, 3]]
    with pytest.raises(UsageError, match="from 0 to 299"):
        gradient("chosen", count=1, coordinates=[P])
    with pytest.raises(UsageError, match="300 parameters"):
        gradient("chosen", count=P + 1)


def test_directions_do_not_depend_on_memory_nor_on_the_size_of_blocks(monkeypatch):
    whole, total = rows_of(gradient("random", count=7), np.arange(7)), np.random.default_rng(1).normal(size=P)
    seen, _ = gradient("random", count=7).source.observe(total, AT)
    monkeypatch.setattr(canary_sources, "_BLOCK_BYTES", 4 * P * 2)
    monkeypatch.setattr(canary_sources, "_KEPT_BYTES", 0)
    family = gradient("random", count=7)
    parts = list(family.source.contributions(np.arange(7), AT))
    assert [block.units.size for block in parts] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([block.rows for block in parts]), whole)
    np.testing.assert_array_equal(family.source.observe(total, AT)[0], seen)


@pytest.mark.statistical(failure_probability=1e-6)
def test_coins_are_fair_and_families_do_not_share_them():
    one, two = (gradient("random", count=4000, name=name) for name in ("one", "two"))
    low, high = binom.ppf(1e-7, 4000, 0.5), binom.isf(1e-7, 4000, 0.5)
    for count in (one.coins.sum(), two.coins.sum(), (one.coins == two.coins).sum()):
        assert low <= count <= high
    assert not np.array_equal(rows_of(one, np.arange(2)), rows_of(two, np.arange(2)))


# --- examples --------------------------------------------------------------------------------------------------


def test_data_canaries_are_what_they_say_and_hold_nobody_elses_data(blobs):
    data = canary_data.with_private_features(blobs(40, clients=4), 5)
    assert data.x.shape == (40, 9)
    assert not data.x[:, 4:].any()
    feature = canary_data.canary_examples(section("feature", 5, value=3.0), data, first_feature=4, root=ROOT)
    np.testing.assert_array_equal(feature.x, np.hstack([np.zeros((5, 4)), 3 * np.eye(5)]))
    blank = canary_data.canary_examples(section("blank", 3, examples=2), data, root=ROOT)
    assert not blank.x.any()
    assert (blank.y.tolist(), blank.client.tolist()) == ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    originals, rest = canary_data.set_aside(data, 12, by_client=False, root=ROOT)
    wrong = canary_data.canary_examples(section("mislabelled", 12), data, originals, root=ROOT)
    assert (wrong.y != originals.y).all()
    np.testing.assert_array_equal(wrong.x, originals.x)
    kept, taken = ({row.tobytes() for row in part.x} for part in (rest, wrong))
    assert (len(kept), len(taken)) == (28, 12)
    assert not kept & taken


def test_a_mislabelled_client_holds_one_held_out_device(blobs):
    held = blobs(60, clients=6)
    originals, rest = canary_data.set_aside(held, 3, by_client=True, root=ROOT)
    assert np.bincount(originals.client).tolist() == [10] * 3
    assert np.bincount(rest.client).tolist() == [10] * 3
    owner = {row.tobytes(): device for row, device in zip(held.x, held.client, strict=True)}
    for canary in range(3):
        assert len({owner[row.tobytes()] for row in originals.x[originals.client == canary]}) == 1
    few = canary_data.canary_examples(section("mislabelled", 3, examples=4), held, originals, root=ROOT)
    assert np.bincount(few.client).tolist() == [4] * 3
    with pytest.raises(DataError, match="at most 3 such canaries"):
        canary_data.set_aside(held, 4, by_client=True, root=ROOT)


def test_prepare_makes_room_for_canaries_and_sets_originals_aside(make_config):
    families = [{"kind": "feature", "count": 7}, {"kind": "mislabelled", "count": 30}]
    plain, found = (prepare(make_config(canaries=c), root=1) for c in ({}, {"family": families}))
    assert found.train.x.shape == (plain.train.y.size, 64 + 7)
    np.testing.assert_array_equal(found.train.x[:, :64], plain.train.x)
    assert not found.train.x[:, 64:].any()
    assert (found.holdout.y.size, found.originals.y.size) == (plain.holdout.y.size - 30, 30)
    assert (plain.originals, plain.train.x.shape[1]) == (None, 64)


def test_data_that_do_not_fit_are_refused(blobs, make_config, data):
    pictures = dataclasses.replace(blobs(20), x=np.zeros((20, 2, 2), np.float32))
    with pytest.raises(UsageError, match="vectors"):
        canary_data.with_private_features(pictures, 2)
    with pytest.raises(UsageError, match="at most 3 are possible"):
        canary_data.canary_examples(section("blank", 4), blobs(20), root=1)
    with pytest.raises(UsageError, match="two classes"):
        canary_data.canary_examples(section("mislabelled", 4), dataclasses.replace(data.train, classes=1), root=1)


# --- the server ------------------------------------------------------------------------------------------------

ALL = (
    {"kind": "random", "count": 30},
    {"kind": "chosen", "count": 25},
    {"kind": "feature", "count": 6},
    {"kind": "mislabelled", "count": 8},
    {"kind": "mislabelled", "count": 4, "name": "more"},
    {"kind": "blank", "count": 3},
)


def setting(make_config, data, *, client_level=False, families=ALL, noise=0.0, canaries=10, aggregator=None, **train):
    pytest.importorskip("tensorflow")
    config = make_config(
        client_level=client_level, training={"clip_norm": 1.5, **train},
        canaries={"family": list(families), "count": canaries},
    )  # fmt: skip
    wide = config.canaries.private_features
    held = canary_data.with_private_features(data.holdout, wide)
    if client_level:
        held = dataclasses.replace(held, client=(np.arange(held.y.size) % 30).astype(np.int32))
    originals, rest = canary_data.set_aside(held, 12, by_client=client_level, root=ROOT)
    data = FederatedData(
        train=canary_data.with_private_features(data.train, wide), holdout=rest, clients=6, originals=originals
    )
    model = models.mlp(data.train.x.shape[1:], 3, hidden=(6,), root=1)
    functions, weights = ClientFunctions(model, data.train.x.shape[1:]), models.get_weights(model)
    population = Population(clients=6, client_of=None if client_level else data.train.client)
    plan = Plan(
        training=config.training, population=population, root=ROOT, direction=1.0,
        canaries=make_canaries(config.canaries, population, root=ROOT),
        families=make_families(config, data, population, functions, noise_multiplier=1.0, root=ROOT),
    )  # fmt: skip
    server = Server(
        plan, aggregator=aggregator or GaussianSum(clip_norm=1.5, noise_multiplier=noise),
        optimizer=make_optimizer(config.training), weights=weights, ledger=PrivacyLedger(),
    )  # fmt: skip
    return server, plan


SAMPLERS = [
    {"client_level": False},
    {"client_level": True, "dropout_rate": 0.3},
    {"client_level": True, "sampler": "without-replacement"},
    {"client_level": True, "sampler": "poisson-padded", "cohort_limit": 9},
    {"client_level": True, "sampler": "shuffle", "client_sampling_rate": 0.25},
    {"client_level": False, "sampler": "shuffle", "client_sampling_rate": 1.0, "example_sampling_rate": 0.25},
    {"client_level": True, "algorithm": "dp-ftrl", "client_sampling_rate": 0.25},
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_families_pass_the_gates_of_everybody_with_every_sampler(make_config, data, sampler):
    """The sum is that of single rows, clipped one by one: of those whose coin says in and whom the sampler chose."""
    server, plan = setting(make_config, data, **sampler)
    assert plan.slots == plan.population.units + 10 + sum(family["count"] for family in ALL)
    firsts = [family.slot for family in plan.families]
    assert firsts == [plan.population.units + 10 + n for n in (0, 30, 55, 61, 69, 73)]
    parameters, someone = server.weights.size, 0
    for number in range(3):
        cohort = server.cohort(number)
        collected = server.collect(cohort, [])
        assert collected.total.shape == (parameters + 10,)
        at = Moment(number=number, weights=server.weights, clip_norm=1.5)
        expected = np.zeros(parameters)
        for family, present in zip(plan.families, collected.families, strict=True):
            assert not present[~family.coins].any()
            if not sampler["client_level"]:
                assert not present[~cohort.answered[family.client]].any()
            if cohort.draw is not None:
                chosen = cohort.draw.chosen[family.slot : family.slot + family.count]
                np.testing.assert_array_equal(present, family.coins & chosen & family.eligible(cohort))
            someone += present.sum()
            expected += slow_sum(family, np.flatnonzero(present), at)
        np.testing.assert_allclose(collected.total[:parameters], expected, atol=2e-5)
        assert not collected.rejected
    assert someone > 10


def slow_sum(family, wanted, at):
    """Each canary alone, as a single row, by the definition of the clip."""
    total = np.zeros(at.weights.size)
    for unit in wanted:
        source = family.source
        if isinstance(source, canary_sources.Examples):
            cohort = canary_sources._cohort(at.number, np.array([unit]))
            (block,) = source.observer.run_cohort(at.weights, cohort)
        else:
            (block,) = source.contributions(np.array([unit]), at)
        (row,) = np.asarray(block.rows, float)
        total += row * min(1.0, at.clip_norm / max(np.linalg.norm(row), 1e-30))
    return total


@pytest.mark.statistical(failure_probability=1e-6)
def test_poisson_canaries_take_part_at_the_rate_of_real_units(make_config, data):
    server, plan = setting(make_config, data, families=[{"kind": "random", "count": 400}], client_level=True)
    inside = sum(int(server.collect(server.cohort(n), []).families[0].sum()) for n in range(20))
    trials = 20 * int(plan.families[0].coins.sum())
    assert binom.ppf(5e-7, trials, 0.6) <= inside <= binom.isf(5e-7, trials, 0.6)


@pytest.mark.parametrize("client_level", [False, True])
def test_what_is_seen_of_one_data_canary_alone_is_its_size(make_config, data, client_level):
    for family in ALL[2:4]:
        server, plan = setting(
            make_config, data, families=[family], client_level=client_level, client_sampling_rate=1.0, canaries=0,
        )  # fmt: skip
        (made,) = plan.families
        at = Moment(number=0, weights=server.weights, clip_norm=1.5)
        alone = slow_sum(made, [2], at)
        seen, sizes = made.source.observe(alone, at)
        assert 0 < sizes[2] <= 1
        np.testing.assert_allclose(seen[2], sizes[2], rtol=1e-4)
        assert (np.abs(seen) <= 1 + 1e-6).all()


def test_the_direction_of_a_data_canary_avoids_what_others_add():
    """Four gradients that share a coordinate, which real units use, too: the matched filter looks at the others."""
    rows = np.zeros((4, 6), np.float32)
    rows[:, 0], rows[np.arange(4), 1 + np.arange(4)] = 3.0, 1.0

    class Fixed:
        def run_cohort(self, weights, cohort):
            yield Block(units=cohort.units, rows=rows[cohort.units])

    source = canary_sources.Examples(count=4, sender=Fixed(), observer=Fixed(), noise_multiplier=1.0)
    at = Moment(number=0, weights=np.zeros(6), clip_norm=2.0)
    quiet, loud = np.zeros(6), np.zeros(6)
    loud[0] = 2000.0
    unit = rows / np.sqrt(10)
    _, sizes = source.observe(quiet, at)
    spread = 1 + (unit**2).sum(axis=0)
    filters = unit / spread / np.linalg.norm(unit / spread, axis=1, keepdims=True)
    np.testing.assert_allclose(sizes, (filters * unit).sum(axis=1), rtol=1e-6)
    seen, sizes = source.observe(loud, at)
    np.testing.assert_allclose(sizes, np.sqrt(0.1), rtol=1e-2)
    assert np.abs(seen).max() < 0.01


def test_a_canary_without_a_finite_gradient_is_left_out_and_seen_as_nothing(make_config, data):
    server, plan = setting(make_config, data, families=[ALL[2]], client_sampling_rate=1.0)
    (family,) = plan.families
    engine = family.source.observer

    class Broken:
        def run_cohort(self, weights, cohort):
            for block in engine.run_cohort(weights, cohort):
                rows = np.array(block.rows)
                rows[block.units == 1], rows[block.units == 4] = np.nan, 0.0
                yield Block(units=block.units, rows=rows)

    broken = dataclasses.replace(family.source, sender=Broken(), observer=Broken())
    present = dataclasses.replace(family, source=broken, coins=np.ones(6, bool))
    plan = dataclasses.replace(plan, families=(present,))
    server = Server(
        plan, aggregator=GaussianSum(clip_norm=1.5, noise_multiplier=0.0), weights=server.weights,
        optimizer=server.optimizer, ledger=PrivacyLedger(),
    )  # fmt: skip
    collected = server.collect(server.cohort(0), [])
    assert np.isfinite(collected.total).all()
    assert [(item.unit, item.reason) for item in collected.rejected] == [(-1 - 10 - 1, "NaN or infinity")]
    seen, sizes = broken.observe(np.ones(server.weights.size), Moment(number=0, weights=server.weights, clip_norm=1.5))
    assert (seen[[1, 4]] == 0).all()
    assert (sizes[[1, 4]] == 0).all()
    assert (sizes[[0, 2, 3, 5]] > 0).all()
