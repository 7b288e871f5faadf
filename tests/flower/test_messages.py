import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.errors import DataError
from dpaudit.federated.engine import RoundSeeds
from dpaudit.flower import messages


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["updates", "sums", "gradients"]),
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    order=st.integers(0, 2**31 - 2),
    rate=st.floats(1e-6, 10),
    width=st.integers(1, 20),
)
def test_a_job_survives_the_trip(kind, counts, order, rate, width):
    job = messages.Job(
        token="ab" * 16, number=3, kind=kind, weights=np.linspace(-1, 1, width, dtype=np.float32),
        seeds=RoundSeeds(dropout=(order, 5), order=order), clients=np.arange(len(counts)), counts=np.array(counts),
        positions=np.arange(sum(counts)), clip_norm=0.7,
        local=messages.LocalTraining(epochs=2, batch_size=4, learning_rate=rate),
    )  # fmt: skip
    read = messages.read_job(messages.write_job(job))
    for name in ("weights", "clients", "counts", "positions"):
        np.testing.assert_array_equal(getattr(read, name), getattr(job, name))
    assert (read.token, read.number, read.kind, read.seeds, read.local, read.clip_norm) == (
        job.token, job.number, job.kind, job.seeds, job.local, job.clip_norm
    )  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "arrays", "reason"),
    [
        ({}, {}, "lacks clients, rows"),
        ({}, {"clients": np.arange(2), "rows": np.zeros((2, 3), np.float32)}, "lacks its token"),
        ({"token": "t"}, {"clients": np.arange(2.0), "rows": np.zeros((2, 3), np.float32)}, "whole numbers"),
        ({"token": "t"}, {"clients": np.arange(2), "rows": np.zeros(6, np.float32)}, "not 2-d floats"),
        ({"token": "t"}, {"clients": np.arange(2), "rows": np.zeros((2, 3), np.complex64)}, "not 2-d floats"),
        (
            {"token": "t"},
            {"clients": np.arange(2), "rows": np.zeros((2, 3)), "norms": np.zeros((2, 1))},
            "norms are float64 of shape",
        ),
    ],
)
def test_a_malformed_answer_is_refused(numbers, arrays, reason):
    with pytest.raises(DataError, match=reason):
        messages.read_answer(messages.write(numbers, arrays))


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"clients": [1, 2], "sizes": [3], "parameters": 4},
        {"clients": [1, 1], "sizes": [3, 3], "parameters": 4},
        {"clients": [1], "sizes": [3], "parameters": "many"},
    ],
)
def test_malformed_holdings_are_refused(numbers):
    with pytest.raises(DataError):
        messages.read_holdings(messages.write(numbers, {}))


def test_arrays_that_are_pickles_are_refused():
    import io

    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    held = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())
    content = RecordDict(
        {"config": ConfigRecord({"schema": messages.SCHEMA, "token": "t"}), "arrays": ArrayRecord({"rows": held})}
    )
    with pytest.raises(DataError, match="unreadable message: ValueError"):
        messages.read_answer(content)


def test_float64_beyond_float32_becomes_infinite_and_is_screened_later():
    content = messages.write({"token": "t"}, {"clients": np.arange(1), "rows": np.full((1, 2), 1e300)})
    assert np.isinf(messages.read_answer(content).rows).all()
