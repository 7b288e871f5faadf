"""tf.data.Dataset and functions as sources, and the bound on what one client contributes."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.config import DataSection
from dpaudit.errors import DataError, UsageError
from dpaudit.federated import partition, tf_data
from dpaudit.federated.data import load_dataset, prepare

tf = pytest.importorskip("tensorflow")
X = np.arange(24, dtype=np.float32).reshape(8, 3)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
WHO = np.array([7, 7, 7, 3, 3, 3, 3, 9])


def pairs():
    return tf.data.Dataset.from_tensor_slices((X, Y))


MODULE = """
import numpy as np, tensorflow as tf
X, Y, WHO = np.arange(24.0).reshape(8, 3), np.array([0, 1, 2, 0, 1, 2, 0, 1]), np.array([7, 7, 7, 3, 3, 3, 3, 9])
def dataset(): return tf.data.Dataset.from_tensor_slices({"x": X, "y": Y, "client": WHO}).batch(3)
def arrays(): return X, Y
def mapping(): return {"x": X, "y": Y, "classes": 5}
def wrong(): return {"x": X}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_data_source.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_data_source"
    sys.modules.pop("my_data_source", None)


@pytest.mark.parametrize(
    "dataset",
    [
        pairs,
        lambda: pairs().batch(3),
        lambda: pairs().batch(3).prefetch(2),
        lambda: pairs().map(lambda x, y: {"x": x, "y": y}),
    ],
)
def test_examples_come_out_of_the_pipeline_in_order(dataset):
    x, y = tf_data.arrays_of(dataset())
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda: pairs().repeat(), "infinite"),
        (lambda: pairs().take(0), "no example"),
        (lambda: tf.data.Dataset.from_tensor_slices(X), r"must be \(x, y\)"),
        (lambda: tf.data.Dataset.range(3).map(lambda i: (tf.ones([i]), i)), "differ in shape"),
        (lambda: (X, Y), "is needed; got tuple"),
    ],
)
def test_what_is_no_finite_set_of_examples_is_refused(dataset, message):
    with pytest.raises(DataError, match=message):
        tf_data.arrays_of(dataset())


def test_a_configuration_can_name_a_function(module, make_config):
    data = load_dataset(DataSection(source=f"{module}:dataset", client="client"), root=1)
    np.testing.assert_array_equal(data.x, X)
    assert data.client.tolist() == [1, 1, 1, 0, 0, 0, 0, 2]
    assert load_dataset(DataSection(source=f"{module}:arrays"), root=1).client is None
    assert load_dataset(DataSection(source=f"{module}:mapping"), root=1).classes == 5
    with pytest.raises(DataError, match="gives no y"):
        load_dataset(DataSection(source=f"{module}:wrong"), root=1)
    with pytest.raises(DataError, match="gives no client"):
        load_dataset(DataSection(source=f"{module}:arrays", client="client"), root=1)
    with pytest.raises(UsageError, match="cannot be imported"):
        load_dataset(DataSection(source=f"{module}:nothing"), root=1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 9))
def test_no_client_keeps_more_than_the_bound_and_none_loses_less_than_it_must(owner, limit, seed):
    client = np.array(owner, np.int32)
    kept = partition.bounded(np.random.default_rng(seed), client, limit=limit)
    assert (np.diff(kept) > 0).all()
    before, after = np.bincount(client, minlength=7), np.bincount(client[kept], minlength=7)
    np.testing.assert_array_equal(after, np.minimum(before, limit))


def test_which_examples_stay_is_random():
    client = np.zeros(1000, np.int32)
    kept = partition.bounded(np.random.default_rng(0), client, limit=500)
    assert abs(np.count_nonzero(kept < 500) - 250) < 40  # five standard deviations, and the seed is fixed


def test_the_bound_is_part_of_the_partition(make_config):
    config = make_config(partition={"kind": "iid", "clients": 20, "max_examples_per_client": 30})
    data = prepare(config, root=1)
    assert np.bincount(data.train.client).tolist() == [30] * 20
    assert len(data.holdout.y) == 449
    fleet = make_config(
        client_level=True,
        data={"source": "iot", "iot": {"devices": 20, "windows_per_device": 9}},
        partition={"kind": "by-client", "clients": None, "max_examples_per_client": 4},
    )
    data = prepare(fleet, root=1)
    assert np.bincount(data.train.client).tolist() == [4] * 15
    assert np.bincount(data.holdout.client).tolist() == [4] * 5
