import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit import events as ev
from dpaudit.errors import DataError, UsageError

rates = st.floats(0, 1)
noises = st.floats(0, 1e6)
counts = st.integers(1, 10**9)

leaves = st.one_of(
    st.just(ev.NoOp()),
    st.builds(ev.NonPrivate, reason=st.text(max_size=20)),
    st.builds(ev.Gaussian, noise_multiplier=noises),
    st.builds(ev.Laplace, noise_multiplier=noises),
    st.builds(
        ev.TruncatedPoissonGaussian,
        dataset_size=counts,
        sampling_rate=rates,
        max_batch_size=counts,
        noise_multiplier=noises,
    ),
    st.builds(ev.TreeAggregation, noise_multiplier=noises, steps=st.lists(counts, max_size=3).map(tuple)),
    st.builds(ev.ApproximateDp, epsilon=noises, delta=rates),
    st.builds(ev.ZeroConcentratedDp, rho=noises, xi=noises),
    st.builds(
        ev.MixtureOfGaussians,
        noise_multiplier=noises,
        sensitivities=st.just((0.0, 1.0)),
        probabilities=st.just((0.25, 0.75)),
    ),
    st.builds(ev.Unsupported, description=st.text(max_size=20)),
)


def batch(event, size, others):
    return ev.SampledWithoutReplacement(population=size + others, sample_size=size, event=event)


def wrapped(inner):
    return st.one_of(
        st.builds(ev.PoissonSampled, sampling_rate=rates, event=inner),
        st.builds(ev.PubliclySampled, sampling_rate=rates, event=inner),
        st.builds(ev.ShuffledBatches, event=inner, batches=counts),
        st.builds(ev.SelfComposed, event=inner, count=st.integers(0, 10**9)),
        st.builds(ev.RepeatAndSelect, event=inner, mean=st.floats(1, 100), shape=st.sampled_from([0.0, 1.0, math.inf])),
        st.builds(batch, inner, counts, counts),
        st.builds(ev.Composed, events=st.lists(inner, max_size=3).map(tuple)),
    )  # fmt: skip


events = st.recursive(leaves, wrapped, max_leaves=5)


@settings(max_examples=200)
@given(events)
def test_every_event_survives_json(event):
    text = json.dumps(ev.to_json(event), allow_nan=False)
    assert ev.from_json(json.loads(text)) == event


def test_counts_written_as_floats_are_whole_numbers_again():
    body = {"kind": "SelfComposed", "event": {"kind": "NoOp"}, "count": 5.0}
    assert isinstance(ev.from_json(body).count, int)
    tree = ev.from_json({"kind": "TreeAggregation", "noise_multiplier": 1.0, "steps": [3.0, 4]})
    assert all(isinstance(step, int) for step in tree.steps)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"kind": None},
        {"kind": ["Gaussian"]},
        {"kind": "Quantum"},
        {"kind": "Gaussian"},
        {"kind": "Gaussian", "noise_multiplier": None},
        {"kind": "Gaussian", "noise_multiplier": "1"},
        {"kind": "Gaussian", "noise_multiplier": -1.0},
        {"kind": "Gaussian", "noise_multiplier": math.inf},
        {"kind": "Gaussian", "noise_multiplier": 1.0, "colour": "red"},
        {"kind": "PoissonSampled", "sampling_rate": 1.5, "event": {"kind": "NoOp"}},
        {"kind": "PoissonSampled", "sampling_rate": 0.5, "event": {"kind": "Quantum"}},
        {"kind": "PoissonSampled", "sampling_rate": 0.5},
        {"kind": "SelfComposed", "event": {"kind": "NoOp"}, "count": -1},
        {"kind": "SelfComposed", "event": {"kind": "NoOp"}, "count": 1.5},
        {"kind": "SelfComposed", "event": {"kind": "NoOp"}, "count": True},
        {"kind": "Composed", "events": 3},
        {"kind": "Composed", "events": [{"kind": "NoOp"}, 7]},
        {"kind": "TreeAggregation", "noise_multiplier": 1.0, "steps": [0]},
        {"kind": "TreeAggregation", "noise_multiplier": 1.0, "steps": "12"},
        {"kind": "SampledWithoutReplacement", "population": 3, "sample_size": 4, "event": {"kind": "NoOp"}},
        {"kind": "ShuffledBatches", "event": {"kind": "NoOp"}, "batches": 0},
        {"kind": "ApproximateDp", "epsilon": 1.0, "delta": 2.0},
        {"kind": "RepeatAndSelect", "event": {"kind": "NoOp"}, "mean": 0.5, "shape": 1.0},
        {"kind": "RepeatAndSelect", "event": {"kind": "NoOp"}, "mean": 2, "shape": -1.0},
        {"kind": "MixtureOfGaussians", "noise_multiplier": 1.0, "sensitivities": [0], "probabilities": [0.5]},
        {"kind": "MixtureOfGaussians", "noise_multiplier": 1.0, "sensitivities": [0, 1], "probabilities": [1.0]},
        {"kind": "MixtureOfGaussians", "noise_multiplier": 1.0, "sensitivities": [-1], "probabilities": [1.0]},
        {"kind": "TruncatedPoissonGaussian", "dataset_size": 0, "sampling_rate": 0.1, "max_batch_size": 3,
         "noise_multiplier": 1.0},
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(body):
    with pytest.raises(DataError):
        ev.from_json(body)


def test_the_wire_form_does_not_change():
    event = ev.SelfComposed(
        event=ev.PubliclySampled(
            sampling_rate=0.3, event=ev.PoissonSampled(sampling_rate=0.1, event=ev.Gaussian(noise_multiplier=1.5))
        ),
        count=7,
    )
    assert ev.to_json(event) == {
        "kind": "SelfComposed",
        "count": 7,
        "event": {
            "kind": "PubliclySampled",
            "sampling_rate": 0.3,
            "event": {
                "kind": "PoissonSampled",
                "sampling_rate": 0.1,
                "event": {"kind": "Gaussian", "noise_multiplier": 1.5},
            },
        },
    }


def test_events_can_be_counted():
    assert len({ev.Gaussian(noise_multiplier=1.0), ev.Gaussian(noise_multiplier=1.0), ev.NoOp()}) == 2


def test_bad_arguments_name_constraint_and_value():
    with pytest.raises(UsageError, match=r"noise_multiplier must be finite and at least 0; got -1"):
        ev.Gaussian(noise_multiplier=-1)
    with pytest.raises(UsageError, match=r"sample_size must be at most population; got 4 of 3"):
        ev.SampledWithoutReplacement(population=3, sample_size=4, event=ev.NoOp())
