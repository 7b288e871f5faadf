"""Every single-bit change of every file of a small honest bundle is noticed: all bits, none sampled."""

from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dpaudit import evidence, serialize
from dpaudit import evidence_manifest as manifests
from dpaudit import evidence_store as store
from dpaudit.errors import EvidenceError
from dpaudit.records import AccountingSummary, ScoreSet


def small(factory: ModuleType, folder: Path) -> evidence.Evidence:
    """A bundle of every kind of file, each as small as it can honestly be."""
    path = folder / "ledger.jsonl"
    ledger = factory.write_ledger(path, rounds=1)
    scores, coins = np.array([0.5, -0.25]), np.array([True, False])
    curve = evidence.Curve(roc=((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)), edges=(0.0, 1.0), member=(1.0,), non_member=(1.0,))
    summary = AccountingSummary(
        delta=factory.DELTA,
        relation=factory.RELATION,
        epsilon_rdp=None,
        epsilon_pld=2.0,
        reasons={"epsilon_rdp": "not asked"},
        ledger_digest=ledger.digest,
    )
    return factory.make(
        folder,
        ledger_path=path,
        accounting=summary,
        bounds=(factory.bound(),),
        attacks=(factory.attack(),),
        checks=(factory.check("noise.scale"),),
        powers=(factory.power(),),
        training={"rounds": 1, "model_sha256": factory.MODEL},
        environment={"dpaudit": "0.1.0"},
        policy={"profile": "standard"},
        provenance={"code": {"commit": factory.COMMIT, "dirty": False}},
        curves={"canaries": curve},
        scores={"canaries": scores},
        coins=coins,
        created=datetime(2026, 11, 20, tzinfo=UTC),
    )


def contents(bundle: evidence.Evidence) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.root.iterdir()}


def read(root: Path, files: dict[str, bytes]) -> evidence.Evidence:
    """Read a bundle from memory: what `read_evidence` does once it has the bytes."""
    manifests.compare_names(set(files) - {store.MANIFEST}, set(manifests.listed_files(files[store.MANIFEST])))
    return evidence._assemble(root, files)


def noticed(root: Path, files: dict[str, bytes]) -> bool:
    try:
        read(root, files)
    except EvidenceError:
        return True
    return False


def test_the_reader_from_memory_reads_what_the_reader_from_disk_reads(factory: ModuleType, tmp_path: Path) -> None:
    bundle = small(factory, tmp_path)
    files = contents(bundle)
    assert set(files) == evidence.KNOWN
    assert not noticed(bundle.root, files)
    one, other = read(bundle.root, files), evidence.read_evidence(bundle.root)
    assert one.digest == other.digest
    assert serialize.dumps(one.bounds) == serialize.dumps(other.bounds)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(evidence.KNOWN))
def test_every_single_bit_change_is_noticed(factory: ModuleType, tmp_path: Path, name: str) -> None:
    bundle = small(factory, tmp_path)
    files = contents(bundle)
    data = files[name]
    missed = []
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            if not noticed(bundle.root, {**files, name: bytes(changed)}):
                missed.append((place, bit))
    assert missed == []


@pytest.mark.slow
def test_every_single_bit_change_of_the_scores_of_an_attack_is_noticed(factory: ModuleType, tmp_path: Path) -> None:
    """Both arrays of a ScoreSet in one archive, whose directory has bits that hold no data."""
    sides = ScoreSet(member=np.array([0.5]), non_member=np.array([0.25]))
    bundle = factory.make(tmp_path, scores={"lira": sides})
    files = contents(bundle)
    data = files["scores.npz"]
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert noticed(bundle.root, {**files, "scores.npz": bytes(changed)}), (place, bit)
