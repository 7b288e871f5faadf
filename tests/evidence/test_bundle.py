"""The bundle: what is written is read back; whatever was changed, added, linked or is no number is refused."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpaudit import serialize
from dpaudit.errors import DataError, EvidenceError, OutputExists
from dpaudit.evidence import KNOWN, OPTIONAL, read_evidence, write_evidence
from dpaudit.evidence_store import pack_arrays
from dpaudit.records import ScoreSet


@pytest.fixture(scope="module")
def original(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factory.make(tmp_path_factory.mktemp("original")).root


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def resealed(folder: Path, name: str, data: bytes) -> Path:
    """Replace a file and make the manifest fit, as somebody would who wants the change to pass."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"sha256": serialize.sha256_bytes(data), "bytes": len(data)}
    return reseal(folder, manifest)


def reseal(folder: Path, manifest: dict[str, Any]) -> Path:
    manifest = {key: value for key, value in manifest.items() if key != "digest"}
    manifest["digest"] = serialize.sha256_bytes(serialize.dumps(manifest).encode())
    (folder / "manifest.json").write_text(serialize.dumps(manifest))
    return folder


def test_what_is_written_is_read_back(factory: ModuleType, tmp_path: Path) -> None:
    given_parts = factory.parts(tmp_path)
    bundle = write_evidence(tmp_path / "e", **given_parts)
    for name in ("claim", "accounting", "bounds", "attacks", "checks", "powers", "created"):
        assert getattr(bundle, name) == given_parts[name], name
    for name in ("training", "environment", "curves"):
        assert dict(getattr(bundle, name)) == given_parts[name], name
    assert bundle.ledger is not None
    assert len(list(bundle.ledger.events())) == factory.ROUNDS
    np.testing.assert_array_equal(bundle.coins["coins"], given_parts["coins"])
    np.testing.assert_array_equal(bundle.scores["canaries"], given_parts["scores"]["canaries"])
    assert bundle.digest == serialize.sha256_file(bundle.root / "manifest.json")


def test_the_same_content_gives_the_same_digest(factory: ModuleType, tmp_path: Path) -> None:
    one = write_evidence(tmp_path / "a", **factory.parts(tmp_path))
    other = write_evidence(tmp_path / "b", **factory.parts(tmp_path))
    assert one.digest == other.digest


def test_the_folder_of_a_run_leads_to_its_evidence(original: Path) -> None:
    assert read_evidence(original.parent).root == original


def test_score_sets_are_stored_by_side(factory: ModuleType, tmp_path: Path) -> None:
    scores = ScoreSet(member=np.array([1.0, 2.0]), non_member=np.array([0.0]))
    bundle = write_evidence(tmp_path / "e", **factory.parts(tmp_path, scores={"lira": scores}))
    assert set(bundle.scores) == {"lira.member", "lira.non_member"}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_changed_byte_is_noticed(original: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "bundle"))
    data = (original / name).read_bytes()
    rng = np.random.default_rng(1)
    places = range(len(data)) if len(data) < 200 else rng.choice(len(data), 60, replace=False)
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(bytes(changed))
        with pytest.raises(EvidenceError):
            read_evidence(folder)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(EvidenceError, match=name):
        read_evidence(folder)


@pytest.mark.parametrize("name", sorted(KNOWN - OPTIONAL - {"manifest.json"}))
def test_a_file_that_every_bundle_has_cannot_be_left_out_of_the_manifest(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["files"][name]
    (folder / name).unlink()
    with pytest.raises(EvidenceError, match=name):
        read_evidence(reseal(folder, manifest))


def test_an_extra_file_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(EvidenceError, match=r"notes\.txt"):
        read_evidence(folder)


@pytest.mark.parametrize("name", ["../claim.json", "/etc/hostname", "sub/claim.json", "notes.txt", "manifest.json"])
def test_names_in_the_manifest_cannot_lead_elsewhere(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    with pytest.raises(EvidenceError, match="not a file of a bundle"):
        read_evidence(reseal(folder, manifest))


def test_links_folders_and_pipes_are_refused(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "claim.json"
    shutil.move(folder / "claim.json", elsewhere)
    makers = (
        lambda path: path.symlink_to(elsewhere),
        lambda path: path.mkdir(),
        os.mkfifo,
    )
    for make in makers:
        make(folder / "claim.json")
        with pytest.raises(EvidenceError, match=r"claim\.json"):
            read_evidence(folder)
        (folder / "claim.json").rmdir() if (folder / "claim.json").is_dir() else (folder / "claim.json").unlink()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("claim.json", b'{"epsilon": NaN, "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": 1e999, "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": "6.0", "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": true, "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": -1.0, "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": 6.0, "delta": 1e-5, "epsilonn": 1.0}'),
        ("claim.json", b'{"epsilon": 6.0, "epsilon": 9.0, "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": ' + b"9" * 5000 + b', "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": ' + b"9" * 400 + b', "delta": 1e-5}'),
        ("claim.json", b'{"epsilon": 6.0, "delta": 1e-5, "model": "\\ud800"}'),
        ("claim.json", b"[" * 100_000),
        ("claim.json", b"\xff\xfe"),
        ("claim.json", b""),
        ("bounds.json", b'[{"method": "one-run"}]'),
        ("bounds.json", b'{"0": 1}'),
        ("checks.json", b'[{"id": "noise.scale", "status": "passed", "detail": ""}]'),
        ("checks.json", b'[{"id": "noise.scale", "status": "pass", "detail": "", "p_value": NaN}]'),
        ("training.json", b"[]"),
        ("training.json", b'{"rounds": 1e999}'),
        ("curves.json", b'{"lira": {"roc": [], "edges": [], "member": []}}'),
        ("ledger.jsonl", b""),
        ("ledger.jsonl", b"{}\n"),
        ("scores.npz", b"PK"),
    ],
)
def test_a_resealed_file_of_nonsense_is_refused_and_named(folder: Path, name: str, text: bytes) -> None:
    with pytest.raises(EvidenceError, match=name.split(".", maxsplit=1)[0]):
        read_evidence(resealed(folder, name, text))


@pytest.mark.parametrize(
    "arrays",
    [
        {"canaries": np.array([1.0, np.nan])},
        {"canaries": np.array([np.inf])},
        {"canaries": np.array(["text"])},
        {"canaries": np.array([1 + 2j])},
    ],
)
def test_arrays_that_are_no_finite_numbers_are_refused(folder: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match=r"scores\.npz"):
        read_evidence(resealed(folder, "scores.npz", pack_arrays(arrays)))


def test_pickled_arrays_are_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", canaries=np.array([{"a": 1}], dtype=object))
    with pytest.raises(EvidenceError, match="pickle"):
        read_evidence(resealed(folder, "scores.npz", (tmp_path / "x.npz").read_bytes()))


def test_zip_bombs_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("canaries.npy", b"\0" * 4_000_000)
    data = (tmp_path / "x.npz").read_bytes()
    monkeypatch.setitem(__import__("dpaudit.evidence_store").evidence_store.LIMITS, ".npz", 1_000_000)
    assert len(data) < 100_000
    with pytest.raises(EvidenceError, match="expand"):
        read_evidence(resealed(folder, "scores.npz", data))


def test_large_files_are_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("dpaudit.evidence_store").evidence_store.LIMITS, ".json", 100)
    with pytest.raises(EvidenceError, match="at most 100"):
        read_evidence(folder)


@pytest.mark.parametrize("schema", ["dpaudit.evidence/v3", "dpaudit.gate/v1", None, 1, ["dpaudit.evidence/v2"]])
def test_unknown_schemas_are_refused(folder: Path, schema: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    with pytest.raises(EvidenceError, match="schema"):
        read_evidence(reseal(folder, {**manifest, "schema": schema}))


@pytest.mark.parametrize("change", [{"created": "yesterday"}, {"created": "2026-11-20"}, {"dpaudit": 3}, {"more": 1}])
def test_other_manifests_are_refused(folder: Path, change: dict[str, Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    with pytest.raises(EvidenceError, match="manifest"):
        read_evidence(reseal(folder, {**manifest, **change}))


def test_a_run_without_audit_has_no_scores_or_coins(factory: ModuleType, tmp_path: Path) -> None:
    bundle = factory.make(tmp_path, scores=None, coins=None, bounds=(), powers=())
    assert not bundle.scores
    assert not bundle.coins
    assert not (bundle.root / "coins.npz").exists()


def test_an_older_bundle_is_replaced_and_nothing_else_is(factory: ModuleType, tmp_path: Path) -> None:
    first = factory.make(tmp_path)
    changed = factory.make(tmp_path, claim=replace(first.claim, epsilon=7.0))
    assert changed.claim.epsilon == 7.0
    (changed.root / "precious.txt").write_text("mine")
    with pytest.raises(OutputExists):
        factory.make(tmp_path)
    assert (changed.root / "precious.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evidence", "ledger.jsonl"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema": "other/v1"}', b"no json"])
def test_a_folder_that_only_looks_like_a_bundle_is_left_alone(
    factory: ModuleType, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "manifest.json").write_bytes(content)
    with pytest.raises(OutputExists):
        factory.make(tmp_path)
    assert (tmp_path / "evidence" / "manifest.json").read_bytes() == content


def test_a_file_or_link_in_the_place_of_the_folder_is_left_alone(factory: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("mine")
    with pytest.raises(OutputExists):
        factory.make(tmp_path)
    (tmp_path / "evidence").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "evidence").symlink_to(tmp_path / "other")
    with pytest.raises(OutputExists):
        factory.make(tmp_path)


def test_what_cannot_be_read_back_is_not_written(factory: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        factory.make(tmp_path, training={"rounds": float("nan")})
    with pytest.raises(EvidenceError):
        factory.make(tmp_path, scores={"canaries": np.array([np.nan])})
    with pytest.raises(DataError, match="ledger"):
        factory.make(tmp_path, ledger_path=tmp_path / "none.jsonl")
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize("path", ["nothing", "ledger.jsonl"])
def test_something_else_is_no_evidence(factory: ModuleType, tmp_path: Path, path: str) -> None:
    factory.make(tmp_path)
    with pytest.raises(EvidenceError):
        read_evidence(tmp_path / path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvidenceError, match="manifest"):
        read_evidence(tmp_path / "empty")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(KNOWN - {"manifest.json"})),
    value=st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
)
def test_any_resealed_json_is_evidence_or_an_evidence_error(folder: Path, name: str, value: Any) -> None:
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        read_evidence(resealed(folder, name, json.dumps(value).encode("utf-8", "surrogatepass")))
    except EvidenceError as error:
        assert str(error)  # noqa: PT017 - success is allowed too
    finally:
        for file, data in kept.items():
            (folder / file).write_bytes(data)
