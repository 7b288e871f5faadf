"""PrivacyLedger: an append-only, hash-chained record (JSON lines) of what really ran.

Each line holds `seq`, `prev` (hash of the line before), `type`, `body` and `hash`. The first line carries the
facts that accounting depends on (unit, neighbouring relation, sampler, clip norm, noise). A line is flushed and
synced before anything computed from the data is shown to anybody, so a killed run has spent at most what its
ledger says. A torn last line (a beginning of a line) is cut on opening for append and reported; a last line that
lacks nothing but its newline is kept. Any other damage raises LedgerCorrupt with the number of the line, and so does
an append to a file that somebody else has appended to. Lines cut off at a line's end cannot be seen in the file
itself: keep `digest` elsewhere, as evidence bundles do.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dpaudit import events as ev
from dpaudit import serialize
from dpaudit.errors import DataError, LedgerCorrupt, UsageError

GENESIS = "0" * 64
SCHEMA = "dpaudit.ledger/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One line: `type` is header, event, note; `event` is set for events; `facts` holds the rest of the body."""

    seq: int
    type: str
    event: ev.Event | None
    facts: Mapping[str, Any]
    hash: str


def _line_hash(seq: int, prev: str, kind: str, body: Mapping[str, Any]) -> str:
    text = serialize.dumps({"seq": seq, "prev": prev, "type": kind, "body": body}, indent=None)
    return serialize.sha256_bytes(text.encode())


def _new_line(seq: int, prev: str, kind: str, body: str) -> tuple[bytes, str]:
    """Return a line and its hash, with the JSON text of its body: the keys in their order, as `_parse` asks."""
    rest = f'"prev":"{prev}","seq":{seq},"type":"{kind}"}}'
    stated = serialize.sha256_bytes(f'{{"body":{body},{rest}'.encode())
    return f'{{"body":{body},"hash":"{stated}",{rest}'.encode(), stated


def _parse(number: int, raw: bytes, prev: str) -> LedgerEntry:
    """Check one line against the chain and decode it."""
    try:
        line = serialize.loads(raw)
        seq, kind, body, stated = line["seq"], line["type"], line["body"], line["hash"]
        intact = set(line) == {"seq", "prev", "type", "body", "hash"} and line["prev"] == prev and seq == number
        intact = intact and stated == _line_hash(number, prev, kind, body)
        intact = intact and raw == serialize.dumps(line, indent=None).encode()
        event = ev.from_json(body["event"]) if kind == "event" else None
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerCorrupt(f"ledger line {number + 1} cannot be read: {error}") from error
    if not intact:
        raise LedgerCorrupt(
            f"ledger line {number + 1} does not fit the hash chain: it, or a line before it, was changed."
        )
    return _entry(seq, kind, event, body, stated)


def _entry(seq: int, kind: str, event: ev.Event | None, body: Mapping[str, Any], stated: str) -> LedgerEntry:
    facts = MappingProxyType({key: value for key, value in body.items() if key != "event"})
    return LedgerEntry(seq=seq, type=kind, event=event, facts=facts, hash=stated)


def _tail(number: int, tail: bytes, prev: str) -> LedgerEntry | None:
    """Return the entry of a last line that lacks only its newline, None for the torn beginning of a line.

    Raises: LedgerCorrupt if a whole line is followed by something else than its newline.
    """
    for end, complete in ((len(tail), True), (len(tail) - 1, False)):
        try:
            entry = _parse(number, tail[:end], prev)
        except LedgerCorrupt:
            continue
        if complete:
            return entry
        raise LedgerCorrupt(f"ledger line {number + 1} ends with {tail[-1:]!r} in place of a newline: it was changed.")
    return None


def _read(data: bytes) -> tuple[list[LedgerEntry], int]:
    """Return the entries of a ledger file and the number of bytes that form whole lines."""
    whole = data.rfind(b"\n") + 1
    entries: list[LedgerEntry] = []
    prev = GENESIS
    for number, raw in enumerate(data[:whole].split(b"\n")[:-1]):
        entry = _parse(number, raw, prev)
        entries.append(entry)
        prev = entry.hash
    last = _tail(len(entries), data[whole:], prev) if data[whole:] else None
    if last is not None:
        entries.append(last)
        whole = len(data)
    if not entries:
        raise LedgerCorrupt("the ledger holds no whole line; it is empty or was cut before its header.")
    if entries[0].type != "header" or entries[0].facts.get("schema") != SCHEMA:
        raise LedgerCorrupt(f"ledger line 1 is not a header of schema {SCHEMA}.")
    return entries, whole


def _make_durable(path: Path) -> None:
    """Sync the folder of a new file, where the system can, so that the file itself survives a crash."""
    with contextlib.suppress(OSError):
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class PrivacyLedger:
    """The record of what ran. In memory when `path` is None, else a file that is appended to.

    Example:
        >>> ledger = PrivacyLedger()
        >>> ledger.increment_epsilon(0.5)
        >>> len(ledger.entries)
        2
    """

    def __init__(self, path: str | Path | None = None, **facts: Any) -> None:
        """Start a new ledger; raise UsageError if the file exists (use `open` to continue one).

        The facts go into the header. Accountants read `relation`, `unit`, `units`, `max_examples_per_client`,
        `sampler`, `clip_norm`, `noise_stddev`, `denominator`, `microbatch_size`, `noise_source`, `seed_origin` and
        `hyperparameter_search` (docs/accounting.md says what each means); anything that JSON holds may be added (data
        commitment, versions).
        """
        self.path = None if path is None else Path(path)
        self.torn_bytes = 0
        self._kept: list[LedgerEntry] = []
        self._count = self._size = 0
        self._digest = GENESIS
        self._append("header", {"schema": SCHEMA, **facts})

    @classmethod
    def open(cls, path: str | Path, *, append: bool = False) -> "PrivacyLedger":
        """Read and verify a ledger. With `append`, cut a torn last line from the file and go on after it.

        `torn_bytes` tells how many bytes of an unfinished last line were left out.
        Raises: DataError if there is no such file, LedgerCorrupt if any whole line was changed.
        """
        source = Path(path)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the ledger {source}: {error.strerror}.") from error
        ledger = cls.from_bytes(data)
        if append:
            ledger.path = source
            del ledger._kept[1:]
        if append and not data.endswith(b"\n"):
            with source.open("r+b") as stream:
                stream.truncate(ledger._size)
                if not ledger.torn_bytes:  # a whole line that lacks its newline
                    stream.seek(ledger._size)
                    ledger._size += stream.write(b"\n")
                os.fsync(stream.fileno())
        return ledger

    @classmethod
    def from_bytes(cls, data: bytes) -> "PrivacyLedger":
        """Verify the content of a ledger file and hold it in memory; raise LedgerCorrupt if a line was changed."""
        ledger = cls.__new__(cls)
        ledger._kept, ledger._size = _read(data)
        ledger._count, ledger._digest = len(ledger._kept), ledger._kept[-1].hash
        ledger.torn_bytes = len(data) - ledger._size
        ledger.path = None
        return ledger

    def _append(self, kind: str, body: Mapping[str, Any]) -> None:
        seq, prev = self._count, self._digest
        text = serialize.dumps(body, indent=None)
        plain = serialize.loads(text)  # what a reader will see
        event = ev.from_json(plain["event"]) if kind == "event" else None
        raw, stated = _new_line(seq, prev, kind, text)
        entry = _entry(seq, kind, event, plain, stated)
        self._write(raw + b"\n")
        self._count, self._digest = seq + 1, entry.hash
        if self.path is None or seq == 0:
            self._kept.append(entry)

    def _write(self, line: bytes) -> None:
        """Append a line to the file, synced; raise LedgerCorrupt if the file is not as this object left it."""
        if self.path is None:
            return
        first = not self._count
        if first:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stream = self.path.open("xb" if first else "ab")
        except FileExistsError as error:
            raise UsageError(f"{self.path} already holds a ledger. Use PrivacyLedger.open to continue it.") from error
        with stream:
            if stream.tell() != self._size:
                raise LedgerCorrupt(
                    f"{self.path} has {stream.tell()} bytes where this ledger left {self._size}: another process "
                    "appended to it, or cut it. A ledger has one writer; open it again to go on."
                )
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self._size += len(line)
        if first:
            _make_durable(self.path)

    def record(self, event: ev.Event, **facts: Any) -> None:
        """Append one privacy event with its facts (round, expected and realised cohort, clip norm, ...)."""
        self._append("event", {"event": ev.to_json(event), **facts})

    def note(self, what: str, **facts: Any) -> None:
        """Append something that costs nothing but must be known (a dropout, a resume, a refused update)."""
        self._append("note", {"what": what, **facts})

    def increment_epsilon(self, epsilon: float, delta: float = 0.0, **facts: Any) -> None:
        """Append a black-box (epsilon, delta) release, to be composed with everything else."""
        self.record(ev.ApproximateDp(epsilon=epsilon, delta=delta), **facts)

    def _lines(self) -> list[LedgerEntry]:
        """Return every line: of a file from the file, so that a long run does not hold them all."""
        if self.path is None:
            return self._kept
        try:
            with self.path.open("rb") as stream:
                data = stream.read(self._size)
        except OSError as error:
            raise DataError(f"cannot read the ledger {self.path}: {error.strerror}.") from error
        entries, _ = _read(data)
        if len(entries) != self._count or entries[-1].hash != self._digest:
            raise LedgerCorrupt(f"{self.path} is not as this ledger left it: another process changed it, or cut it.")
        return entries

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        """Every line, in order. Of a ledger that is being written they are read back and verified at each call."""
        return tuple(self._lines())

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the header."""
        return self._kept[0].facts

    @property
    def digest(self) -> str:
        """Hash of the last line, which commits to every line before it."""
        return self._digest

    def events(self) -> Iterator[LedgerEntry]:
        """Iterate over the lines that hold privacy events."""
        return (entry for entry in self._lines() if entry.type == "event")

    def epsilon(self, delta: float, accountant: str = "pld") -> float:
        """Return an upper bound on epsilon at `delta` of everything recorded; see `dpaudit.accounting.epsilon`."""
        from dpaudit import accounting  # the one upward import of the house: the method is a promised convenience

        return accounting.epsilon(self, delta, accountant=accountant)
