"""`dpaudit attack`: models of several frameworks, files of outputs, bad input, partial results."""

import json
import sys

import numpy as np
import pytest

from dpaudit.cli.main import run as dpaudit

RNG = np.random.default_rng(0)


def records(n=400, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(n, 20)) + 0.3 * np.eye(3)[y] @ np.ones((3, 20))).astype(np.float32), y


@pytest.fixture
def sides(tmp_path):
    (x1, y1), (x0, y0) = records(seed=1), records(seed=2)
    np.savez(tmp_path / "members.npz", x=x1, y=y1)
    np.savez(tmp_path / "others.npz", x=x0, y=y0)
    return tmp_path


@pytest.fixture
def module(sides, monkeypatch):
    """A module beside the data with models that remember their training data, or misbehave."""
    name = f"my_models_{sides.name.replace('-', '_')}"
    (sides / f"{name}.py").write_text(
        "import numpy as np\n"
        "from sklearn.ensemble import RandomForestClassifier\n"
        f"with np.load({str(sides / 'members.npz')!r}) as archive: data = dict(archive)\n"
        "forest = RandomForestClassifier(30, random_state=0).fit(data['x'], data['y'])\n"
        "class Box:\n    predict = staticmethod(lambda x: forest.predict_proba(x))\n"
        "def probabilities(x): return forest.predict_proba(x)\n"
        "def raises(x): raise RuntimeError('no GPU today')\n"
        "def short(x): return np.zeros((3, 3))\n"
        "def cube(x): return np.zeros((len(x), 2, 2))\n"
        "def nan(x): return np.full((len(x), 3), np.nan)\n"
        "def words(x): return np.full((len(x), 3), 'a')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(sides)
    yield name
    sys.modules.pop(name, None)


def load(path):
    with np.load(path) as archive:
        return dict(archive)


def call(capsys, *arguments, code=0):
    assert dpaudit(["attack", *map(str, arguments), "--json"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return json.loads(captured.out)


def against(sides):
    return ["--members", sides / "members.npz", "--non-members", sides / "others.npz", "--no-control"]


def test_a_scikit_learn_model_by_module_and_function(module, sides, capsys):
    document = call(capsys, f"{module}:probabilities", *against(sides), "--fpr", "0.1", "--fpr", "0.0001")
    assert document["schema"] == "dpaudit.attack/v1"
    names = [result["attack"] for result in document["attacks"]]
    assert names == ["confidence-margin", "entropy", "loss", "modified-entropy"]
    loss = document["attacks"][2]
    assert loss["auc"] > 0.95
    assert loss["auc_ci"][0] < loss["auc"] <= loss["auc_ci"][1] <= 1
    assert loss["threat_model"]
    assert (loss["n_member"], loss["n_non_member"]) == (400, 400)
    first, second = loss["tpr_at_fpr"]
    assert first["tpr"] > 0.9
    assert second["tpr"] is None
    assert "400 non-members" in second["reason"]
    assert [check["id"] for check in document["checks"]] == ["attack.comparable", "attack.worst_group"]
    assert document["checks"][0]["status"] == "pass"
    assert (
        call(capsys, f"{module}:Box.predict", *against(sides), "--attack", "loss")["attacks"][0]["auc"] == loss["auc"]
    )


def test_partial_results_are_kept_and_the_failure_is_told(module, sides, capsys):
    document = call(capsys, f"{module}:probabilities", *against(sides), "--attack", "lira", "--attack", "loss", code=2)
    lira, loss = document["attacks"]
    assert lira["auc"] is None
    assert "reference models" in lira["reason"]
    assert loss["auc"] > 0.9
    assert document["failed"] == ["lira"]


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("raises", "RuntimeError: no GPU today"),
        ("short", "one row per record, 400"),
        ("cube", "must return (records, classes)"),
        ("nan", "NaN"),
        ("words", "numbers"),
        ("number", "must be callable"),
        ("missing", "cannot be imported"),
    ],
)
def test_models_that_misbehave_exit_2(module, sides, capsys, function, what):
    document = call(capsys, f"{module}:{function}", *against(sides), code=2)
    assert what in document["error"]["message"]


def test_unknown_targets_and_attacks_exit_2(sides, capsys):
    for target, what in [
        ("model.h5", "must be a .keras, .tflite or .onnx file"),
        ("none.keras", "no model file"),
        ("no_such_module_at_all:f", "cannot be imported"),
        (str(sides), "no model file"),
    ]:
        assert what in call(capsys, target, *against(sides), code=2)["error"]["message"]
    assert "Did you mean 'lira'" in call(capsys, "x:y", "--attack", "lirra", code=2)["error"]["message"]
    assert "--members" in call(capsys, "x:y", code=2)["error"]["message"]


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": np.zeros((5, 20)), "y": np.zeros(4, int)}, "(n, ...)"),
        ({"x": np.zeros((1, 20)), "y": np.zeros(1, int)}, "at least 2"),
        ({"x": np.zeros((5, 20))}, "no array y"),
        ({"x": np.full((5, 20), np.nan), "y": np.zeros(5, int)}, "NaN"),
        ({"x": np.zeros((5, 20)), "y": np.full(5, 0.5)}, "whole numbers"),
        ({"x": np.zeros((5, 20)), "y": np.full(5, 7)}, "[0, 3)"),
        ({"x": np.zeros((5, 20)), "y": np.full(5, -1)}, "[0, 3)"),
        ({"x": np.zeros((5, 20)), "y": np.zeros(5, int), "unit": np.zeros(5, int)}, "unit"),
    ],
)
def test_bad_records_exit_2(module, sides, capsys, arrays, what):
    np.savez(sides / "others.npz", **arrays)
    document = call(capsys, f"{module}:probabilities", *against(sides), code=2)
    message = document["error"]["message"] if "error" in document else document["attacks"][0]["reason"]
    assert what in message


def test_pickles_and_garbage_are_not_opened(sides, capsys):
    np.savez(sides / "others.npz", x=np.array([{}], dtype=object), y=np.zeros(1, int))
    assert "cannot be read" in call(capsys, "x:y", *against(sides), code=2)["error"]["message"]
    (sides / "others.npz").write_bytes(b"not a zip file")
    assert "cannot be read" in call(capsys, "x:y", *against(sides), code=2)["error"]["message"]
    (sides / "others.npz").unlink()
    assert "no file" in call(capsys, "x:y", *against(sides), code=2)["error"]["message"]


def test_files_of_scores_losses_and_tables(tmp_path, capsys):
    member, other = RNG.normal(1, 1, 300), RNG.normal(0, 1, 500)
    np.savez(tmp_path / "s.npz", member=member, non_member=other)
    np.savez(tmp_path / "l.npz", member_loss=-member, non_member_loss=-other)
    np.savez(tmp_path / "t.npz", member=np.arange(800) < 300, score=np.concatenate([member, other]))
    rows = [f"{v},{int(i < 300)}" for i, v in enumerate(np.concatenate([member, other]))]
    (tmp_path / "s.csv").write_text("score,member\n" + "\n".join(rows) + "\n")
    results = [call(capsys, tmp_path / name)["attacks"][0] for name in ("s.npz", "l.npz", "t.npz", "s.csv")]
    assert [r["attack"] for r in results] == ["score", "loss", "score", "score"]
    assert len({round(r["auc"], 12) for r in results}) == 1
    assert results[0]["auc"] == pytest.approx(0.76, abs=0.08)
    assert (results[3]["n_member"], results[3]["n_non_member"]) == (300, 500)
    assert "--attack needs logits" in call(capsys, tmp_path / "s.npz", "--attack", "loss", code=2)["error"]["message"]


def test_parquet(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"member": [1, 1, 0, 0] * 10, "loss": list(np.linspace(0, 1, 40))}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert call(capsys, tmp_path / "t.parquet")["attacks"][0]["attack"] == "loss"


def logits_file(path, n=300, references=0, probabilities=False):
    rng = np.random.default_rng(5)
    labels, inside = rng.integers(0, 4, n), rng.random((references + 1, n)) < 0.5
    logits = rng.normal(size=(references + 1, n, 4))
    own = 2 * rng.normal(size=n) + 2.5 * inside + 0.5 * rng.normal(size=inside.shape)
    np.put_along_axis(logits, np.broadcast_to(labels, own.shape)[..., None], own[..., None], axis=2)
    if probabilities:
        logits = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    extra = {"reference_logits": logits[1:], "reference_in": inside[1:]} if references else {}
    np.savez(path, logits=logits[0], labels=labels, is_member=inside[0], **extra)


def test_logits_and_probabilities_of_any_framework_give_the_same(tmp_path, capsys):
    logits_file(tmp_path / "z.npz", references=8)
    logits_file(tmp_path / "p.npz", references=8, probabilities=True)
    first, second = call(capsys, tmp_path / "z.npz"), call(capsys, tmp_path / "p.npz")
    assert len(first["attacks"]) >= 9
    for a, b in zip(first["attacks"], second["attacks"], strict=True):
        assert a["auc"] == pytest.approx(b["auc"], abs=1e-9)
    by_name = {result["attack"]: result["auc"] for result in first["attacks"]}
    assert by_name["lira"] > by_name["loss"] + 0.05


def test_a_csv_of_logits(tmp_path, capsys):
    logits_file(tmp_path / "z.npz")
    data = load(tmp_path / "z.npz")
    lines = ["member,label,logit_0,logit_1,logit_2,logit_3"]
    lines += [
        ",".join(map(repr, [int(m), int(y), *map(float, z)]))
        for m, y, z in zip(data["is_member"], data["labels"], data["logits"], strict=True)
    ]
    (tmp_path / "z.csv").write_text("\n".join(lines) + "\n")
    assert call(capsys, tmp_path / "z.csv")["attacks"] == call(capsys, tmp_path / "z.npz")["attacks"]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "score,member\n1.0\n", "row 2"),
        ("a.csv", "score,member\n", "at least one row"),
        ("a.csv", "score,member\nnan,1\n1,1\n0,0\n0,0\n", "NaN"),
        ("a.csv", "score,member\n1,2\n1,1\n0,0\n0,0\n", "only 0 and 1"),
        ("a.csv", "score,member\nx,1\n1,1\n0,0\n0,0\n", "numbers"),
        ("a.csv", "score,member\n1,1\n1,1\n0,0\n", "at least 2 records on each side"),
        ("a.csv", "a,b\n1,2\n", "needed are"),
    ],
)
def test_bad_tables_exit_2(tmp_path, capsys, name, text, what):
    (tmp_path / name).write_text(text)
    assert what in call(capsys, tmp_path / name, code=2)["error"]["message"]


def test_units_are_scored_as_a_whole(module, sides, capsys):
    for name in ("members", "others"):
        data = load(sides / f"{name}.npz")
        unit = np.repeat(np.arange(100), 4) + (0 if name == "members" else 1000)
        np.savez(sides / f"{name}.npz", x=data["x"], y=data["y"], unit=unit)
    document = call(capsys, f"{module}:probabilities", *against(sides), "--attack", "loss")
    assert (document["attacks"][0]["n_member"], document["attacks"][0]["n_non_member"]) == (100, 100)


def test_reference_outputs_for_a_model(module, sides, capsys):
    rng = np.random.default_rng(6)
    inside = np.argsort(rng.random((8, 800)), axis=0) < 4
    np.savez(sides / "r.npz", reference_logits=rng.normal(size=(8, 800, 3)), reference_in=inside)
    document = call(capsys, f"{module}:probabilities", *against(sides), "--references", sides / "r.npz")
    assert "lira" in [result["attack"] for result in document["attacks"]]
    np.savez(sides / "r.npz", reference_logits=rng.normal(size=(8, 800, 3)))
    wrong = call(capsys, f"{module}:probabilities", *against(sides), "--references", sides / "r.npz", code=2)
    assert "reference_in" in wrong["error"]["message"]


def test_records_from_csv(module, sides, capsys):
    for name in ("members", "others"):
        data = load(sides / f"{name}.npz")
        header = ",".join([*(f"f{i}" for i in range(20)), "label"])
        rows = [",".join(map(repr, [*map(float, x), int(y)])) for x, y in zip(data["x"], data["y"], strict=True)]
        (sides / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    files = ["--members", sides / "members.csv", "--non-members", sides / "others.csv", "--no-control"]
    document = call(capsys, f"{module}:probabilities", *files)
    assert document["attacks"][2]["auc"] > 0.9


def test_text_for_people(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", member=RNG.normal(1, 1, 300), non_member=RNG.normal(0, 1, 500))
    assert dpaudit(["attack", str(tmp_path / "s.npz")]) == 0
    text = capsys.readouterr().out
    assert "score: AUC 0." in text
    assert "TPR at FPR 1.00%" in text
    assert "500 non-members cannot resolve" in text


def test_a_keras_model(sides, capsys, tmp_path):
    keras = pytest.importorskip("keras")
    (x, y), (rest, _) = records(seed=1), records(seed=2)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=40, verbose=0, batch_size=64)
    model.save(tmp_path / "model.keras")
    document = call(capsys, tmp_path / "model.keras", *against(sides))
    folder = call(capsys, tmp_path, *against(sides))
    assert document["attacks"] == folder["attacks"]
    assert document["attacks"][2]["auc"] > 0.6
    white = call(capsys, tmp_path / "model.keras", *against(sides), "--attack", "gradient-norm")
    assert white["attacks"][0]["auc"] > 0.6
    for name in ("members", "others"):
        np.savez(sides / f"{name}.npz", x=rest[:, :7], y=np.zeros(len(rest), int))
    assert "the model failed" in call(capsys, tmp_path / "model.keras", *against(sides), code=2)["error"]["message"]
    (tmp_path / "broken.keras").write_bytes(b"x")
    assert "cannot be loaded" in call(capsys, tmp_path / "broken.keras", *against(sides), code=2)["error"]["message"]


def test_the_control_the_ceiling_the_groups_and_the_scores(module, sides, capsys):
    pytest.importorskip("tensorflow")
    files = [item for item in against(sides) if item != "--no-control"]
    document = call(
        capsys, f"{module}:probabilities", *files, "--attack", "loss", "--attack", "lira", "--shadow-models", "8",
        "--claim-epsilon", "1", "--delta", "1e-5", "--save-scores", sides / "scores",
    )  # fmt: skip
    checks = {check["id"]: check for check in document["checks"]}
    assert checks["attack.alive"]["status"] == "pass"
    assert checks["attack.alive"]["p_value"] is None
    group = checks["attack.worst_group"]
    assert (group["status"], group["refuted"] is None) == ("fail", False)  # a forest that remembers is not epsilon 1
    assert group["statistic"] > group["threshold"]
    by_name = {result["attack"]: result for result in document["attacks"]}
    assert by_name["loss"]["auc_ceiling"] < 0.75
    assert by_name["loss"]["tpr_at_fpr"][0]["ceiling"] == pytest.approx(0.27, abs=0.01)
    assert {g["grouping"] for g in document["groups"]} == {"everyone", "class"}
    exposed = [record for record in document["exposed"] if record["attack"] == "loss"]
    assert exposed[0]["discovered"]
    assert exposed[0]["index"] < 400
    assert sorted(path.name for path in (sides / "scores").iterdir()) == ["lira.npz", "loss.npz"]
    assert dpaudit(["estimate", str(sides / "scores" / "loss.npz"), "--delta", "1e-5", "--json"]) == 0
    bounds = json.loads(capsys.readouterr().out)["bounds"]
    assert max(bound["epsilon"] for bound in bounds if bound["epsilon"] is not None) > 0.5


def test_a_population_adds_attacks(module, sides, capsys):
    x, y = records(seed=3)
    np.savez(sides / "known.npz", x=x, y=y)
    document = call(capsys, f"{module}:probabilities", *against(sides), "--population", sides / "known.npz")
    by_name = {result["attack"]: result["auc"] for result in document["attacks"]}
    assert by_name["population"] > 0.9
    assert by_name["quantile"] > 0.9
    np.savez(sides / "known.npz", x=x[:, :3], y=y)
    wrong = call(capsys, f"{module}:probabilities", *against(sides), "--population", sides / "known.npz", code=2)
    assert "one shape" in wrong["error"]["message"]


def test_label_only_attacks_run_by_name(module, sides, capsys):
    document = call(capsys, f"{module}:probabilities", *against(sides), "--attack", "label-robustness")
    assert document["attacks"][0]["auc"] > 0.6
    file = sides / "l.npz"
    logits_file(file)
    refused = call(capsys, file, "--attack", "boundary-distance", code=2)
    assert "model to query" in refused["attacks"][0]["reason"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--claim-epsilon", "1"], "belong together"),
        (["--delta", "1e-5"], "belong together"),
        (["--hidden", "64,x"], "--hidden must be"),
        (["--hidden", "0"], "--hidden must be"),
        (["--attack", "gradient-norm"], ".keras files"),
        (["--shadow-models", "4", "--references", "members.npz"], "exclude each other"),
    ],
)
def test_options_that_make_no_sense_exit_2(module, sides, capsys, options, what):
    assert what in call(capsys, f"{module}:probabilities", *against(sides), *options, code=2)["error"]["message"]
