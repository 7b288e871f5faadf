"""Mutated bundles whose digests fit: a verdict or an EvidenceError, no traceback, and no pass that was not deserved."""

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dpaudit import reports, serialize
from dpaudit.errors import DpauditError
from dpaudit.evidence import read_evidence
from dpaudit.gate import evaluate
from dpaudit.policy import load_policy
from dpaudit.records import Status

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.0, -0.5, 1e-300, 1e300, 1e308, 2**70, 10**400, float("inf"), float("nan")),
    *("", "pass", "PASS", "waived", "\x00", "\u202e<b>", "\ud800", "1.0", "x" * 10_000, "a" * 300),
    *([], {}, [[]], [0.1, 0.2], {"kind": "poisson"}, [1e308, -1e308]),
)
FILES = ("accounting", "attacks", "bounds", "checks", "claim", "curves", "environment", "powers", "training")


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from nodes(item, (*path, key))


def mutate(value: Any, rng: random.Random) -> Any:
    """Change one place: another value, a key or item less, one more, two exchanged, a number slightly off."""
    path = rng.choice(list(nodes(value))[:4000])
    if not path:
        return copy.deepcopy(rng.choice(VALUES))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    kind = rng.randrange(5)
    if kind == 0:
        del parent[path[-1]]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(["extra", "status", "epsilon", path[-1] + "x"])] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 2 and isinstance(parent, list):
        parent.insert(path[-1], parent[path[-1]])
    elif kind == 3 and isinstance(parent[path[-1]], int | float):
        parent[path[-1]] = min(parent[path[-1]], 2**1000) * rng.choice([-1, 0, 0.5, 1 + 1e-9, 1000])
    else:
        parent[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return value


def reseal(folder: Path, name: str, value: Any) -> None:
    data = json.dumps(value).encode("utf-8", "surrogatepass")
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["digest"]
    manifest["files"][name] = {"sha256": serialize.sha256_bytes(data), "bytes": len(data)}
    manifest["digest"] = serialize.sha256_bytes(serialize.dumps(manifest).encode())
    (folder / "manifest.json").write_text(serialize.dumps(manifest))


def flawed(factory: ModuleType) -> dict[str, tuple[dict[str, Any], set[str]]]:
    """Bundles that must not pass, with the files in which the flaw lies."""
    scale = factory.check("noise.scale", status=Status.FAIL, detail="half the noise")
    others = tuple(factory.check(name) for name in factory.CHECKS[1:])
    return {
        "bound": ({"bounds": (factory.bound(epsilon=1e3),)}, {"bounds", "claim"}),
        "noise": ({"checks": (scale, *others)}, {"checks"}),
        "power": ({"powers": (), }, {"powers"}),
        "unchecked": ({"checks": others[2:]}, {"checks"}),
    }  # fmt: skip


def judged(folder: Path, factory: ModuleType) -> Status | None:
    """Read, judge and render; None where the bundle is refused."""
    try:
        bundle = read_evidence(folder)
    except DpauditError:
        return None
    recomputed = factory.fresh(bundle) if bundle.ledger is not None else None
    verdict = evaluate(bundle, load_policy("standard"), today=factory.TODAY, recomputed=recomputed)
    assert not any("could not be judged: " in f.message and "Error" in f.message for f in verdict.findings), verdict
    for kind in ("text", "json", "junit", "junit-strict", "md"):
        reports.render(kind, bundle, verdict).encode()
    reports.render_report("md", bundle, verdict).encode()
    return verdict.status


def attempt(factory: ModuleType, tmp_path: Path, flaw: str, *, mutants: int, seed: int) -> None:
    changes, own = flawed(factory)[flaw]
    bundle = factory.make(tmp_path, **changes)
    assert judged(bundle.root, factory) in (Status.FAIL, Status.INCONCLUSIVE)
    good = {path.name: path.read_bytes() for path in bundle.root.iterdir()}
    rng = random.Random(seed)
    outcomes: dict[Status | None, int] = {}
    for _ in range(mutants):
        chosen = rng.sample([name for name in FILES if name not in own], k=rng.choice([1, 1, 2]))
        for name in chosen:
            value = json.loads(good[f"{name}.json"])
            for _ in range(rng.choice([1, 1, 2, 4])):
                value = mutate(value, rng)
            reseal(bundle.root, f"{name}.json", value)
        status = judged(bundle.root, factory)
        assert status != Status.PASS, {name: (bundle.root / f"{name}.json").read_text()[:2000] for name in chosen}
        outcomes[status] = outcomes.get(status, 0) + 1
        for name, data in good.items():
            (bundle.root / name).write_bytes(data)
    assert outcomes.get(None, 0) > 0.2 * mutants
    assert mutants - outcomes.get(None, 0) > 0.1 * mutants  # the mutations reach the rules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence", "ledger.jsonl"]
    shutil.rmtree(bundle.root)


@pytest.mark.parametrize("flaw", ["bound", "noise", "power", "unchecked"])
def test_mutants(factory: ModuleType, tmp_path: Path, flaw: str) -> None:
    attempt(factory, tmp_path, flaw, mutants=60, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("flaw", ["bound", "noise", "power", "unchecked"])
def test_ten_thousand_mutants(factory: ModuleType, tmp_path: Path, flaw: str) -> None:
    attempt(factory, tmp_path, flaw, mutants=2500, seed=2)


def test_an_honest_bundle_that_is_mutated_is_read_or_refused(factory: ModuleType, tmp_path: Path) -> None:
    """HTML too, which draws figures from whatever the bundle says."""
    bundle = factory.make(tmp_path)
    good = {path.name: path.read_bytes() for path in bundle.root.iterdir()}
    rng = random.Random(3)
    rendered = 0
    for _ in range(120):
        name = rng.choice(FILES)
        value = json.loads(good[f"{name}.json"])
        for _ in range(rng.choice([1, 2, 4])):
            value = mutate(value, rng)
        reseal(bundle.root, f"{name}.json", value)
        try:
            changed = read_evidence(bundle.root)
        except DpauditError:
            changed = None
        if changed is not None and rendered < 12:
            verdict = evaluate(changed, load_policy("strict"), today=factory.TODAY, recomputed=factory.fresh(changed))
            assert reports.render("html", changed, verdict).startswith("<!DOCTYPE html>")
            rendered += 1
        for file, data in good.items():
            (bundle.root / file).write_bytes(data)
    assert rendered == 12
