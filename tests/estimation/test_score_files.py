import numpy as np
import pytest

from dpaudit.errors import DataError, MissingDependency
from dpaudit.estimation import estimate_source, read_scores, reference
from dpaudit.estimation.sources import ArraySource, StreamSource

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def scores():
    return reference.gaussian(1.0).draw(500, np.random.default_rng(0))


def columns(scores):
    rng = np.random.default_rng(1)
    score = np.concatenate([scores.member, scores.non_member])
    member = np.concatenate([np.ones(scores.member.size, bool), np.zeros(scores.non_member.size, bool)])
    order = rng.permutation(score.size)
    return score[order], member[order]


def write_csv(path, score, member, header="id,score,member"):
    rows = [f"{i},{float(s)!r},{m}" for i, (s, m) in enumerate(zip(score, member, strict=True))]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def same(source, scores):
    found = source.sample(0)
    assert np.array_equal(np.sort(found.member), np.sort(scores.member))
    assert np.array_equal(np.sort(found.non_member), np.sort(scores.non_member))


def test_npz(tmp_path, scores):
    np.savez(tmp_path / "s.npz", member=scores.member, non_member=scores.non_member)
    same(read_scores(tmp_path / "s.npz"), scores)


@pytest.mark.parametrize("spell", [int, bool, lambda m: "yes" if m else "No"])
def test_csv(tmp_path, scores, spell):
    score, member = columns(scores)
    same(read_scores(write_csv(tmp_path / "s.csv", score, [spell(m) for m in member])), scores)


@pytest.mark.parametrize("kind", ["bool", "int8", "float64"])
def test_parquet(tmp_path, scores, kind):
    score, member = columns(scores)
    table = pa.table({"other": score, "member": member.astype(kind), "score": score})
    pq.write_table(table, tmp_path / "s.parquet")
    same(read_scores(tmp_path / "s.parquet"), scores)


def test_parquet_of_whole_numbers(tmp_path):
    pq.write_table(pa.table({"score": [1, 2, 3, 4], "member": [1, 0, 1, 0]}), tmp_path / "s.parquet")
    assert list(read_scores(tmp_path / "s.parquet").sample(0).member) == [1.0, 3.0]


@pytest.mark.parametrize("method", ["one-run-max", "clopper-pearson", "mean-shift", "gdp"])
def test_long_parquet_files_are_streamed_to_the_same_bound(tmp_path, scores, monkeypatch, method):
    monkeypatch.setattr("dpaudit.estimation.score_files.IN_MEMORY", 100)
    monkeypatch.setattr("dpaudit.estimation.score_files.BATCH", 64)
    score, member = columns(scores)
    pq.write_table(pa.table({"score": score, "member": member}), tmp_path / "s.parquet", row_group_size=128)
    source = read_scores(tmp_path / "s.parquet")
    assert isinstance(source, StreamSource)
    found = estimate_source(source, method=method, delta=1e-5)
    expected = estimate_source(ArraySource(scores), method=method, delta=1e-5)
    assert found.epsilon == pytest.approx(expected.epsilon, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.csv", "a,b\n1,2\n", "columns score and member"),
        ("s.csv", "", "columns score and member"),
        ("s.csv", "score,member\nx,1\n", "line 2: score"),
        ("s.csv", "score,member\n1.0,maybe\n", "line 2: member"),
        ("s.csv", "score,member\n1.0\n", "line 2: member"),
        ("s.csv", "score,member\nnan,1\n1.0,0\n", "NaN or infinite"),
        ("s.csv", "score,member\ninf,1\n1.0,0\n", "NaN or infinite"),
        ("s.npz", "not a zip file", "cannot be read"),
        ("s.parquet", "not parquet", "cannot be read"),
        ("s.txt", "1", ".npz, .csv or .parquet"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_scores(tmp_path / "none.csv")


@pytest.mark.parametrize("arrays", [{"member": [1.0]}, {"member": np.array(["a"]), "non_member": [1.0]}])
def test_npz_with_wrong_arrays(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError):
        read_scores(tmp_path / "s.npz")


def test_npz_with_objects_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "s.npz", member=np.array([{"a": 1}], dtype=object), non_member=[1.0])
    with pytest.raises(DataError, match="pickle"):
        read_scores(tmp_path / "s.npz")


@pytest.mark.parametrize("table", [
    {"score": [1.0, None], "member": [1, 0]},
    {"score": [1.0, float("nan")], "member": [1, 0]},
    {"score": [1.0, 2.0], "member": [1, 2]},
    {"score": ["a", "b"], "member": [1, 0]},
    {"score": [1.0, 2.0], "label": [1, 0]},
])  # fmt: skip
def test_parquet_with_wrong_values(tmp_path, table):
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    with pytest.raises(DataError):
        read_scores(tmp_path / "s.parquet")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    import sys

    (tmp_path / "s.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="pip install"):
        read_scores(tmp_path / "s.parquet")
