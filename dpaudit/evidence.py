"""The evidence bundle: a folder with a manifest of digests; the only thing that gate and reports read.

    manifest.json     schema, creation date, dpaudit version, SHA-256 and size of every other file
    claim.json        the Claim                      accounting.json   the AccountingSummary
    ledger.jsonl      copy of the privacy ledger     bounds.json       lower bounds of the audits
    attacks.json      AttackResults                  checks.json       CheckResults
    powers.json       PowerResults                   training.json     facts of the training
    environment.json  versions, platform             curves.json       thinned ROCs and histograms
    scores.npz        scores of canaries             coins.npz         which canaries were in
    policy.json       the policy of the run          provenance.json   code and configuration that made it

`ledger.jsonl`, `accounting.json`, `scores.npz`, `coins.npz`, `policy.json` and `provenance.json` may be missing; the
gate says what that costs. The same files may lie in one .zip. Schema v1 lacked the last two; it is still read.
A bundle is confidential to the auditor: it holds the coins and the realised cohorts. Digests show that files fit
together, not who made them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import evidence_manifest as manifests
from dpaudit import evidence_store as store
from dpaudit import evidence_zip as zipped
from dpaudit import serialize
from dpaudit.errors import DataError, EvidenceError, OutputExists, UsageError
from dpaudit.evidence_curves import Curve, curve_of
from dpaudit.evidence_manifest import ARRAYS, FACTS, LAYOUTS, LEDGER, OPTIONAL_FACTS
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import AccountingSummary, AttackResult, Bound, CheckResult, Claim, PowerResult, ScoreSet

__all__ = ["SCHEMA", "Curve", "Evidence", "curve_of", "pack_evidence", "read_evidence", "write_evidence"]

SCHEMA = manifests.SCHEMA
Arrays = Mapping[str, NDArray[Any]]

RECORDS: dict[str, Any] = {
    "claim": Claim,
    "accounting": AccountingSummary,
    "bounds": tuple[Bound, ...],
    "attacks": tuple[AttackResult, ...],
    "checks": tuple[CheckResult, ...],
    "powers": tuple[PowerResult, ...],
    "curves": dict[str, Curve],
}
KNOWN = LAYOUTS[SCHEMA].known
OPTIONAL = LAYOUTS[SCHEMA].optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A verified bundle. `digest` is the SHA-256 of the manifest, which commits to every file."""

    root: Path
    digest: str
    created: datetime
    version: str
    claim: Claim
    ledger: PrivacyLedger | None
    accounting: AccountingSummary | None
    bounds: tuple[Bound, ...]
    attacks: tuple[AttackResult, ...]
    checks: tuple[CheckResult, ...]
    powers: tuple[PowerResult, ...]
    training: Mapping[str, Any]
    environment: Mapping[str, Any]
    curves: Mapping[str, Curve]
    scores: Arrays
    coins: Arrays
    schema: str = SCHEMA
    policy: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None


def write_evidence(
    folder: str | Path,
    *,
    claim: Claim,
    ledger_path: str | Path | None,
    accounting: AccountingSummary | None,
    bounds: tuple[Bound, ...],
    attacks: tuple[AttackResult, ...],
    checks: tuple[CheckResult, ...],
    powers: tuple[PowerResult, ...],
    training: Mapping[str, Any],
    environment: Mapping[str, Any],
    curves: Mapping[str, Curve],
    scores: Mapping[str, NDArray[Any] | ScoreSet] | NDArray[Any] | None,
    coins: Arrays | NDArray[Any] | None,
    created: datetime | None = None,
    policy: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Evidence:
    """Write a bundle into `folder` (or into one file, if it ends in .zip), all or nothing; return it as it is read.

    An older bundle in its place is replaced. A ScoreSet in `scores` is stored as `<name>.member` and
    `<name>.non_member`. `created` is UTC now unless given (a time with a zone).

    Raises: OutputExists if the folder holds anything else, DataError for NaN or an unreadable ledger.
    """
    records = {
        "claim": claim, "accounting": accounting, "bounds": tuple(bounds), "attacks": tuple(attacks),
        "checks": tuple(checks), "powers": tuple(powers), "curves": dict(curves),
        "training": dict(training), "environment": dict(environment), "policy": policy, "provenance": provenance,
    }  # fmt: skip
    files = {f"{name}.json": serialize.dumps(value).encode() for name, value in records.items() if value is not None}
    if ledger_path is not None:
        try:
            files[LEDGER] = Path(ledger_path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the ledger {ledger_path}: {error.strerror}.") from error
    for name, arrays in zip(ARRAYS, (_named(scores, "scores"), _named(coins, "coins")), strict=True):
        if arrays:
            files[name] = store.pack_arrays(arrays)
    files[store.MANIFEST] = manifests.new_manifest(files, created or datetime.now(UTC))
    root = Path(folder)
    _assemble(root, files)  # refuse to write what could not be read back
    if root.suffix == zipped.SUFFIX:
        _write_zip(root, files)
    else:
        store.write_folder(root, files, KNOWN)
    return read_evidence(root)


def _write_zip(root: Path, files: Mapping[str, bytes]) -> None:
    if root.exists():
        read_evidence(root)  # replaced only if it is an older bundle
    serialize.write_atomic(root, zipped.pack(files))


def pack_evidence(evidence: "Evidence", target: str | Path) -> Evidence:
    """Write a bundle that was read as one .zip file; the digest stays what it is.

    Raises: OutputExists if something else than a bundle is there.
    """
    root = Path(target)
    try:
        _write_zip(root, _files(evidence.root))
    except EvidenceError as error:
        raise OutputExists(f"{root} exists and is not a dpaudit evidence bundle. Choose another name.") from error
    return read_evidence(root)


def _named(values: Any, default: str) -> dict[str, NDArray[Any]]:
    """Give every array a name; a bare array gets the default one."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        values = {default: values}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in values.items():
        if isinstance(value, ScoreSet):
            arrays |= {f"{name}.member": value.member, f"{name}.non_member": value.non_member}
        else:
            arrays[str(name)] = np.asarray(value)
    return arrays


def read_evidence(path: str | Path) -> Evidence:
    """Read and verify a bundle: a folder, a .zip file, or the folder of a run, which holds the folder `evidence`.

    Raises: EvidenceError, which names the file, if anything is missing, extra, changed, linked, too large,
        not a number, or of an unknown schema.
    """
    root = Path(path)
    if not (root / store.MANIFEST).exists() and (root / "evidence" / store.MANIFEST).exists():
        root = root / "evidence"
    return _assemble(root, _files(root))


def _files(root: Path) -> dict[str, bytes]:
    """Return the content of every file of a bundle."""
    if root.is_file():
        files = zipped.unpack(root, known=lambda name: any(name in layout.known for layout in LAYOUTS.values()))
        if store.MANIFEST not in files:
            raise EvidenceError(f"{root} holds no {store.MANIFEST}; it is not an evidence bundle.")
        manifests.compare_names(set(files) - {store.MANIFEST}, set(manifests.listed_files(files[store.MANIFEST])))
        return files
    if not root.is_dir():
        raise EvidenceError(f"there is no evidence {root}.")
    names = store.list_files(root)
    if store.MANIFEST not in names:
        raise EvidenceError(f"{root} holds no {store.MANIFEST}; it is not an evidence bundle.")
    raw = store.read_plain(root / store.MANIFEST, store.MANIFEST_LIMIT)
    listed = manifests.listed_files(raw)
    manifests.compare_names(set(names) - {store.MANIFEST}, set(listed))
    files = {name: store.read_plain(root / name, store.limit_of(name)) for name in listed}
    return {**files, store.MANIFEST: raw}


def _assemble(root: Path, files: Mapping[str, bytes]) -> Evidence:
    """Check every digest and parse every file."""
    raw = files[store.MANIFEST]
    manifest, listed = manifests.read_manifest(raw), manifests.listed_files(raw)
    for name, stated in listed.items():
        found = {"sha256": serialize.sha256_bytes(files[name]), "bytes": len(files[name])}
        if found != stated:
            raise EvidenceError(f"{name!r} was changed after it was written: its digest is not the manifest's.")
    parsed: dict[str, Any] = {name: _record(name, kind, files.get(f"{name}.json")) for name, kind in RECORDS.items()}
    parsed |= {name: MappingProxyType(_facts(name, files[f"{name}.json"])) for name in FACTS}
    parsed |= {
        name: MappingProxyType(_facts(name, files[f"{name}.json"])) if f"{name}.json" in files else None
        for name in OPTIONAL_FACTS
    }
    arrays = [store.unpack_arrays(n, files[n], store.limit_of(n)) if n in files else {} for n in ARRAYS]
    with store.naming(store.MANIFEST):
        created = datetime.fromisoformat(manifest["created"])
        if created.tzinfo is None or not isinstance(manifest["dpaudit"], str):
            raise EvidenceError(f"{store.MANIFEST!r} needs a creation time with its zone and a version.")
    with store.naming(LEDGER):
        ledger = PrivacyLedger.from_bytes(files[LEDGER]) if LEDGER in files else None
    return Evidence(
        root=root,
        digest=serialize.sha256_bytes(raw),
        created=created,
        version=manifest["dpaudit"],
        schema=manifest["schema"],
        ledger=ledger,
        scores=MappingProxyType(arrays[0]),
        coins=MappingProxyType(arrays[1]),
        **parsed,
    )


def _record(name: str, kind: Any, data: bytes | None) -> Any:
    """Parse a file of records; what it says must be exactly what was understood."""
    if data is None:
        return None
    with store.naming(f"{name}.json"):
        raw = _plain(serialize.loads(data))
        value: Any = serialize.from_jsonable(kind, raw)
        understood = serialize.to_jsonable(value)
        serialize.dumps(understood).encode()  # refuses half of a surrogate pair, which nothing could print
        return MappingProxyType(value) if isinstance(value, dict) else value


def _facts(name: str, data: bytes) -> dict[str, Any]:
    with store.naming(f"{name}.json"):
        raw = _plain(serialize.loads(data))
        if not isinstance(raw, dict):
            raise EvidenceError(f"'{name}.json' must hold a table of facts.")
        serialize.dumps(raw).encode()
        return raw


def _plain(value: Any) -> Any:
    """Return JSON as it is; raise UsageError for a whole number that no machine number holds."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _plain(item)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UsageError("a whole number has more than 64 bits.")
    return value
