"""Bundles as one .zip file: the same evidence, and nothing else gets in or out. And bundles of the first schema."""

import random
import stat
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

from dpaudit import evidence_store, evidence_zip
from dpaudit.errors import EvidenceError, OutputExists
from dpaudit.evidence import Evidence, pack_evidence, read_evidence, write_evidence
from dpaudit.policy import load_policy

V1 = Path(__file__).parent / "v1"


@pytest.fixture(scope="module")
def original(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def files(original: Evidence) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in original.root.iterdir()}


def same(one: Evidence, other: Evidence) -> bool:
    names = ("digest", "claim", "accounting", "bounds", "attacks", "checks", "powers", "created", "schema")
    tables = ("training", "environment", "policy", "provenance")
    facts = all(dict(getattr(one, n) or {}) == dict(getattr(other, n) or {}) for n in tables)
    return facts and all(getattr(one, name) == getattr(other, name) for name in names)


def test_a_packed_bundle_is_the_same_evidence(factory: ModuleType, original: Evidence, tmp_path: Path) -> None:
    packed = pack_evidence(original, tmp_path / "evidence.zip")
    assert same(packed, original)
    first = (tmp_path / "evidence.zip").read_bytes()
    assert same(pack_evidence(packed, tmp_path / "evidence.zip"), original)  # over an older bundle, and from a .zip
    assert (tmp_path / "evidence.zip").read_bytes() == first
    written = write_evidence(tmp_path / "direct.zip", **factory.parts(tmp_path))
    assert written.digest == original.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.zip", "evidence.zip", "ledger.jsonl"]


def test_a_zip_made_by_others_is_read(original: Evidence, files: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert same(read_evidence(tmp_path / "e.zip"), original)


def test_something_else_is_not_replaced(original: Evidence, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"precious")
    with pytest.raises(OutputExists):
        pack_evidence(original, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == b"precious"


def archive_of(files: dict[str, bytes], *extra: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for info, data in extra:
            archive.writestr(info, data)
    return buffer.getvalue()


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "name",
    [
        "../claim.json", "/etc/passwd", "sub/claim.json", "notes.txt", "", "claim.json/", "C:\\claim.json",
        "..\\claim.json", "Claim.json", "./claim.json",
    ],
)  # fmt: skip
def test_no_other_name_gets_in(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    target = tmp_path / "e.zip"
    target.write_bytes(archive_of(files, (entry(name), b"{}")))
    with pytest.raises(EvidenceError):
        read_evidence(target)
    assert [path.name for path in tmp_path.iterdir()] == ["e.zip"]


def test_a_name_with_a_zero_byte_does_not_pass_for_a_shorter_one(files: dict[str, bytes], tmp_path: Path) -> None:
    data = archive_of(without(files, "claim.json"), (entry("claim.jsonX.txt"), files["claim.json"]))
    (tmp_path / "e.zip").write_bytes(data.replace(b"claim.jsonX.txt", b"claim.json\x00.txt"))
    with pytest.raises(EvidenceError):
        read_evidence(tmp_path / "e.zip")


def without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: data for key, data in files.items() if key != name}


def test_links_and_repeated_files_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    target = tmp_path / "e.zip"
    link = (entry("claim.json", stat.S_IFLNK | 0o777), b"/etc/passwd")
    target.write_bytes(archive_of(without(files, "claim.json"), link))
    with pytest.raises(EvidenceError, match="link"):
        read_evidence(target)
    with pytest.warns(UserWarning, match="Duplicate"):
        data = archive_of(files, (entry("claim.json"), files["claim.json"]))
    target.write_bytes(data)
    with pytest.raises(EvidenceError, match="twice"):
        read_evidence(target)
    target.write_bytes(archive_of(without(files, "manifest.json")))
    with pytest.raises(EvidenceError, match="manifest"):
        read_evidence(target)
    target.write_bytes(archive_of(without(files, "claim.json")))
    with pytest.raises(EvidenceError, match=r"claim\.json"):
        read_evidence(target)


def patched(data: bytes, change: Callable[[bytearray, int], None]) -> bytes:
    """Change the record of claim.json in the central directory."""
    out = bytearray(data)
    place = out.index(b"PK\x01\x02")
    while out[place + 46 : place + 46 + 10] != b"claim.json":
        place = out.index(b"PK\x01\x02", place + 4)
    change(out, place)
    return bytes(out)


def test_bombs_are_refused_before_they_grow(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "e.zip"
    target.write_bytes(archive_of({**files, "claim.json": b" " * (40 << 20)}))
    assert target.stat().st_size < 1 << 20
    with pytest.raises(EvidenceError, match="expand"):
        read_evidence(target)
    target.write_bytes(archive_of({**files, "claim.json": b" " * (65 << 20)}))
    with pytest.raises(EvidenceError, match="expand"):
        read_evidence(target)
    lying = archive_of({**files, "claim.json": b" " * (40 << 20)})
    target.write_bytes(patched(lying, lambda out, at: struct.pack_into("<I", out, at + 24, 100)))
    with pytest.raises(EvidenceError):
        read_evidence(target)
    many = {f"{number}.json": b"{}" for number in range(evidence_store.MAX_ENTRIES + 1)}
    target.write_bytes(archive_of(many))
    with pytest.raises(EvidenceError, match="more than"):
        read_evidence(target)
    monkeypatch.setattr(evidence_zip, "ARCHIVE_LIMIT", 1000)
    target.write_bytes(archive_of(files))
    with pytest.raises(EvidenceError):
        read_evidence(target)


def test_encrypted_and_unknown_compression_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    target, good = tmp_path / "e.zip", archive_of(files)
    target.write_bytes(patched(good, lambda out, at: struct.pack_into("<H", out, at + 8, 1)))
    with pytest.raises(EvidenceError, match="encrypted"):
        read_evidence(target)
    target.write_bytes(patched(good, lambda out, at: struct.pack_into("<H", out, at + 10, 99)))
    with pytest.raises(EvidenceError):
        read_evidence(target)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_flipped_bit_is_an_error_or_the_same_evidence(original: Evidence, tmp_path: Path, seed: int) -> None:
    """What a .zip says beside the evidence (dates, attributes) may change; the evidence may not."""
    good, target, rng = evidence_zip.pack(
        {path.name: path.read_bytes() for path in original.root.iterdir()}
    ), tmp_path / "e.zip", random.Random(seed)  # fmt: skip
    directory = good.index(b"PK\x01\x02")
    places = [rng.randrange(len(good)) for _ in range(60)] + [rng.randrange(directory, len(good)) for _ in range(60)]
    refused = 0
    for place in places:
        data = bytearray(good)
        data[place] ^= 1 << rng.randrange(8)
        target.write_bytes(bytes(data))
        try:
            found = read_evidence(target)
        except EvidenceError:
            refused += 1
            continue
        assert same(found, original), place
    assert refused > 60


def test_truncated_and_foreign_files_are_refused(original: Evidence, files: dict[str, bytes], tmp_path: Path) -> None:
    good, target = evidence_zip.pack(files), tmp_path / "e.zip"
    for data in (b"", b"PK", b"PK\x05\x06" + b"\0" * 18, good[:-1], good[: len(good) // 2], b"\0" * 1000, b"%PDF-1.7"):
        target.write_bytes(data)
        with pytest.raises(EvidenceError):
            read_evidence(target)


def test_the_first_schema_is_still_read_and_judged(factory: ModuleType) -> None:
    """A bundle that an older release wrote, byte for byte."""
    from dpaudit.gate import evaluate

    bundle = read_evidence(V1)
    assert bundle.schema == "dpaudit.evidence/v1"
    assert bundle.digest == "ff74667fd5837bfcc79e1f208489918831fbe7df7195e884c76d59906c61e878"
    assert (bundle.policy, bundle.provenance) == (None, None)
    verdict = evaluate(bundle, load_policy("standard"), today=factory.TODAY, recomputed=factory.fresh(bundle))
    found = {finding.rule: finding.status.value for finding in verdict.findings}
    assert found["DPA001"] == "pass"
    assert found["DPA307"] == "inconclusive"  # what the first schema never recorded is not taken for good
    assert verdict.exit_code == 3


def test_a_file_of_the_second_schema_is_none_of_the_first(tmp_path: Path) -> None:
    import json
    import shutil

    from dpaudit import serialize

    folder = Path(shutil.copytree(V1, tmp_path / "v1"))
    (folder / "policy.json").write_bytes(b"{}")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["digest"]
    manifest["files"]["policy.json"] = {"sha256": serialize.sha256_bytes(b"{}"), "bytes": 2}
    manifest["digest"] = serialize.sha256_bytes(serialize.dumps(manifest).encode())
    (folder / "manifest.json").write_text(serialize.dumps(manifest))
    with pytest.raises(EvidenceError, match=r"policy\.json"):
        read_evidence(folder)


def test_the_question_of_the_title_is_asked_of_a_zip(original: Evidence, tmp_path: Path) -> None:
    from dpaudit import is_differentially_private

    pack_evidence(original, tmp_path / "e.zip")
    verdict = is_differentially_private(tmp_path / "e.zip", 1.0, 1e-5)
    assert verdict.status.value == "fail"  # the ledger spends more
    assert verdict.digests["evidence"] == original.digest
