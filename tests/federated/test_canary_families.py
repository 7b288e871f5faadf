"""Canaries in the model's own directions, as data and as clients: independent coins, the clip, the files, the audit."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit import estimation
from dpaudit.attacks import canary as attack
from dpaudit.config import TrainingSection
from dpaudit.errors import DataError, UsageError
from dpaudit.federated import canary_families as families
from dpaudit.federated import canary_log, models, sampling
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import clipped_sum, screen
from dpaudit.federated.engine import FedAvgEngine, FedSgdEngine
from dpaudit.federated.sampling import Population

ROOT = 2**90 + 1
P = 300
EXAMPLES = Population(clients=4, client_of=(np.arange(40) % 4).astype(np.int32))
CLIENTS = Population(clients=5, client_of=None)
FEDSGD = TrainingSection(algorithm="dp-fedsgd", rounds=9, client_sampling_rate=0.7, example_sampling_rate=0.5)
FEDAVG = TrainingSection(algorithm="dp-fedavg", rounds=9, client_sampling_rate=0.5)


def gradient(kind, *, count=50, population=EXAMPLES, **options):
    return families.make_family(kind, count=count, population=population, parameters=P, root=ROOT, **options)


def play(family, training, population, *, rounds, noise, clip_norm=2.0, log=None, weights=None):
    """Rounds of a server: screen, clip, sum, noise; return observations (rounds, m)."""
    server = GaussianSum(clip_norm=clip_norm, noise_multiplier=noise)
    weights = np.zeros(family.parameters) if weights is None else weights
    seen = []
    for number in range(rounds):
        cohort = sampling.draw(training, population, root=ROOT, number=number)
        total = np.zeros(family.parameters)
        for block in family.contributions(weights, training, cohort, clip_norm=clip_norm):
            rows, _, _ = screen(block, width=family.parameters)
            total += clipped_sum(rows, clip_norm=clip_norm)
        released = server.noised(total, root=ROOT, number=number, attempt=0).vector
        seen.append(family.observe(released, weights, number, clip_norm=clip_norm))
        if log is not None:
            log.observe(released, weights, training, cohort, clip_norm=clip_norm)
    return np.array(seen)


@pytest.mark.parametrize("kind", ["random", "chosen"])
def test_a_canary_is_one_clip_norm_in_its_direction_when_it_takes_part(kind):
    family = gradient(kind, count=20)
    seen = play(family, FEDSGD, EXAMPLES, rounds=12, noise=0.0)
    for number in range(12):
        cohort = sampling.draw(FEDSGD, EXAMPLES, root=ROOT, number=number)
        present = family.takes_part(FEDSGD, cohort)
        assert not (present & ~family.coins).any()
        assert not (present & ~cohort.answered[family.client]).any()
        blocks = list(family.rows(np.zeros(P), number, np.arange(20), clip_norm=2.0))
        units = np.concatenate([block.rows for block in blocks])
        units = units / np.linalg.norm(units, axis=1, keepdims=True)
        expected = units @ units[present].sum(axis=0) if present.any() else np.zeros(20)
        np.testing.assert_allclose(seen[number], expected, atol=1e-5)
    if kind == "chosen":
        assert set(np.unique(seen.round(6))) == {0.0, 1.0}


def test_rows_do_not_depend_on_the_coins_nor_on_the_size_of_blocks(monkeypatch):
    family = gradient("random", count=7)
    whole = np.concatenate([b.rows for b in family.rows(np.zeros(P), 0, np.arange(7), clip_norm=1.0)])
    flipped = dataclasses.replace(family, coins=~family.coins)
    monkeypatch.setattr(families, "_BLOCK_BYTES", 4 * P * 2)
    parts = list(flipped.rows(np.zeros(P), 3, np.arange(7), clip_norm=1.0))
    assert [block.units.size for block in parts] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([block.rows for block in parts]), whole)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 10.0, rtol=1e-5)


@pytest.mark.statistical(failure_probability=1e-6)
def test_coins_are_fair_and_families_do_not_share_them():
    one, two = (gradient("random", count=4000, name=name) for name in ("one", "two"))
    low, high = binom.ppf(1e-7, 4000, 0.5), binom.isf(1e-7, 4000, 0.5)
    for count in (one.coins.sum(), two.coins.sum(), (one.coins == two.coins).sum()):
        assert low <= count <= high
    cohort = sampling.draw(FEDSGD, EXAMPLES, root=ROOT, number=0)
    assert (one.takes_part(FEDSGD, cohort) != two.takes_part(FEDSGD, cohort)).any()


def data_canaries(kind, blobs, *, training, population, count, each=1):
    data = blobs(40, clients=4, features=8)
    data = families.with_private_features(data, count) if kind == "feature" else data
    examples = families.canary_examples(kind, data, count=count, root=ROOT, each=each)
    model = models.mlp(data.x.shape[1:], 3, hidden=(6,), root=1)
    functions = ClientFunctions(model, data.x.shape[1:])
    if training.algorithm == "dp-fedavg":
        engine = FedAvgEngine(functions, examples, training, root=ROOT)
    else:
        engine = FedSgdEngine(functions, examples, root=ROOT)
    family = families.make_family(
        kind, count=count, population=population, parameters=functions.parameters, root=ROOT, engine=engine
    )
    return data, examples, functions, family, models.get_weights(model)


def test_data_canaries_are_what_they_say(blobs):
    data, examples, *_ = data_canaries("mislabelled", blobs, training=FEDSGD, population=EXAMPLES, count=12)
    truth = {row.tobytes(): label for row, label in zip(data.x, data.y, strict=True)}
    assert all(truth[row.tobytes()] != label for row, label in zip(examples.x, examples.y, strict=True))
    wide, examples, *_ = data_canaries("feature", blobs, training=FEDSGD, population=EXAMPLES, count=5)
    assert wide.x.shape == (40, 13)
    assert not wide.x[:, 8:].any()
    np.testing.assert_array_equal(examples.x[:, 8:], np.eye(5))
    _, examples, *_ = data_canaries("blank", blobs, training=FEDSGD, population=EXAMPLES, count=3)
    assert not examples.x.any()
    assert examples.y.tolist() == [0, 1, 2]
    _, examples, *_ = data_canaries("mislabelled", blobs, training=FEDAVG, population=CLIENTS, count=4, each=6)
    assert np.bincount(examples.client).tolist() == [6] * 4


@pytest.mark.parametrize("kind", ["feature", "mislabelled"])
@pytest.mark.parametrize("client_level", [False, True])
def test_data_canaries_contribute_their_own_gradient_or_update(blobs, kind, client_level):
    training, population = (FEDAVG, CLIENTS) if client_level else (FEDSGD, EXAMPLES)
    _, _, functions, family, weights = data_canaries(kind, blobs, training=training, population=population, count=6)
    (block,) = family.rows(weights, 0, np.arange(6), clip_norm=1.0)
    assert block.rows.shape == (6, functions.parameters)
    assert (np.linalg.norm(block.rows, axis=1) > 0).all()
    seen = play(family, training, population, rounds=10, noise=0.0, clip_norm=1e-3, weights=weights)
    present = np.array([
        family.takes_part(training, sampling.draw(training, population, root=ROOT, number=n)) for n in range(10)
    ])  # fmt: skip
    alone = present.sum(axis=1) == 1
    assert alone.any()
    np.testing.assert_allclose(seen[alone][present[alone]], 1.0, rtol=1e-4)
    assert (np.abs(seen) <= present.sum(axis=1, keepdims=True) + 1e-4).all()
    if kind == "feature":  # nobody else has this feature: canaries are nearly orthogonal in its weights
        assert not client_level or family.client.tolist() == [5, 6, 7, 8, 9, 10]


def test_observations_are_on_disk_and_can_be_cut_back(tmp_path):
    family = gradient("random", count=11)
    log = canary_log.FamilyLog(tmp_path, family)
    seen = play(family, FEDSGD, EXAMPLES, rounds=5, noise=1.0, log=log)
    log.sync()
    view = canary_log.open_family(tmp_path, "random")
    assert canary_log.family_names(tmp_path) == ("random",)
    np.testing.assert_allclose(view.observations, seen, rtol=1e-6)
    eligible = [family.eligible(sampling.draw(FEDSGD, EXAMPLES, root=ROOT, number=n)) for n in range(5)]
    np.testing.assert_array_equal(view.eligible, eligible)
    np.testing.assert_array_equal(canary_log.family_coins(tmp_path, "random"), family.coins)
    log.cut_back(3)
    assert canary_log.open_family(tmp_path, "random").observations.shape == (3, 11)
    with pytest.raises(DataError, match="shorter than the checkpoint"):
        log.cut_back(4)
    with pytest.raises(DataError, match="cannot be read"):
        canary_log.open_family(tmp_path, "other")


@pytest.mark.parametrize(("noise", "refuted"), [(0.25, True), (4.0, False)])
def test_the_one_run_audit_reads_a_family(tmp_path, noise, refuted):
    """Twenty rounds with little noise give away the coins of random-direction canaries; with much noise they do not."""
    training = TrainingSection(algorithm="dp-fedavg", rounds=20, client_sampling_rate=1.0)
    family = gradient("random", count=60, population=CLIENTS)
    log = canary_log.FamilyLog(tmp_path, family)
    play(family, training, CLIENTS, rounds=20, noise=noise, log=log)
    view = canary_log.open_family(tmp_path, "random")
    scores = attack.llr_scores(view.observations, view.eligible, noise_multiplier=noise, secret_sampling_rate=1.0)
    coins = canary_log.family_coins(tmp_path, "random")
    bound = estimation.estimate(
        scores[coins], scores[~coins], method="one-run", delta=1e-5, seed=1, guesses=40, declared=("fair-coins",)
    )
    assert bound.epsilon is not None
    assert (bound.epsilon > 1.0) is refuted


def test_what_makes_no_sense_is_refused(blobs):
    with pytest.raises(UsageError, match="need an engine"):
        gradient("blank")
    with pytest.raises(UsageError, match="the model has 300"):
        gradient("chosen", count=P + 1)
    with pytest.raises(UsageError, match="different numbers"):
        gradient("chosen", count=2, coordinates=[1, 1])
    shuffled = FEDSGD.model_copy(update={"sampler": "shuffle"})
    cohort = sampling.draw(FEDSGD, EXAMPLES, root=ROOT, number=0)
    with pytest.raises(UsageError, match="sampler = 'poisson'"):
        gradient("random").takes_part(shuffled, cohort)
    data = blobs(20)
    with pytest.raises(UsageError, match="at most 3"):
        families.canary_examples("blank", data, count=4, root=1)
    with pytest.raises(UsageError, match="with_private_features"):
        families.canary_examples("feature", data, count=9, root=1)
    with pytest.raises(UsageError, match="no data"):
        families.canary_examples("random", data, count=2, root=1)
    with pytest.raises(UsageError, match="vectors"):
        families.with_private_features(dataclasses.replace(data, x=data.x[:, :, None]), 2)
