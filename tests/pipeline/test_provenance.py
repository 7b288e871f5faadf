"""Where a run comes from, and when it was trained: a resumed audit must not refresh it."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpaudit.pipeline import provenance


def test_the_date_of_the_training_is_kept(tmp_path: Path) -> None:
    model = tmp_path / "model.keras"
    model.write_bytes(b"x")
    long_ago = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    os.utime(model, (long_ago.timestamp(), long_ago.timestamp()))
    first = provenance.trained_at(tmp_path, model, ledger_digest="a" * 64)
    assert datetime.fromisoformat(first) == long_ago
    model.touch()  # copied, or touched, before the audit is made again
    assert provenance.trained_at(tmp_path, model, ledger_digest="a" * 64) == first
    other = provenance.trained_at(tmp_path, model, ledger_digest="b" * 64)  # another training in the same place
    assert datetime.fromisoformat(other) > long_ago


def test_a_model_from_the_future_is_of_today(tmp_path: Path) -> None:
    model = tmp_path / "model.keras"
    model.write_bytes(b"x")
    os.utime(model, (4e9, 4e9))
    stated = datetime.fromisoformat(provenance.trained_at(tmp_path, model, ledger_digest="a" * 64))
    assert stated <= datetime.now(UTC)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    return subprocess.run(
        ["git", *identity, *words], check=True, cwd=folder, capture_output=True, text=True
    ).stdout.strip()


def test_commit_and_changes(tmp_path: Path) -> None:
    assert provenance._code(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    assert provenance._code(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.py").write_text("x = 2\n")
    assert provenance._code(tmp_path)["dirty"] is True


def test_without_git_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._code(tmp_path) == {"commit": None, "dirty": None}


def test_the_command_names_no_folder_of_this_machine() -> None:
    told = provenance._command(
        ["/usr/bin/dpaudit", "run", "examples/a.toml", "--out", "/home/me/x", "--policy=/etc/p.toml"]
    )
    assert told == "dpaudit run examples/a.toml --out x --policy=p.toml"
