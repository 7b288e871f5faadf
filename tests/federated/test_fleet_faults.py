"""Mixtures of what real fleets send, against a slow server that takes one message at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.config import CanarySection, TrainingSection
from dpaudit.events import Gaussian, PoissonSampled
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import make_canaries
from dpaudit.federated.clipping import Block, ClippedSum
from dpaudit.federated.optimizers import Sgd
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger

CLIENTS, WIDTH, CLIP, CANARIES = 12, 3, 0.5, 4
FOREIGN = (-1, CLIENTS, CLIENTS + CANARIES, 10**9)

GOOD = {
    "small": lambda rng: rng.normal(0, 0.1, WIDTH).astype(np.float32),
    "large": lambda rng: rng.normal(0, 50, WIDTH).astype(np.float32),
    "huge": lambda rng: (rng.normal(0, 1, WIDTH) * 1e37).astype(np.float32),
    "zero": lambda rng: np.zeros(WIDTH, np.float32),
    "tiny": lambda rng: np.full(WIDTH, 1e-44, np.float32),
    "double": lambda rng: rng.normal(0, 1, WIDTH),
    "integers": lambda rng: rng.integers(-9, 9, WIDTH),
    "a list": lambda rng: rng.normal(0, 1, WIDTH).tolist(),
}
BAD = {
    "NaN": lambda rng: np.full(WIDTH, np.nan, np.float32),
    "one NaN": lambda rng: np.array([1.0, np.nan, 0.0], np.float32),
    "infinity": lambda rng: np.array([0.0, -np.inf, 0.0], np.float32),
    "beyond float32": lambda rng: np.full(WIDTH, 1e300),
    "short": lambda rng: np.zeros(WIDTH - 1, np.float32),
    "two rows": lambda rng: np.zeros((2, WIDTH), np.float32),
    "a number": lambda rng: np.float32(1.0),
    "nothing": lambda rng: None,
    "text": lambda rng: np.array(["a"] * WIDTH),
    "numbers as text": lambda rng: np.array(["1.0"] * WIDTH),
    "complex": lambda rng: np.ones(WIDTH, np.complex64),
    "objects": lambda rng: np.array([1.0, None, {}], dtype=object),
    "booleans": lambda rng: np.ones(WIDTH, bool),
    "ragged": lambda rng: [[1.0], [1.0, 2.0], []],
}  # fmt: skip
EVERYTHING = {**GOOD, **BAD}


def server_of(rate, root, ledger=None):
    training = TrainingSection(
        algorithm="dp-fedavg", rounds=3, client_sampling_rate=rate, clip_norm=CLIP, dropout_rate=0.2
    )
    population = Population(clients=CLIENTS, client_of=None)
    plan = Plan(
        training=training, population=population, canaries=make_canaries(CanarySection(count=CANARIES), population,
        root=root), root=root, direction=-1.0,
    )  # fmt: skip
    return Server(
        plan, aggregator=GaussianSum(clip_norm=CLIP, noise_multiplier=1.0), optimizer=Sgd(1.0),
        weights=np.zeros(WIDTH), ledger=ledger or PrivacyLedger(),
    )  # fmt: skip


def slow_server(cohort, messages):
    """Return the clipped sum and how many units are in it, one message at a time, in Python's own floats."""
    wanted, seen, total, accepted = set(cohort.units.tolist()), set(), [0.0] * WIDTH, 0
    for unit, kind, row in messages:
        if unit not in wanted or unit in seen:
            continue
        seen.add(unit)
        if kind in GOOD:
            values = [float(np.float32(value)) for value in np.asarray(row).tolist()]
            norm = math.hypot(*values)
            total = [t + v * min(1.0, CLIP / norm if norm else 1.0) for t, v in zip(total, values, strict=True)]
            accepted += 1
    return np.array(total), seen, accepted


@st.composite
def rounds(draw):
    rate = draw(st.sampled_from([1e-9, 0.5, 1.0]))  # an empty cohort, some, everybody
    root, seed = draw(st.integers(0, 40)), draw(st.integers(0, 2**16))
    ids = st.one_of(st.integers(0, CLIENTS - 1), st.sampled_from(FOREIGN))
    sent = draw(st.lists(st.tuples(ids, st.sampled_from(sorted(EVERYTHING))), max_size=30))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    return rate, root, seed, sent, cuts


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rounds())
def test_a_round_is_what_a_slow_server_makes_of_the_same_messages(case):
    rate, root, seed, sent, cuts = case
    rng, ledger = np.random.default_rng(seed), PrivacyLedger()
    messages = [(unit, kind, EVERYTHING[kind](rng)) for unit, kind in sent]
    server = server_of(rate, root, ledger)
    cohort = server.cohort(0)
    blocks = [
        Block(units=np.array([m[0] for m in part], np.int64), rows=[m[2] for m in part])
        for part in (messages[a:b] for a, b in zip([0, *cuts], [*cuts, len(messages)], strict=True))
    ]
    collected = server.collect(cohort, blocks)
    total, seen, accepted = slow_server(cohort, messages)
    np.testing.assert_allclose(collected.total[:WIDTH], total, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(collected.total[WIDTH:], CLIP * collected.canaries, rtol=1e-6)
    assert set(np.flatnonzero(collected.arrived).tolist()) == seen
    assert collected.accepted == accepted
    assert len(collected.rejected) == len(messages) - accepted
    assert np.linalg.norm(collected.total[:WIDTH]) <= CLIP * accepted * (1 + 1e-6)
    release = server.release(collected)
    quiet = server_of(rate, root)
    alone = quiet.collect(quiet.cohort(0), [])
    noise = quiet.release(alone).vector - alone.total
    np.testing.assert_allclose(release.vector - collected.total, noise, atol=1e-12)
    server.apply(release)
    assert np.isfinite(server.weights).all()
    (event,) = ledger.events()
    assert event.event == (PoissonSampled(sampling_rate=rate, event=inner) if rate < 1 else inner)
    assert event.facts["expected"] == rate * CLIENTS, "the divisor is that of the plan, whoever came"
    assert (event.facts["realised_units"], event.facts["rejected"]) == (accepted, len(messages) - accepted)
    noted = [entry for entry in ledger.entries if entry.type == "note"]
    assert [entry.facts["count"] for entry in noted] == ([len(messages) - accepted] if len(messages) > accepted else [])


inner = Gaussian(noise_multiplier=1.0)


@pytest.mark.parametrize("extra", [-1, 1, 5])
def test_rows_that_belong_to_nobody_are_not_summed(extra):
    server = server_of(1.0, 1)
    cohort = server.cohort(0)
    rows = np.ones((cohort.units.size + extra, WIDTH), np.float32)
    sums = ClippedSum(units=cohort.units, total=np.zeros(WIDTH), norms=rows[:, 0], clip_norm=CLIP)
    for block in (Block(units=cohort.units, rows=rows), Block(units=cohort.units, rows=list(rows)), sums):
        collected = server.collect(cohort, [block])
        assert collected.accepted == 0
        np.testing.assert_array_equal(collected.total[:WIDTH], 0.0)
        assert {item.reason for item in collected.rejected} == {
            f"{cohort.units.size + extra} contributions for {cohort.units.size} units"
        }
        assert server.collect(cohort, [Block(units=cohort.units, rows=rows[: cohort.units.size])]).accepted >= 0


def test_an_answer_that_comes_a_round_late_is_not_taken_for_another_round():
    server = server_of(0.5, 3)
    first, second = server.cohort(0), server.cohort(1)
    late = np.setdiff1d(first.units, second.units)
    assert late.size
    collected = server.collect(second, [Block(units=late, rows=np.ones((late.size, WIDTH), np.float32))])
    assert {item.reason for item in collected.rejected} == {"not in this round's cohort"}
    np.testing.assert_array_equal(collected.total[:WIDTH], 0.0)
