"""Every kind of degenerate file, through the command line, with every method: a number, a reason or an error."""

import json
import math

import numpy as np
import pytest

from dpaudit.cli.estimate import METHODS
from dpaudit.cli.main import run

RNG = np.random.default_rng(0)
CONTENTS = {
    "only members": ([1.0, 2.0, 3.0], []),
    "only non-members": ([], [1.0, 2.0, 3.0]),
    "one score": ([1.0], []),
    "one of each": ([1.0], [0.0]),
    "constant": (np.ones(200), np.ones(180)),
    "constant apart": (np.ones(200), np.zeros(180)),
    "ties everywhere": (RNG.integers(0, 3, 200), RNG.integers(0, 3, 190)),
    "integers": (RNG.integers(3, 1000, 120), RNG.integers(0, 900, 110)),
    "huge integers": (RNG.integers(2**60, 2**62, 120), RNG.integers(0, 2**62, 110)),
    "booleans": (RNG.random(100) < 0.9, RNG.random(100) < 0.2),
    "denormal": (5e-324 * RNG.integers(0, 50, 90), 5e-324 * RNG.integers(0, 40, 90)),
    "largest doubles": (np.full(60, 1.79e308), -np.full(60, 1.79e308)),
    "perfect": (np.arange(150.0) + 1000, np.arange(150.0)),
    "perfectly wrong": (np.arange(150.0), np.arange(150.0) + 1000),
    "one huge outlier": (np.append(RNG.normal(size=99), 1e300), RNG.normal(size=99)),
}
UNUSABLE = {"nothing": ([], []), "NaN": ([1.0, math.nan], [0.0]), "infinite": ([1.0], [0.0, math.inf])}


def write(folder, kind, member, other):
    member, other = np.asarray(member), np.asarray(other)
    path = folder / f"scores.{kind}"
    if kind == "npz":
        np.savez(path, member=member, non_member=other)
        return str(path)
    score = np.concatenate([member, other]) if member.size and other.size else np.append(member, other)
    flags = np.concatenate([np.ones(member.size, bool), np.zeros(other.size, bool)])
    if kind == "csv":
        rows = [f"{float(s)!r},{int(b)}" for s, b in zip(score, flags, strict=True)]
        path.write_text("\n".join(["score,member", *rows]) + "\n")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        score = score.astype(np.int8) if score.dtype == bool else score
        pq.write_table(pa.table({"score": score, "member": flags}), path)
    return str(path)


def no_constant(name):
    raise AssertionError(f"{name} in the document")


def document(capsys, path, *arguments):
    methods = [part for method in METHODS for part in ("--method", method)]
    code = run(["estimate", path, "--delta", "1e-5", *methods, *arguments, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out, parse_constant=no_constant)


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
@pytest.mark.parametrize("content", CONTENTS)
def test_degenerate_scores(capsys, tmp_path, monkeypatch, kind, content):
    if kind == "parquet":  # read in batches, as a file of a hundred million rows is
        monkeypatch.setattr("dpaudit.estimation.score_files.IN_MEMORY", 20)
        monkeypatch.setattr("dpaudit.estimation.score_files.BATCH", 32)
    code, found = document(capsys, write(tmp_path, kind, *CONTENTS[content]))
    assert code in (0, 3)
    assert [bound["method"] for bound in found["bounds"]] == list(METHODS)
    for bound in found["bounds"]:
        if bound["epsilon"] is None:
            assert bound["reason"]
            assert bound["status"] != "ok"
        else:
            assert bound["epsilon"] >= 0
            assert bound["status"] == "ok"
    if content in ("constant", "perfectly wrong", "only members", "one of each", "one score"):
        free = [b for b in found["bounds"] if b["family"] == "assumption-free"]
        assert all(not b["epsilon"] for b in free)


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
@pytest.mark.parametrize("content", UNUSABLE)
def test_unusable_scores_are_an_error(capsys, tmp_path, kind, content):
    code, found = document(capsys, write(tmp_path, kind, *UNUSABLE[content]))
    assert code == 2
    assert found["error"]["message"]


@pytest.mark.parametrize("selection", ["split", "bonferroni:50", "fixed:1"])
def test_selections_on_two_scores(capsys, tmp_path, selection):
    for method in METHODS:
        path = write(tmp_path, "npz", [2.0], [1.0])
        code = run(["estimate", path, "--delta", "1e-5", "--method", method, "--threshold-selection", selection])
        assert code in (0, 2, 3)
        assert "nan" not in capsys.readouterr().out.lower()
