"""`dpaudit check sampling` and `check ledger`: the JSON keys, the exit codes, the file forms, bad input."""

import json

import numpy as np
import pytest

from dpaudit import events as ev
from dpaudit.cli.main import run as dpaudit
from dpaudit.ledger import PrivacyLedger

KEYS = {"id", "status", "statistic", "threshold", "p_value", "detail", "minimum_detectable"}


def call(capsys, *arguments, code):
    assert dpaudit(["check", *map(str, arguments), "--json"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    document = json.loads(captured.out)
    assert document["schema"] == "dpaudit.check/v1"
    if code != 2:
        assert set(document) >= {"status", "checks", "refuted"}
        assert all(set(check) >= KEYS for check in document["checks"])
    return document


def write(path, batches, units):
    record = np.zeros((len(batches), units), bool)
    for row, batch in zip(record, batches, strict=True):
        row[batch] = True
    if path.name == "participation.npz":
        np.savez(path, participation=record)
    elif path.name == "offsets.npz":
        offsets = np.concatenate([[0], np.cumsum([len(b) for b in batches])])
        np.savez(path, indices=np.concatenate(batches), offsets=offsets)
    elif path.suffix == ".csv":
        rows = [f"{t},{i}" for t, batch in enumerate(batches) for i in batch]
        path.write_text("batch,index\n" + "\n".join(rows) + "\n")
    else:
        path.write_text("\n".join(json.dumps(list(map(int, batch))) for batch in batches) + "\n")


FORMS = ["participation.npz", "offsets.npz", "batches.csv", "batches.jsonl"]


@pytest.mark.parametrize("form", FORMS)
def test_poisson_passes_and_shuffled_batches_fail(tmp_path, capsys, form):
    rng, units = np.random.default_rng(0), 500
    honest = [np.flatnonzero(rng.random(units) < 0.1) for _ in range(60)]
    write(tmp_path / form, honest, units)
    options = [] if form == "participation.npz" else ["--population", units]
    document = call(capsys, "sampling", tmp_path / form, "--sampling-rate", 0.1, *options, code=0)
    assert document["status"] == "pass"
    assert document["refuted"] == []
    assert (document["rounds"], document["population"]) == (60, 500)

    epochs = [batch for _ in range(6) for batch in rng.permutation(units).reshape(10, 50)]
    write(tmp_path / form, epochs, units)
    document = call(capsys, "sampling", tmp_path / form, "--sampling-rate", 0.1, *options, code=1)
    assert document["status"] == "fail"
    assert document["refuted"] == ["Poisson sampling with rate 0.1"]
    assert dpaudit(["check", "sampling", str(tmp_path / form), "--sampling-rate", "0.1", *map(str, options)]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_fixed_batches_as_an_array(tmp_path, capsys):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "b.npz", batches=np.stack([rng.permutation(400)[:40] for _ in range(40)]))
    document = call(capsys, "sampling", tmp_path / "b.npz", "--sampling-rate", 0.1, code=1)
    assert [c["id"] for c in document["checks"] if c["status"] == "fail"] == ["sampling.batch-size"]


def test_too_short_is_inconclusive(tmp_path, capsys):
    write(tmp_path / "batches.jsonl", [[1, 2], [0]], 30)
    assert call(capsys, "sampling", tmp_path / "batches.jsonl", "--sampling-rate", 0.05, "--population", 30, code=3)
    (tmp_path / "batches.jsonl").write_text("")
    assert (
        call(capsys, "sampling", tmp_path / "batches.jsonl", "--sampling-rate", 0.05, code=3)["status"]
        == "inconclusive"
    )


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.txt", "1", "must end in"),
        ("a.csv", "batch,index\n0,x\n", "whole numbers"),
        ("a.csv", "batch,index\n0,1.5\n", "whole numbers"),
        ("a.csv", "batch\n0\n", "columns"),
        ("a.csv", "batch,index\n-1,1\n", "numbered"),
        ("a.csv", "batch,index\n4000000000,1\n", "numbered"),
        ("a.jsonl", "[1, 1]\n", "twice"),
        ("a.jsonl", "[-1]\n", "outside"),
        ("a.jsonl", "{\n", "JSON"),
        ("a.jsonl", "[[1]]\n", "list of indices"),
        ("a.jsonl", '["a"]\n', "whole numbers"),
        ("a.npz", "junk", "cannot be read"),
    ],
)
def test_bad_records_exit_2(tmp_path, capsys, name, content, what):
    (tmp_path / name).write_text(content)
    document = call(capsys, "sampling", tmp_path / name, "--sampling-rate", 0.1, code=2)
    assert what in document["error"]["message"]


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"participation": np.full((3, 3), 2)}, "0 and 1"),
        ({"participation": np.full((3, 3), np.nan)}, "0 and 1"),
        ({"other": np.zeros(3)}, "needs participation"),
        ({"indices": np.arange(5), "offsets": np.array([0, 3])}, "offsets must rise"),
        ({"indices": np.arange(5), "offsets": np.array([0, 9, 5])}, "offsets must rise"),
    ],
)
def test_bad_arrays_exit_2(tmp_path, capsys, arrays, what):
    np.savez(tmp_path / "a.npz", **arrays)
    document = call(capsys, "sampling", tmp_path / "a.npz", "--sampling-rate", 0.1, code=2)
    assert what in document["error"]["message"]


def test_missing_files_and_rates_exit_2(tmp_path, capsys):
    assert (
        "no file" in call(capsys, "sampling", tmp_path / "no.npz", "--sampling-rate", 0.1, code=2)["error"]["message"]
    )
    write(tmp_path / "batches.jsonl", [[1]], 3)
    assert call(capsys, "sampling", tmp_path / "batches.jsonl", "--sampling-rate", 1.5, code=2)
    assert call(capsys, "sampling", tmp_path / "batches.jsonl", code=2)


def test_ledger(tmp_path, capsys):
    ledger = PrivacyLedger(tmp_path / "l.jsonl", noise_multiplier=1.0, clip_norm=2.0, denominator=5.0)
    for number in range(3):
        ledger.record(ev.Gaussian(noise_multiplier=1.0), round=number, noise_stddev=2.0, expected=5.0)
    document = call(capsys, "ledger", tmp_path / "l.jsonl", "--rounds", 3, "--noise-draws", 3, code=0)
    assert document["digest"] == ledger.digest
    assert len(document["checks"]) == 4
    assert call(capsys, "ledger", tmp_path / "l.jsonl", "--rounds", 4, code=1)["refuted"]
    ledger.record(ev.Gaussian(noise_multiplier=1.0), round=7, noise_stddev=2.0, expected=5.0)
    assert call(capsys, "ledger", tmp_path / "l.jsonl", code=1)["status"] == "fail"
    PrivacyLedger(tmp_path / "empty.jsonl")
    assert call(capsys, "ledger", tmp_path / "empty.jsonl", code=3)["status"] == "inconclusive"
    text = (tmp_path / "l.jsonl").read_text().replace('"noise_stddev":2.0', '"noise_stddev":3.0')
    (tmp_path / "l.jsonl").write_text(text)
    assert "line 2" in call(capsys, "ledger", tmp_path / "l.jsonl", code=2)["error"]["message"]
    assert call(capsys, "ledger", tmp_path / "none.jsonl", code=2)


SUBJECTS = "dpaudit.verification.subject_server"
NOISE, COHORT = "dpaudit.verification.subject_noise", "dpaudit.verification.subject_cohort"
MECHANISMS = "dpaudit.verification.subject_mechanisms"


def test_step(capsys):
    document = call(capsys, "step", f"{SUBJECTS}:Server.step", "--noise-multiplier", 1, code=0)
    assert document["status"] == "pass"
    assert {"step.sensitivity", "step.noise", "step.noise-reuse"} <= {check["id"] for check in document["checks"]}
    options = ["--sampling-rate", 0.01, "--steps", 1000, "--delta", 1e-5]
    document = call(
        capsys,
        "step",
        f"{NOISE}:HalfNoise.step",
        "--noise-multiplier",
        1,
        *options,
        code=1,
    )
    assert document["refuted"] == ["noise multiplier 1"]
    assert "epsilon at least" in next(c for c in document["checks"] if c["id"] == "step.sensitivity")["detail"]
    assert call(capsys, "step", f"{COHORT}:NotSeeded.step", "--noise-multiplier", 1, code=3)["status"] == "inconclusive"


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("nothing", "module:attribute"),
        ("no_such_module:f", "cannot be imported"),
        (f"{SUBJECTS}:Missing.step", "cannot be imported"),
        (f"{SUBJECTS}:EXPECTED", "needs a function"),
        (f"{SUBJECTS}:Server", "must return"),
    ],
)
def test_bad_steps_exit_2(capsys, target, what):
    document = call(capsys, "step", target, "--noise-multiplier", 1, code=2)
    assert what in document["error"]["message"]


def test_mechanism(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_mechanisms.py").write_text(
        "from dpaudit.verification import subject_mechanisms as s, Neighbours\n"
        "honest, broken = s.laplace(1.0), s.laplace(0.5)\n"
        "def made(): return s.gaussian(0.5)\n"
        "def bare(d, n, rng): return d + 0.5 * rng.laplace(size=n)\n"
        "pair = Neighbours(first=0, second=1)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    name = "my_mechanisms"
    document = call(capsys, "mechanism", f"{name}:honest", "--epsilon", 1, "--max-pairs", 4000, code=0)
    assert document["checks"][0]["id"] == "mechanism.privacy"
    assert call(capsys, "mechanism", f"{name}:broken", "--epsilon", 1, code=1)["refuted"] == ["1-DP"]
    assert call(capsys, "mechanism", f"{name}:made", "--mu", 1, code=1)["refuted"] == ["1-GDP"]
    assert call(capsys, "mechanism", f"{name}:bare", "--epsilon", 1, "--pairs", f"{name}:pair", code=1)
    assert call(capsys, "mechanism", f"{name}:honest", "--epsilon", 1, "--max-pairs", 50, code=3)
    assert call(capsys, "mechanism", f"{name}:honest", "--epsilon", 1, "--float-bits", code=1)
    for arguments, what in [
        ([f"{name}:number", "--epsilon", 1], "MechanismSubject"),
        ([f"{name}:bare", "--epsilon", 1], "--pairs"),
        ([f"{name}:honest"], "epsilon"),
        ([f"{name}:honest", "--epsilon", 1, "--mu", 1], "either"),
        ([f"{name}:honest", "--epsilon", -1], "epsilon"),
    ]:
        assert what in call(capsys, "mechanism", *arguments, code=2)["error"]["message"]
    assert call(capsys, "mechanism", f"{MECHANISMS}:constant", "--epsilon", 1, "--max-pairs", 3000, code=0)


def test_mechanism_claims(tmp_path, monkeypatch, capsys):
    (tmp_path / "more_mechanisms.py").write_text(
        "from dpaudit.verification import subject_mechanisms as s, neighbours\n"
        "honest, broken = s.gaussian(1.0), s.gaussian(0.4)\n"
        "def bare(d, n, rng): return d + 0.5 * rng.laplace(size=n)\n"
        "strategy = neighbours.sums(largest=5.0)\n"
    )
    monkeypatch.chdir(tmp_path)
    name = "more_mechanisms"
    document = call(capsys, "mechanism", f"{name}:broken", "--renyi", 2, 1, code=1)
    assert document["refuted"] == ["(2, 1)-Renyi DP"]
    profile = tmp_path / "profile.json"
    assert dpaudit(["account", "--noise-multiplier", "1", "--steps", "1", "--sampling-rate", "1", "--delta", "1e-5",
                    "--json"]) == 0  # fmt: skip
    profile.write_text(capsys.readouterr().out)
    assert call(capsys, "mechanism", f"{name}:broken", "--profile", profile, code=1)["claim"] == (
        "the profile of profile.json"
    )
    assert call(capsys, "mechanism", f"{name}:honest", "--profile", profile, "--max-pairs", 5000, code=0)
    document = call(capsys, "mechanism", f"{name}:broken", "--mu", 1, "--delta", 1e-5, "--fixed", code=1)
    assert 4 < document["epsilon_at_least"] < 13
    document = call(
        capsys, "mechanism", f"{name}:bare", "--pairs", f"{name}:strategy", "--search", 5, "--epsilon", 1, code=1
    )
    assert "5 pair(s)" in document["checks"][0]["detail"]
    profile.write_text('{"profile": 3}')
    for arguments, what in [
        (["--profile", profile], "profile"),
        (["--profile", tmp_path / "missing.json"], "missing.json"),
        (["--renyi", 1, 1], "order"),
        (["--mu", 1, "--renyi", 2, 1], "either"),
    ]:
        assert what in call(capsys, "mechanism", f"{name}:honest", *arguments, code=2)["error"]["message"]


def test_sampling_against_a_ledger(tmp_path, capsys):
    rng, units, size = np.random.default_rng(0), 200, 20
    noise = ev.Gaussian(noise_multiplier=1.0)
    ledger = PrivacyLedger(tmp_path / "l.jsonl", noise_multiplier=1.0)
    ledger.record(ev.SampledWithoutReplacement(population=units, sample_size=size, event=noise), round=0)
    write(tmp_path / "batches.jsonl", [rng.permutation(units)[:size] for _ in range(60)], units)
    arguments = ("sampling", tmp_path / "batches.jsonl", "--ledger", tmp_path / "l.jsonl")
    document = call(capsys, *arguments, code=0)
    assert document["sampler"] == "SampledWithoutReplacement"
    assert document["population"] == units
    write(tmp_path / "batches.jsonl", [b for _ in range(6) for b in rng.permutation(units).reshape(-1, size)], units)
    assert call(capsys, *arguments, code=1)["refuted"]
    assert call(capsys, "sampling", tmp_path / "batches.jsonl", "--sampling-rate", 0.1, code=1)
    assert "either" in call(capsys, *arguments, "--sampling-rate", 0.1, code=2)["error"]["message"]
