"""Exit codes, table-driven: every status, every format, every combination of options."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dpaudit.cli.main import run
from dpaudit.reports import FORMATS

CODES = {"pass": 0, "fail": 1, "inconclusive": 3, "unreadable": 2}
FLAGS = ("--allow-inconclusive", "--report-only", "--no-ci", "--quiet", "--json")
NOW = ["--now", "2026-11-23", "--policy", "policy.toml"]


@pytest.fixture(scope="module")
def bundles(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    changes = {"pass": {}, "fail": {"bounds": (factory.bound(epsilon=9.0),)}, "inconclusive": {"powers": ()}}
    made = {name: factory.make(tmp_path_factory.mktemp(name), **change).root for name, change in changes.items()}
    broken = factory.make(tmp_path_factory.mktemp("unreadable")).root
    (broken / "claim.json").unlink()
    return {**made, "unreadable": broken}


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    Path("policy.toml").write_text("[claim]\nrecompute = false\n")


def combinations() -> Iterator[tuple[str, ...]]:
    for size in range(len(FLAGS) + 1):
        yield from itertools.combinations(FLAGS, size)


def expected(status: str, flags: tuple[str, ...]) -> int:
    if status == "unreadable":
        return 2  # no option makes unreadable evidence pass
    if "--report-only" in flags or (status == "inconclusive" and "--allow-inconclusive" in flags):
        return 0
    return CODES[status]


@pytest.mark.parametrize("status", list(CODES))
def test_every_combination_of_options(
    bundles: dict[str, Path], capsys: pytest.CaptureFixture[str], status: str
) -> None:
    for flags in combinations():
        code = run(["gate", str(bundles[status]), *NOW, *flags])
        printed = capsys.readouterr().out
        assert code == expected(status, flags), flags
        if "--json" in flags:
            document = json.loads(printed)
            told = document["error"]["exit_code"] if status == "unreadable" else document["exit_code"]
            assert told == code
            if status != "unreadable":
                assert document["status"] == status
        elif status != "unreadable":
            last = printed.strip().splitlines()[-1]
            assert last.startswith(f"{status.upper()}: ")
            assert ("exit 0 instead" in last) == (code != CODES[status])


TABLE = [
    pytest.param(kind, status, marks=[pytest.mark.slow] if kind == "html" and status != "fail" else [])
    for kind in FORMATS
    for status in CODES
]


@pytest.mark.parametrize(("kind", "status"), TABLE)
def test_every_format(bundles: dict[str, Path], status: str, kind: str) -> None:
    arguments = ["gate", str(bundles[status]), *NOW, "--output", f"{kind}=out", "--quiet"]
    assert run(arguments) == CODES[status]
    assert Path("out").exists() == (status != "unreadable")
    if kind != "html":  # which takes a while to draw
        Path("folder").mkdir()
        assert run([*arguments, "--output", f"{kind}=folder"]) == 2  # what cannot be written is an error, no verdict


@pytest.mark.parametrize("profile", ["strict", "standard", "research", "demonstration"])
def test_every_profile_has_a_verdict(bundles: dict[str, Path], profile: str) -> None:
    for status in ("fail", "inconclusive"):
        code = run(["gate", str(bundles[status]), "--now", "2026-11-23", "--no-recompute", "--policy", profile, "-q"])
        assert code == CODES[status]
