"""Bad input ends with exit code 2 and a sentence; interrupted runs lose nothing and count nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpaudit.cli.main import run as dpaudit
from dpaudit.ledger import PrivacyLedger

ROOT = Path(__file__).resolve().parents[2]
DIGITS = (ROOT / "examples" / "digits_federated.toml").read_text()
AS_USERS_HAVE_IT = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
"""With as many threads as there are cores: releases must not depend on which of them is first."""


@pytest.fixture(scope="module")
def tiny():
    """The digits example, small: few rounds, few canaries, no reference models."""
    text = DIGITS
    for key, value in {
        "rounds": "12", "clients": "8", "hidden": "[8]", "count": "60", "reference_models": "0",
        "attacks": '["loss"]',
    }.items():  # fmt: skip
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in text.splitlines()]
        text = "\n".join(lines) + "\n"
    return text + "power_trials = 20\n" if text.rstrip().endswith("reference_models = 0") else text


def call(*arguments):
    command = [sys.executable, "-m", "dpaudit", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=AS_USERS_HAVE_IT)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("rounds = 12", "ronds = 12", "Did you mean 'rounds'"),
        ("delta = 1e-5", "delta = 1.5", "claim.delta"),
        ("delta = 1e-5", "delta = 0.01", "1/N"),
        ("epsilon = 6.0", "epsilon = 1e6", "too large"),
        ('source = "digits"', 'source = "no/such/file.npz"', "no/such/file.npz"),
        ("clients = 8", "clients = 5000", "client"),
    ],
)
def test_bad_configurations_exit_2_and_leave_no_ledger(tiny, tmp_path, capsys, old, new, what):
    assert old in tiny
    (tmp_path / "c.toml").write_text(tiny.replace(old, new, 1))
    assert dpaudit(["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "o"), "-q", "--json"]) == 2
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["schema"] == "dpaudit.run/v1"
    assert what in document["error"]["message"]
    assert "Traceback" not in captured.err
    assert not (tmp_path / "o" / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [
        (np.array([[0.0, np.nan]] * 40), np.zeros(40, int), "NaN"),
        (np.zeros((40, 2)), np.full(40, -1), "label"),
        (np.zeros((40, 2)), np.full(40, 0.5), "label"),
        (np.zeros((40, 2)), np.zeros(39, int), "39"),
        (np.zeros((0, 2)), np.zeros(0, int), "no example"),
    ],
)
def test_bad_data_exits_2(tiny, tmp_path, capsys, x, y, what):
    np.savez(tmp_path / "d.npz", x=x, y=y)
    (tmp_path / "c.toml").write_text(tiny.replace('source = "digits"', f'source = "{tmp_path / "d.npz"}"'))
    assert dpaudit(["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "o"), "-q"]) == 2
    assert what in capsys.readouterr().err


def test_an_output_folder_that_holds_something_is_not_touched(tiny, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(tiny)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis").write_text("x")
    assert dpaudit(["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "o"), "-q"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["thesis"]


def _wait_for_rounds(process, ledger, rounds):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if ledger.exists() and ledger.read_bytes().count(b"\n") > rounds:
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended or hung before round {rounds}: {process.poll()}")


def _released(ledger):
    return [entry.facts["release_sha256"] for entry in ledger.events()]


@pytest.fixture(scope="module")
def long_run(tiny, tmp_path_factory):
    """The configuration of a run of 400 rounds, what the unbroken run released, and its verdict."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = folder / "c.toml"
    config.write_text(tiny.replace("rounds = 12", "rounds = 400"))
    done = call("run", config, "--out", folder / "o", "-q", "--json")
    released = _released(PrivacyLedger.open(folder / "o" / "ledger.jsonl"))
    assert len(released) == 400
    return config, released, json.loads(done.stdout)["verdict"]["status"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_run_says_what_it_spent_and_goes_on(long_run, tmp_path, number, code):
    config, unbroken, verdict = long_run
    out = tmp_path / "o"
    process = subprocess.Popen(
        [sys.executable, "-m", "dpaudit", "run", str(config), "--out", str(out), "-q"],
        stderr=subprocess.PIPE,
        text=True,
        env=AS_USERS_HAVE_IT,
    )
    _wait_for_rounds(process, out / "ledger.jsonl", 15)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors

    spent = PrivacyLedger.open(out / "ledger.jsonl")
    before = [entry.facts["round"] for entry in spent.events()]
    assert before == list(range(before[0], before[0] + len(before)))
    assert 15 <= len(before) < 400
    assert spent.epsilon(1e-5) > 0

    done = call("run", config, "--out", out, "--resume", "-q", "--json")
    assert done.returncode in (0, 1, 3), done.stderr
    document = json.loads(done.stdout)
    assert set(document) >= {"evidence", "claim", "epsilon", "bounds", "attacks", "checks", "verdict"}
    after = PrivacyLedger.open(out / "ledger.jsonl")
    rounds = [entry.facts["round"] for entry in after.events()]
    assert rounds == sorted(set(rounds)), "a round was counted twice"
    assert len(rounds) == 400

    assert _released(after) == unbroken, "the resumed run released something else than the unbroken one"
    assert document["verdict"]["status"] == verdict
