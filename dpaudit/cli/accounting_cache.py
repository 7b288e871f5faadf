"""Recomputed accounting, kept in the user's cache folder: gate, report and gate again compute it once.

An entry is found by what the result depends on (ledger, delta, relation, versions) and is used only if its own
digest fits; anything else is ignored and computed again. Whoever can write in the user's cache folder can write a
digest too: a gate that must not trust its own machine sets DPAUDIT_NO_CACHE=1.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from dpaudit import __version__, serialize
from dpaudit._packages import installed
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import AccountingSummary, Relation

SCHEMA = "dpaudit.accounting-cache/v1"


def folder() -> Path:
    """Return the cache folder: DPAUDIT_CACHE, else the user's cache folder."""
    if own := os.environ.get("DPAUDIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpaudit"


def summarize(ledger: PrivacyLedger, *, delta: float, relation: Relation) -> AccountingSummary:
    """Return `dpaudit.accounting.summarize` of a ledger, from the cache where it holds an intact entry."""
    key = _key(ledger, delta, relation)
    if os.environ.get("DPAUDIT_NO_CACHE") not in (None, "", "0"):
        return _compute(ledger, delta, relation)
    path = folder() / "accounting" / f"{serialize.sha256_bytes(serialize.dumps(key).encode())}.json"
    if (found := _read(path, key)) is not None:
        return found
    summary = _compute(ledger, delta, relation)
    body = {"schema": SCHEMA, "key": key, "summary": serialize.to_jsonable(summary)}
    with contextlib.suppress(OSError):
        serialize.write_atomic(path, serialize.dumps({**body, "digest": _digest(body)}), mode=0o600)
    return summary


def _compute(ledger: PrivacyLedger, delta: float, relation: Relation) -> AccountingSummary:
    from dpaudit import accounting

    summary: AccountingSummary = accounting.summarize(ledger, delta=delta, relation=relation)
    return summary


def _key(ledger: PrivacyLedger, delta: float, relation: Relation) -> dict[str, Any]:
    return {
        "ledger": ledger.digest,
        "delta": delta,
        "relation": relation.value,
        "dpaudit": __version__,
        "code": _code_digest(),
        "dp-accounting": installed("dp-accounting"),
        "numpy": installed("numpy"),
        "scipy": installed("scipy"),
    }


def _code_digest() -> str:
    """Digest of the modules that compute accounting, so that a change of their code is a change of the key."""
    home = Path(__file__).parent.parent
    others = ("events.py", "gdp.py", "ledger.py", "samplers.py")
    sources = [*sorted((home / "accounting").glob("*.py")), *(home / name for name in others)]
    return serialize.sha256_bytes(b"\0".join(path.read_bytes() for path in sources))


def _digest(body: dict[str, Any]) -> str:
    return serialize.sha256_bytes(serialize.dumps(body, indent=None).encode())


def _read(path: Path, key: dict[str, Any]) -> AccountingSummary | None:
    """Return an entry if it is intact and answers exactly this key; None otherwise."""
    try:
        body = serialize.loads(path.read_bytes())
        stated = body.pop("digest")
        intact = body["schema"] == SCHEMA and body["key"] == key and stated == _digest(body)
        summary: AccountingSummary = serialize.from_jsonable(AccountingSummary, body["summary"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return summary if intact and summary.ledger_digest == key["ledger"] else None
