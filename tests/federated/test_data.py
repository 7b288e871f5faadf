import csv
from pathlib import Path

import numpy as np
import pytest

from dpaudit.config import DataSection
from dpaudit.errors import DataError, UsageError
from dpaudit.federated import partition
from dpaudit.federated.data import load_dataset, prepare

X = np.arange(24.0).reshape(8, 3)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def load(source, **options):
    return load_dataset(DataSection(source=str(source), **options), root=3)


def write_csv(path: Path, rows) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def test_digits_are_the_real_ones_scaled_to_the_unit_interval():
    digits = load("digits")
    assert digits.x.shape == (1797, 64)
    assert digits.x.dtype == np.float32
    assert (digits.x.min(), digits.x.max()) == (0.0, 1.0)
    assert np.bincount(digits.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_npz_csv_and_parquet_hold_the_same_examples(tmp_path, npz):
    import pyarrow as pa
    from pyarrow import parquet

    holders = [f"device-{i % 2}" for i in range(8)]
    rows = [
        ["a", "b", "c", "label", "who"],
        *([*x, y, w] for x, y, w in zip(X.tolist(), Y.tolist(), holders, strict=True)),
    ]
    table = write_csv(tmp_path / "data.csv", rows)
    columns = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "label": Y, "who": holders}
    parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
    found = [
        load(npz(x=X, y=Y, client=np.arange(8) % 2)),
        load(table, client="who"),
        load(tmp_path / "data.parquet", client="who"),
    ]
    for data in found:
        np.testing.assert_array_equal(data.x, X.astype(np.float32))
        np.testing.assert_array_equal(data.y, Y)
        np.testing.assert_array_equal(data.client, np.arange(8) % 2)
        assert data.classes == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, "NaN or infinity, the first is example 1"),
        ({"x": np.where(X == 5, np.inf, X), "y": Y}, "NaN or infinity"),
        ({"x": X * 1e38, "y": Y}, "within float32"),
        ({"x": X, "y": Y - 1}, "at least 0"),
        ({"x": X, "y": Y + 0.5}, "whole numbers"),
        ({"x": X, "y": np.where(Y == 2, 7, Y)}, "Renumber"),
        ({"x": X, "y": Y, "classes": 2}, "below classes = 2"),
        ({"x": X, "y": np.zeros(8, int)}, "K >= 2"),
        ({"x": X, "y": Y.astype(str)}, "whole numbers"),
        ({"x": X.astype(str), "y": Y}, "must hold numbers"),
        ({"x": X[:0], "y": Y[:0]}, "no example"),
        ({"x": X[:5], "y": Y}, r"\(5, 3\) and \(8,\)"),
        ({"x": X[:, 0], "y": Y}, "features"),
        ({"x": X, "y": Y, "client": np.arange(3)}, "every example needs a client"),
        ({"x": X}, "no array 'y'"),
    ],
)
def test_bad_arrays_are_refused_with_the_reason(npz, arrays, message):
    with pytest.raises(DataError, match=message):
        load(npz(**arrays))


def test_a_gap_in_the_labels_is_fine_when_the_classes_are_stated(npz):
    assert load(npz(x=X, y=np.where(Y == 2, 7, Y), classes=9)).classes == 9


def test_a_pickle_is_not_opened(npz):
    with pytest.raises(DataError, match="cannot be read"):
        load(npz(x=np.array([[object()]] * 8), y=Y))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "is empty"),
        ([["a", "label"]], {}, "no example"),
        ([["a", "label"], ["1", "0"], ["2"]], {}, "row 3"),
        ([["a", "label"], ["x", "0"]], {}, "column 'a' must hold numbers"),
        ([["a", "label"], ["1", "cat"]], {}, "column 'label' must hold numbers"),
        ([["a", "target"], ["1", "0"]], {}, "no column 'label'; its columns are a, target"),
        ([["a", "label"], ["1", "0"], ["2", "1"]], {"client": "device"}, "no column 'device'"),
        ([["label"], ["0"], ["1"]], {}, "no feature column"),
        ([["a", "a", "label"], ["1", "2", "0"]], {}, "two columns of the same name"),
        ([["a", "label"], ["nan", "0"], ["1", "1"]], {}, "NaN"),
    ],
)
def test_bad_tables_are_refused_with_the_reason(tmp_path, rows, options, message):
    with pytest.raises(DataError, match=message):
        load(write_csv(tmp_path / "data.csv", rows), **options)


@pytest.mark.parametrize(
    ("name", "content"), [("data.npz", b"junk"), ("data.parquet", b"junk"), ("data.csv", b"\xff\xfe")]
)
def test_files_of_another_kind_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / name)


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no data file"):
        load(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match=r"\.parquet; got 'mnist'"):
        load("mnist")


def test_example_level_data_are_split_once_and_dealt_to_every_client(make_config):
    config = make_config(partition={"kind": "dirichlet", "clients": 50, "alpha": 0.5})
    data = prepare(config, root=11)
    assert (len(data.train.y), len(data.holdout.y), data.clients) == (1348, 449, 50)
    assert data.holdout.client is None
    assert np.bincount(data.train.client, minlength=50).min() > 0
    rows = {row.tobytes() for row in data.train.x}
    overlap = sum(row.tobytes() in rows for row in data.holdout.x)
    assert overlap == 0, "digits holds no two equal images"
    np.testing.assert_array_equal(prepare(config, root=11).train.client, data.train.client)
    assert (prepare(config, root=12).train.client != data.train.client).any()


def test_hold_out_examples_keep_their_client_where_the_data_name_it(make_config, tmp_path):
    who = np.array([f"c{i}" for i in np.repeat([0, 1, 2, 3], [40, 40, 40, 1])])
    x = np.arange(242.0).reshape(121, 2)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(121) % 3, client=who)
    config = make_config(
        data={"source": str(tmp_path / "d.npz"), "client": "client"}, partition={"kind": "by-client", "clients": None}
    )
    of_row, alone = dict(zip(map(tuple, x), who, strict=True)), set()
    for root in range(8):
        data = prepare(config, root=root)
        assert data.holdout.client.shape == data.holdout.y.shape
        names = {int(k): of_row[tuple(row)] for row, k in zip(data.train.x, data.train.client, strict=True)}
        assert len(names) == data.clients
        for row, k in zip(data.holdout.x, data.holdout.client, strict=True):
            assert names.get(int(k), "c3") == of_row[tuple(row)]
            assert (k == -1) == (of_row[tuple(row)] not in names.values())
        alone.add(-1 in data.holdout.client)
    assert alone == {True, False}, "the lonely example of c3 is held out under some roots"


def test_client_level_data_are_split_by_whole_device(make_config):
    config = make_config(
        client_level=True,
        data={"source": "iot", "iot": {"devices": 20, "windows_per_device": 5}},
        partition={"kind": "by-client", "clients": None},
    )
    data = prepare(config, root=1)
    assert data.clients == 15
    assert np.bincount(data.train.client).tolist() == [5] * 15
    assert np.bincount(data.holdout.client).tolist() == [5] * 5


def test_dirichlet_makes_labels_uneven_and_alpha_evens_them_out():
    labels = np.repeat(np.arange(4, dtype=np.int32), 500)

    def largest_share(alpha):
        owner = partition.dirichlet(np.random.default_rng(1), labels, clients=10, alpha=alpha)
        counts = np.array([np.bincount(labels[owner == c], minlength=4) for c in range(10)])
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert largest_share(0.1) > 0.6
    assert largest_share(100.0) < 0.35


def test_a_partition_never_loses_or_invents_an_example():
    labels = np.random.default_rng(0).integers(7, size=1000).astype(np.int32)
    owner = partition.dirichlet(np.random.default_rng(1), labels, clients=13, alpha=0.7)
    assert owner.shape == labels.shape
    assert np.bincount(owner, minlength=13).sum() == 1000
    sizes = np.bincount(partition.iid(np.random.default_rng(2), n=1000, clients=13))
    assert sizes.max() - sizes.min() <= 1


def test_an_empty_client_is_an_error_with_a_remedy(make_config):
    labels = np.zeros(30, dtype=np.int32)
    with pytest.raises(DataError, match=r"empty client.*larger alpha"):
        partition.dirichlet(np.random.default_rng(0), labels, clients=25, alpha=0.01)
    with pytest.raises(DataError, match=r"empty client.*at most 5 clients"):
        partition.iid(np.random.default_rng(0), n=5, clients=6)
    with pytest.raises(DataError, match="empty client"):
        prepare(make_config(partition={"kind": "iid", "clients": 1500}), root=1)


def test_by_client_needs_to_know_who_holds_what(make_config):
    with pytest.raises(UsageError, match=r"data\.client"):
        prepare(make_config(partition={"kind": "by-client", "clients": None}), root=1)


def test_a_holdout_needs_a_unit_on_each_side(make_config, npz):
    config = make_config(data={"source": str(npz(x=X, y=Y)), "holdout_fraction": 0.01}, partition={"clients": 2})
    with pytest.raises(DataError, match="each side needs at least one"):
        prepare(config, root=1)
