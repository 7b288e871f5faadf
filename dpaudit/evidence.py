"""The evidence bundle: a folder with a manifest of digests; the only thing that gate and reports read.

    manifest.json     schema, creation date, dpaudit version, SHA-256 and size of every other file
    claim.json        the Claim                      accounting.json   the AccountingSummary
    ledger.jsonl      copy of the privacy ledger     bounds.json       lower bounds of the audits
    attacks.json      AttackResults                  checks.json       CheckResults
    powers.json       PowerResults                   training.json     facts of the training
    environment.json  versions, platform             curves.json       thinned ROCs and histograms
    scores.npz        scores of canaries             coins.npz         which canaries were in

`ledger.jsonl`, `accounting.json`, `scores.npz` and `coins.npz` may be missing; the gate says what that costs.
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

from dpaudit import __version__, serialize
from dpaudit import evidence_store as store
from dpaudit.errors import DataError, EvidenceError, UsageError
from dpaudit.evidence_curves import Curve, curve_of
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import AccountingSummary, AttackResult, Bound, CheckResult, Claim, PowerResult, ScoreSet

__all__ = ["SCHEMA", "Curve", "Evidence", "curve_of", "read_evidence", "write_evidence"]

SCHEMA = store.SCHEMA
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
FACTS = ("training", "environment")
LEDGER = "ledger.jsonl"
ARRAYS = ("scores.npz", "coins.npz")
OPTIONAL = frozenset({LEDGER, "accounting.json", *ARRAYS})
MANIFEST_KEYS = frozenset({"schema", "created", "dpaudit", "files", "digest"})
KNOWN = frozenset({store.MANIFEST, LEDGER, *ARRAYS, *(f"{name}.json" for name in (*RECORDS, *FACTS))})


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
) -> Evidence:
    """Write a bundle into `folder`, all or nothing, and return it as `read_evidence` sees it.

    An older bundle in `folder` is replaced. A ScoreSet in `scores` is stored as `<name>.member` and
    `<name>.non_member`. `created` is UTC now unless given (a time with a zone).

    Raises: OutputExists if the folder holds anything else, DataError for NaN or an unreadable ledger.
    """
    records = {
        "claim": claim, "accounting": accounting, "bounds": tuple(bounds), "attacks": tuple(attacks),
        "checks": tuple(checks), "powers": tuple(powers), "curves": dict(curves),
        "training": dict(training), "environment": dict(environment),
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
    when = created or datetime.now(UTC)
    manifest = {
        "schema": SCHEMA,
        "created": when.astimezone(UTC).isoformat(timespec="seconds"),
        "dpaudit": __version__,
        "files": {name: {"sha256": serialize.sha256_bytes(data), "bytes": len(data)} for name, data in files.items()},
    }
    files[store.MANIFEST] = serialize.dumps({**manifest, "digest": _self_digest(manifest)}).encode()
    root = Path(folder)
    _assemble(root, files)  # refuse to write what could not be read back
    store.write_folder(root, files, KNOWN)
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
    """Read and verify a bundle: `path`, or the folder `evidence` in it when it is the folder of a run.

    Raises: EvidenceError, which names the file, if anything is missing, extra, changed, linked, too large,
        not a number, or of an unknown schema.
    """
    root = Path(path)
    if not (root / store.MANIFEST).exists() and (root / "evidence" / store.MANIFEST).exists():
        root = root / "evidence"
    if not root.is_dir():
        raise EvidenceError(f"there is no evidence folder {root}.")
    names = store.list_files(root)
    if store.MANIFEST not in names:
        raise EvidenceError(f"{root} holds no {store.MANIFEST}; it is not an evidence bundle.")
    raw = store.read_plain(root / store.MANIFEST, store.MANIFEST_LIMIT)
    listed = _manifest_files(raw)
    _compare_names(set(names) - {store.MANIFEST}, set(listed))
    files = {name: store.read_plain(root / name, store.limit_of(name)) for name in listed}
    return _assemble(root, {**files, store.MANIFEST: raw})


def _manifest(raw: bytes) -> dict[str, Any]:
    with store.naming(store.MANIFEST):
        manifest = serialize.loads(raw)
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if schema != SCHEMA:
            raise EvidenceError(f"{store.MANIFEST!r} has schema {schema!r}; this release reads {SCHEMA}.")
        if set(manifest) != MANIFEST_KEYS or not isinstance(manifest["files"], dict):
            raise EvidenceError(f"{store.MANIFEST!r} must hold exactly {', '.join(sorted(MANIFEST_KEYS))}.")
        if manifest["digest"] != _self_digest(manifest) or raw != serialize.dumps(manifest).encode():
            raise EvidenceError(f"{store.MANIFEST!r} was changed after it was written: it does not fit its own digest.")
        return dict(manifest)


def _self_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of a manifest without its own digest: notices damage, proves nothing about who wrote it."""
    return serialize.sha256_bytes(serialize.dumps({k: v for k, v in manifest.items() if k != "digest"}).encode())


def _manifest_files(raw: bytes) -> dict[str, Any]:
    files: dict[str, Any] = _manifest(raw)["files"]
    if unknown := sorted(set(files) - (KNOWN - {store.MANIFEST})):
        raise EvidenceError(f"{store.MANIFEST!r} lists {unknown[0]!r}, which is not a file of a bundle.")
    if missing := sorted(KNOWN - OPTIONAL - {store.MANIFEST} - set(files)):
        raise EvidenceError(f"{store.MANIFEST!r} does not list {missing[0]!r}, which every bundle has.")
    return files


def _compare_names(present: set[str], listed: set[str]) -> None:
    if missing := sorted(listed - present):
        raise EvidenceError(f"{missing[0]!r} is missing from the bundle.")
    if extra := sorted(present - listed):
        raise EvidenceError(f"{extra[0]!r} is not in the manifest; a bundle holds nothing else.")


def _assemble(root: Path, files: Mapping[str, bytes]) -> Evidence:
    """Check every digest and parse every file."""
    raw = files[store.MANIFEST]
    manifest, listed = _manifest(raw), _manifest_files(raw)
    for name, stated in listed.items():
        found = {"sha256": serialize.sha256_bytes(files[name]), "bytes": len(files[name])}
        if found != stated:
            raise EvidenceError(f"{name!r} was changed after it was written: its digest is not the manifest's.")
    parsed: dict[str, Any] = {name: _record(name, kind, files.get(f"{name}.json")) for name, kind in RECORDS.items()}
    parsed |= {name: MappingProxyType(_facts(name, files[f"{name}.json"])) for name in FACTS}
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
