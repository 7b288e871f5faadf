"""Evidence of an honest run, changed and sealed again so that every digest fits: what the gate still notices.

Digests say that files fit together, not who made them, so a bundle can be forged by whoever can write it. These are
the accidents and the lazy forgeries: parts left out, parts of two runs mixed, a claim edited afterwards.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpaudit import accounting, evidence, evidence_store, gate, pipeline, serialize
from dpaudit.errors import EvidenceError
from dpaudit.pipeline.progress import Quiet
from dpaudit.policy import load_policy
from dpaudit.records import Status, Verdict

Change = Callable[[dict[str, Any], Path], None]


class Survived(AssertionError):
    """A changed bundle ended PASS."""


@pytest.fixture(scope="module")
def honest(fast_accounting, small_config, tmp_path_factory) -> dict[str, Path]:
    """Return the bundles of three honest runs: two seeds, and one with more noise than the claim needs."""
    made = {}
    for name, seed, noise in (("first", 1, None), ("second", 2, None), ("noisier", 3, 2.0)):
        out = tmp_path_factory.mktemp("bundles") / name
        outcome = pipeline.run(
            small_config(seed, noise_multiplier=noise),
            out,
            policy=load_policy("demonstration"),
            resume=False,
            today=datetime.now(UTC).date(),
            reporter=Quiet(),
        )
        made[name] = outcome.evidence.root
    return made


def judge(folder: Path) -> Verdict:
    bundle = evidence.read_evidence(folder)
    fresh = None
    if bundle.ledger is not None:
        fresh = accounting.summarize(bundle.ledger, delta=bundle.claim.delta, relation=bundle.claim.relation)
    return gate.evaluate(bundle, load_policy("demonstration"), today=datetime.now(UTC).date(), recomputed=fresh)


def seal(folder: Path) -> None:
    """Write a manifest that fits the files as they are now."""
    names = sorted(path.name for path in folder.iterdir() if path.name != evidence_store.MANIFEST)
    manifest = serialize.loads((folder / evidence_store.MANIFEST).read_bytes())
    data = {name: (folder / name).read_bytes() for name in names}
    manifest["files"] = {n: {"sha256": serialize.sha256_bytes(d), "bytes": len(d)} for n, d in data.items()}
    manifest.pop("digest")
    digest = serialize.sha256_bytes(serialize.dumps(manifest).encode())
    (folder / evidence_store.MANIFEST).write_text(serialize.dumps({**manifest, "digest": digest}))


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / f"{name}.json"
    path.write_text(serialize.dumps(change(serialize.loads(path.read_bytes()))))


def setting(name: str, **values: Any) -> Change:
    return lambda _others, folder: edit(folder, name, lambda old: {**old, **values})


def emptied(name: str) -> Change:
    return lambda _others, folder: edit(folder, name, lambda _old: [])


def without(name: str, *prefixes: str) -> Change:
    def keep(old: list[Any]) -> list[Any]:
        return [item for item in old if not item.get("id", item.get("method")).startswith(prefixes)]

    return lambda _others, folder: edit(folder, name, keep)


def no_numbers(_others: dict[str, Path], folder: Path) -> None:
    """Checks that say pass, and nothing else."""
    left_out = ("statistic", "threshold", "p_value", "minimum_detectable", "n")
    edit(folder, "checks", lambda old: [{**item, **dict.fromkeys(left_out)} for item in old])


def ledger_of(name: str) -> Change:
    """Put the ledger of another run in, with the accounting of that ledger."""

    def change(others: dict[str, Path], folder: Path) -> None:
        for file in ("ledger.jsonl", "accounting.json"):
            shutil.copy(others[name] / file, folder / file)

    return change


def parts_of(name: str, *files: str) -> Change:
    def change(others: dict[str, Path], folder: Path) -> None:
        for file in files:
            shutil.copy(others[name] / file, folder / file)

    return change


def coins_all_in(_others: dict[str, Path], folder: Path) -> None:
    with np.load(folder / "coins.npz") as archive:
        arrays = {name: np.ones_like(archive[name]) for name in archive.files}
    (folder / "coins.npz").write_bytes(evidence_store.pack_arrays(arrays))


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """One change to a sealed bundle, and the finding that must name it."""

    name: str
    change: Change
    status: Status
    caught_by: str
    survives: str | None = None


F, U = Status.FAIL, Status.INCONCLUSIVE
FORGERIES = (
    Forgery(name="no checks", change=emptied("checks"), status=U, caught_by="DPA007"),
    Forgery(name="no sampling checks", change=without("checks", "sampling."), status=U, caught_by="DPA102"),
    Forgery(name="no clip check", change=without("checks", "clip."), status=U, caught_by="DPA007"),
    Forgery(
        name="no noise.scale", change=without("checks", "noise.scale"), status=U, caught_by="DPA007",
    ),
    Forgery(
        name="one check of each kind", status=U, caught_by="DPA102",
        change=without(
            "checks", "noise.scale", "noise.reuse", "sampling.client", "sampling.example-rate", "sampling.example-i",
            "sampling.example-b", "sampling.eligible", "ledger.",
        ),
    ),
    Forgery(
        name="no ledger checks", change=without("checks", "ledger."), status=U, caught_by="DPA102",
    ),
    Forgery(
        name="checks without numbers", change=no_numbers, status=U, caught_by="DPA007",
    ),
    Forgery(name="no bounds", change=emptied("bounds"), status=U, caught_by="DPA101"),
    Forgery(name="no powers", change=emptied("powers"), status=U, caught_by="DPA103"),
    Forgery(name="no attacks", change=emptied("attacks"), status=U, caught_by="DPA202"),
    Forgery(name="only the weak bound", change=without("bounds", "per-step"), status=U, caught_by="DPA103"),
    Forgery(name="claim lowered", change=setting("claim", epsilon=5.0), status=F, caught_by="DPA001"),
    Forgery(name="claim raised", change=setting("claim", epsilon=20.0), status=U, caught_by="DPA103"),
    Forgery(name="claim for clients", change=setting("claim", unit="client"), status=F, caught_by="DPA005"),
    Forgery(name="delta of 1/N", change=setting("claim", delta=1e-3), status=F, caught_by="DPA004"),
    Forgery(name="another delta", change=setting("claim", delta=1e-6), status=F, caught_by="DPA001"),
    Forgery(name="fewer rounds ran", change=setting("training", rounds=39), status=F, caught_by="DPA306"),
    Forgery(name="coins all in", change=coins_all_in, status=F, caught_by="DPA104"),
    Forgery(
        name="the ledger of a run with more noise", change=ledger_of("noisier"), status=F, caught_by="DPA306",
    ),
    Forgery(
        name="the ledger of another run", change=ledger_of("second"), status=F, caught_by="DPA306",
    ),
    Forgery(
        name="checks and bounds of another run", change=parts_of("second", "checks.json", "bounds.json"), status=F,
        caught_by="DPA104",
    ),
)  # fmt: skip


def cases() -> list[Any]:
    made = []
    for forgery in FORGERIES:
        mark = pytest.mark.xfail(strict=True, reason=forgery.survives, raises=Survived)
        made.append(pytest.param(forgery, id=forgery.name, marks=[mark] if forgery.survives else []))
    return made


@pytest.mark.parametrize("forgery", cases())
def test_a_changed_bundle_does_not_pass(forgery, honest, tmp_path):
    folder = tmp_path / "evidence"
    shutil.copytree(honest["first"], folder)
    forgery.change(honest, folder)
    seal(folder)
    verdict = judge(folder)
    if verdict.status == Status.PASS:
        raise Survived(forgery.name)
    assert verdict.status == forgery.status
    assert {f.rule: f.status for f in verdict.findings}[forgery.caught_by] == forgery.status


def test_sealing_again_changes_nothing(honest, tmp_path):
    """The honest twin of this file: a copy that was sealed again passes."""
    shutil.copytree(honest["first"], tmp_path / "evidence")
    seal(tmp_path / "evidence")
    assert judge(tmp_path / "evidence").status == Status.PASS


@pytest.mark.parametrize("file", ["checks.json", "coins.npz", "ledger.jsonl", "claim.json"])
def test_a_change_without_a_new_seal_is_refused(honest, tmp_path, file):
    folder = tmp_path / "evidence"
    shutil.copytree(honest["first"], folder)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(EvidenceError, match=file):
        evidence.read_evidence(folder)
