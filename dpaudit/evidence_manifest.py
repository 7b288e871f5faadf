"""The manifest of an evidence bundle: which files belong to it, by schema, each with its digest and size."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dpaudit import __version__, serialize
from dpaudit import evidence_store as store
from dpaudit.errors import EvidenceError

SCHEMA = store.SCHEMA
RECORDS = ("claim", "accounting", "bounds", "attacks", "checks", "powers", "curves")
FACTS = ("training", "environment")
OPTIONAL_FACTS = ("policy", "provenance")
LEDGER = "ledger.jsonl"
ARRAYS = ("scores.npz", "coins.npz")
MANIFEST_KEYS = frozenset({"schema", "created", "dpaudit", "files", "digest"})
_OPTIONAL = frozenset({LEDGER, "accounting.json", *ARRAYS})
_V1 = frozenset({store.MANIFEST, LEDGER, *ARRAYS, *(f"{name}.json" for name in (*RECORDS, *FACTS))})
_ADDED = frozenset(f"{name}.json" for name in OPTIONAL_FACTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The files that a released schema knows, and those that a bundle may do without."""

    known: frozenset[str]
    optional: frozenset[str]


LAYOUTS: Mapping[str, Layout] = {
    "dpaudit.evidence/v1": Layout(known=_V1, optional=_OPTIONAL),
    SCHEMA: Layout(known=_V1 | _ADDED, optional=_OPTIONAL | _ADDED),
}
"""Every schema that was ever released, each with its reader's layout; bundles stay readable for good."""
KNOWN = LAYOUTS[SCHEMA].known


def new_manifest(files: Mapping[str, bytes], when: datetime) -> bytes:
    """Return the manifest of these files, made at `when`."""
    manifest = {
        "schema": SCHEMA,
        "created": when.astimezone(UTC).isoformat(timespec="seconds"),
        "dpaudit": __version__,
        "files": {name: {"sha256": serialize.sha256_bytes(data), "bytes": len(data)} for name, data in files.items()},
    }
    return serialize.dumps({**manifest, "digest": self_digest(manifest)}).encode()


def read_manifest(raw: bytes) -> dict[str, Any]:
    """Parse and verify a manifest; raise EvidenceError for an unknown schema, or if it was changed."""
    with store.naming(store.MANIFEST):
        manifest = serialize.loads(raw)
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if not isinstance(schema, str) or schema not in LAYOUTS:
            raise EvidenceError(f"{store.MANIFEST!r} has schema {schema!r}; this release reads {', '.join(LAYOUTS)}.")
        if set(manifest) != MANIFEST_KEYS or not isinstance(manifest["files"], dict):
            raise EvidenceError(f"{store.MANIFEST!r} must hold exactly {', '.join(sorted(MANIFEST_KEYS))}.")
        if manifest["digest"] != self_digest(manifest) or raw != serialize.dumps(manifest).encode():
            raise EvidenceError(f"{store.MANIFEST!r} was changed after it was written: it does not fit its own digest.")
        return dict(manifest)


def self_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of a manifest without its own digest: notices damage, proves nothing about who wrote it."""
    return serialize.sha256_bytes(serialize.dumps({k: v for k, v in manifest.items() if k != "digest"}).encode())


def listed_files(raw: bytes) -> dict[str, Any]:
    """Return digest and size of every file that a manifest lists, if its schema knows and has them all."""
    manifest = read_manifest(raw)
    files: dict[str, Any] = manifest["files"]
    layout = LAYOUTS[manifest["schema"]]
    if unknown := sorted(set(files) - (layout.known - {store.MANIFEST})):
        raise EvidenceError(f"{store.MANIFEST!r} lists {unknown[0]!r}, which is not a file of a bundle.")
    if missing := sorted(layout.known - layout.optional - {store.MANIFEST} - set(files)):
        raise EvidenceError(f"{store.MANIFEST!r} does not list {missing[0]!r}, which every bundle has.")
    return files


def compare_names(present: set[str], listed: set[str]) -> None:
    """Raise EvidenceError if a bundle holds less, or more, than its manifest lists."""
    if missing := sorted(listed - present):
        raise EvidenceError(f"{missing[0]!r} is missing from the bundle.")
    if extra := sorted(present - listed):
        raise EvidenceError(f"{extra[0]!r} is not in the manifest; a bundle holds nothing else.")
