"""`dpaudit attack --groups`: the worst client, class or sub-population of any audited model."""

import json

import numpy as np
import pytest

from dpaudit.attacks.groups import read_groups
from dpaudit.cli.main import run as dpaudit
from dpaudit.errors import DataError


def call(capsys, *arguments, code=0):
    assert dpaudit(["attack", *map(str, arguments), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def leaking(n=1200, seed=0):
    """Scores that betray the members of one of three clients, their membership and their client."""
    rng = np.random.default_rng(seed)
    member, client = rng.random(n) < 0.5, rng.integers(0, 3, n)
    names = np.array(["anna", "bert", "carl"])[client]
    return rng.normal(size=n) + 5.0 * (member & (client == 1)), member, names


def aucs(document, grouping):
    return {group["group"]: group["auc"] for group in document["groups"] if group["grouping"] == grouping}


def test_the_leaking_client_is_named_in_every_kind_of_file(tmp_path, capsys):
    """A table in its own order and an archive of members, then non-members, each with groups of the same order."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    scores, member, names = leaking()
    np.savez(tmp_path / "table.npz", score=scores, member=member)
    np.savez(tmp_path / "sides.npz", member=scores[member], non_member=scores[~member])
    (tmp_path / "g.csv").write_text("client\n" + "\n".join(names) + "\n")
    parquet.write_table(pa.table({"client": names.tolist()}), tmp_path / "g.parquet")
    np.savez(tmp_path / "sorted.npz", client=np.concatenate([names[member], names[~member]]))
    pairs = [("table.npz", "g.csv"), ("table.npz", "g.parquet"), ("sides.npz", "sorted.npz")]
    documents = [
        call(capsys, tmp_path / scores_, "--groups", tmp_path / groups, "--claim-epsilon", "1", "--delta", "1e-5")
        for scores_, groups in pairs
    ]
    assert aucs(documents[0], "client")["bert"] > 0.99
    assert max(aucs(documents[0], "client")[name] for name in ("anna", "carl")) < 0.6
    for document in documents:
        assert document["groups"] == documents[0]["groups"]
        check = next(check for check in document["checks"] if check["id"] == "attack.worst_group")
        assert (check["status"], "against one client" in check["detail"]) == ("fail", True)
    assert all(member[record["index"]] for record in documents[0]["exposed"]), "an index is a row of the file"
    assert {names[record["index"]] for record in documents[0]["exposed"] if record["discovered"]} == {"bert"}


def test_groups_of_a_model_and_of_units(tmp_path, capsys, monkeypatch):
    """Groups follow members, then non-members; those of units of two records are read per unit."""
    (tmp_path / "a_model_with_groups.py").write_text("import numpy as np\ndef f(x): return x[:, :2]\n")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(800, 3)), rng.integers(0, 2, 800)
    unit, member = np.repeat(np.arange(400), 2), np.arange(800) < 400
    region = np.where(rng.random(400) < 0.5, "north", "south")[unit]
    x[np.arange(800), y] += 6.0 * (member & (region == "north"))
    np.savez(tmp_path / "a.npz", x=x[member], y=y[member], unit=unit[member])
    np.savez(tmp_path / "b.npz", x=x[~member], y=y[~member], unit=unit[~member])
    np.savez(tmp_path / "g.npz", region=region, all=np.zeros(800, int))
    files = ["--members", tmp_path / "a.npz", "--non-members", tmp_path / "b.npz", "--no-control"]
    arguments = ["a_model_with_groups:f", *files, "--attack", "loss", "--groups", tmp_path / "g.npz"]
    document = call(capsys, *arguments)
    by_region = aucs(document, "region")
    assert by_region["north"] > 0.95
    assert by_region["south"] < 0.65
    whole = next(group for group in document["groups"] if group["grouping"] == "all")
    assert (whole["group"], whole["n_member"], whole["n_non_member"]) == ("0", 200, 200)
    assert {group["grouping"] for group in document["groups"]} == {"everyone", "class", "region", "all"}
    assert dpaudit(["attack", *map(str, arguments)]) == 0
    text = capsys.readouterr().out
    assert "worst region: north under loss: AUC 0.9" in text
    torn = region.copy()
    torn[0] = "south" if torn[1] == "north" else "north"
    np.savez(tmp_path / "g.npz", region=torn)
    assert "whole units" in call(capsys, *arguments, code=2)["error"]["message"]


def test_groups_of_a_file_of_logits_replace_the_class(tmp_path, capsys):
    scores, member, names = leaking(seed=2)
    labels = np.zeros(scores.size, int)
    logits = np.stack([scores, np.zeros_like(scores)], axis=1)
    np.savez(tmp_path / "z.npz", logits=logits, labels=labels, is_member=member)
    np.savez(tmp_path / "g.npz", **{"class": names})
    document = call(capsys, tmp_path / "z.npz", "--attack", "loss", "--groups", tmp_path / "g.npz")
    assert aucs(document, "class")["bert"] > 0.99
    assert set(aucs(document, "class")) == {"anna", "bert", "carl"}


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"client": np.zeros(5)}, "one group for each of the 6 records"),
        ({"client": np.zeros((6, 1))}, "one group for each of the 6 records"),
        ({"client": np.array(["a", "", "a", "b", "b", "b"])}, "no group for 1 records"),
        ({"client": np.array([0, 1, np.nan, 1, np.nan, 0])}, "no group for 2 records"),
        ({"everyone": np.zeros(6)}, "Rename"),
    ],
)
def test_groups_that_do_not_fit_are_refused(tmp_path, arrays, what):
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(DataError, match=what):
        read_groups(tmp_path / "g.npz", records=6, unit=None)


def test_bad_files_of_groups_exit_2_before_the_model_is_opened(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 2)), y=np.zeros(4, int))
    np.savez(tmp_path / "g.npz", client=np.zeros(3))
    files = ["--members", tmp_path / "s.npz", "--non-members", tmp_path / "s.npz", "--no-control"]
    for name, what in [("g.npz", "each of the 8 records"), ("none.csv", "no file"), ("g.txt", "must end in")]:
        document = call(capsys, "no_such_module_here:f", *files, "--groups", tmp_path / name, code=2)
        assert what in document["error"]["message"]
