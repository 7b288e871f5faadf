"""Groups in a run: a client is one where hold-out examples name it, and only there."""

import numpy as np
import pytest

from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.pipeline import membership
from dpaudit.pipeline.exposure import group_results
from dpaudit.records import Unit

pytest.importorskip("tensorflow")  # membership imports the trainer


class Config:
    """What `make_pool` reads of a configuration."""

    class claim:  # noqa: N801
        unit = Unit.EXAMPLE

    class audit:  # noqa: N801
        attacks = ("loss", "population")


def side(n, client, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)
    held = None if client is None else np.asarray(client, dtype=np.int32)
    return Dataset(x=x, y=y, client=held, classes=2, name="d")


def test_a_client_is_a_group_where_the_hold_out_names_it():
    train, out = np.repeat([0, 1, 2], 40), np.repeat([0, 1, 2, -1], [60, 60, 10, 30])
    data = FederatedData(train=side(120, train, 0), holdout=side(160, out, 1), clients=3)
    pool = membership.make_pool(Config, data, root=0)
    client = membership.groupings_of(pool)["client"]
    whole = np.concatenate([train, out])
    expected = np.where(whole < 0, "not in training", whole.astype(str))[~pool.known]
    np.testing.assert_array_equal(client, expected)
    assert client.size == pool.attacked.size == 120 + 80  # half of the hold-out is the population
    rng = np.random.default_rng(2)
    scores = rng.normal(size=client.size) + 5.0 * ((client == "1") & pool.attacked)
    found = group_results({"a": scores}, pool.attacked, {"client": client})
    auc = {result.group: result.auc for result in found if result.grouping == "client"}
    assert auc["1"] > 0.99
    assert auc["0"] < 0.8
    assert auc["2"] is None, "at most 10 non-members, half of them the population"
    assert auc["not in training"] is None


def test_a_client_is_no_group_where_nobody_holds_the_hold_out():
    data = FederatedData(train=side(120, np.repeat([0, 1, 2], 40), 0), holdout=side(160, None, 1), clients=3)
    assert set(membership.groupings_of(membership.make_pool(Config, data, root=0))) == {"class", "typicality"}


def test_a_client_is_no_group_where_it_is_the_unit():
    class Devices(Config):
        class claim:  # noqa: N801
            unit = Unit.CLIENT

    data = FederatedData(
        train=side(120, np.repeat([0, 1, 2], [30, 40, 50]), 0), holdout=side(60, np.repeat([0, 1], 30), 1), clients=3
    )
    assert set(membership.groupings_of(membership.make_pool(Devices, data, root=0))) == {"class", "typicality", "size"}
