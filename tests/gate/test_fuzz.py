"""Coverage-guided fuzzing of everything that is read from others: policies, ledgers, zipped bundles, attestations.

Inputs that reach new lines of the readers are kept and mutated further. Whatever comes out: an error of ours or a
result, never another exception, never a hang, never a file beside the input, never a pass of what must not pass.
"""

import base64
import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from dpaudit import evidence_zip, serialize
from dpaudit.cli.main import run
from dpaudit.errors import DpauditError
from dpaudit.evidence import Evidence, read_evidence
from dpaudit.gate import evaluate
from dpaudit.ledger import GENESIS, PrivacyLedger, _line_hash
from dpaudit.policy import parse_policy
from dpaudit.records import Status

SECONDS = 20
MODULES = ("policy", "_toml", "ledger", "events", "evidence", "serialize", "attestation", "rules", "gate", "records")
TOKENS = (
    *(b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"9" * 400, b"true", b"null", b"{}", b"[]", b'""', b"\x00", b"\xff"),
    *(b"\xf0\x9f", b"\\ud800", b"..", b"/", b"PK\x03\x04", b"PK\x01\x02", b"\r\n", b'"""', b"[" * 2000, b"{" * 2000),
    *(b"[[waiver]]\n", b'rule = "DPA101"\n', b"expires = 2099-01-01\n", b'profile = "research"\n', b"never = []\n"),
    *(b"recompute = false\n", b"a.b.c = 1\n"),
)


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} seconds on one input")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def lines_reached(found: set[tuple[str, int]]) -> Iterator[None]:
    """Collect the lines of the readers that run; everything else runs untraced."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def outer(frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        return local if "dpaudit" in name and any(module in name for module in MODULES) else None

    before = sys.gettrace()
    sys.settrace(outer)
    try:
        yield
    finally:
        sys.settrace(before)


def mutate(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """Flip bits, cut, repeat, insert what parsers stumble over, exchange a line, or join two inputs."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        place = rng.randrange(len(out) + 1)
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[min(place, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[place : place + rng.choice([1, 2, 8, 64, 512])]
        elif kind == 2:
            out[place:place] = rng.choice(TOKENS)
        elif kind == 3:
            out[place:place] = out[place : place + rng.choice([1, 8, 64])]
        elif kind == 4:
            lines = bytes(out).split(b"\n")
            rng.shuffle(lines)
            out = bytearray(b"\n".join(lines[: rng.randrange(1, len(lines) + 1)]))
        elif kind == 5:
            other = rng.choice(corpus)
            cut = rng.randrange(len(other) + 1)
            out[place:] = other[cut:]
        else:
            out[place : place + rng.choice([1, 4, 16])] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4])))
    return bytes(out[: 1 << 20])


def fuzz(target: Callable[[bytes], None], seeds: list[bytes], *, count: int, seed: int) -> int:
    """Feed `count` inputs; return how many of them reached lines that none before had reached."""
    rng, corpus, known, fresh = random.Random(seed), list(seeds), set(), 0
    for number in range(count):
        data = seeds[number] if number < len(seeds) else mutate(rng.choice(corpus), rng, corpus)
        reached: set[tuple[str, int]] = set()
        with no_longer_than(SECONDS), lines_reached(reached):
            target(data)
        if reached - known:
            known |= reached
            corpus.append(data)
            fresh += 1
    return fresh


COUNTS = [pytest.param(150, id="short"), pytest.param(3000, id="long", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


POLICIES = [
    b'profile = "strict"\n[claim]\nepsilon = 3.0\nunit = "example"\n[audit]\nmin_power = 0.9\nchecks = ["noise."]\n',
    b'[[waiver]]\nrule = "DPA103"\nreason = "long enough reason"\nticket = "T"\nowner = "me"\nexpires = 2026-12-01\n',
    b'[[attacks.ceiling]]\nattack = "*"\nfpr = 0.01\ntpr = "proven"\n[waivers]\nmax_days = 30\nnever = ["DPA007"]\n',
    b'[[evidence.signer]]\nname = "x"\npublic_key = "' + b"A" * 60 + b'"\n[budget]\nepsilon = 9.0\n',
]


@pytest.mark.parametrize("count", COUNTS)
def test_policies(factory: ModuleType, honest: Evidence, count: int) -> None:
    """No policy lets a bundle pass whose lower bound is above its claim, or whose ledger spends more than it claims."""
    refuted = factory.edited(honest, bounds=(factory.bound(epsilon=9.0),))
    from dataclasses import replace

    overclaimed = factory.edited(honest, claim=replace(honest.claim, epsilon=5.0))
    accepted = 0

    def target(data: bytes) -> None:
        nonlocal accepted
        try:
            policy = parse_policy(data.decode("utf-8", "replace"), source="fuzz")
        except DpauditError:
            return
        accepted += 1
        for bundle in (refuted, overclaimed):
            verdict = evaluate(bundle, policy, today=factory.TODAY, recomputed=factory.fresh(bundle))
            assert verdict.status != Status.PASS, data

    assert fuzz(target, POLICIES, count=count, seed=1) > 5
    assert accepted > 0.03 * count  # it gets past the parser


def rechained(data: bytes) -> bytes:
    """Give the lines of a ledger a hash chain that fits, as somebody would who wants the change to pass."""
    lines, previous = [], GENESIS
    for number, raw in enumerate(data.split(b"\n")):
        try:
            line = json.loads(raw)
            line |= {"seq": number, "prev": previous}
            line["hash"] = _line_hash(number, previous, line["type"], line["body"])
            lines.append(serialize.dumps(line, indent=None).encode())
            previous = line["hash"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            lines.append(raw)
    return b"\n".join(lines)


@pytest.mark.parametrize("count", COUNTS)
def test_ledgers(factory: ModuleType, tmp_path: Path, count: int) -> None:
    """Unreadable, or a ledger; a chain that was not mended is never taken for another content."""
    factory.write_ledger(tmp_path / "l.jsonl", rounds=4)
    good = (tmp_path / "l.jsonl").read_bytes()
    kept = {entry.hash for entry in PrivacyLedger.from_bytes(good).entries}
    bundle = factory.make(tmp_path / "b", ledger_path=tmp_path / "l.jsonl")
    policy = parse_policy("", source="x")
    mended = random.Random(9)

    def target(data: bytes) -> None:
        forged = mended.random() < 0.5
        try:
            ledger = PrivacyLedger.from_bytes(rechained(data) if forged else data)
        except DpauditError:
            return
        if not forged:
            assert {entry.hash for entry in ledger.entries} <= kept
        changed = factory.edited(bundle, ledger=ledger)
        verdict = evaluate(changed, policy, today=factory.TODAY, recomputed=factory.summary_of(ledger))
        assert not any("could not be judged: " in finding.message for finding in verdict.findings), verdict

    assert fuzz(target, [good, good[:400]], count=count, seed=2) > 3


@pytest.mark.parametrize("count", COUNTS)
def test_zipped_bundles(
    factory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """By the command: exit 0 only for the very bundle, 2 for what cannot be read, never 70, and no file anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPAUDIT_NO_CACHE", "1")
    (tmp_path / "home").mkdir()
    bundle = factory.make(tmp_path / "home", scores=None, coins=None, curves={})
    good = evidence_zip.pack({path.name: path.read_bytes() for path in bundle.root.iterdir()})
    target_file, policy = tmp_path / "e.zip", tmp_path / "p.toml"
    policy.write_text("[claim]\nrecompute = false\n")
    codes: dict[int, int] = {}

    def target(data: bytes) -> None:
        target_file.write_bytes(data)
        code = run(["gate", "e.zip", "--policy", "p.toml", "--now", "2026-11-23", "-q"])
        codes[code] = codes.get(code, 0) + 1
        captured = capsys.readouterr()
        assert code in (0, 2), captured
        assert "Traceback" not in captured.err
        if code == 0:
            assert read_evidence(target_file).digest == bundle.digest
        assert {path.name for path in tmp_path.iterdir()} == {"home", "e.zip", "p.toml"}

    fuzz(target, [good], count=count, seed=3)
    assert codes[2] > 0.5 * count
    assert codes[0] >= 1


@pytest.mark.parametrize("count", COUNTS)
def test_attestations(factory: ModuleType, honest: Evidence, tmp_path: Path, count: int) -> None:
    """Whatever the envelope says, only what the key signed is believed."""
    pytest.importorskip("cryptography", reason="not run: cryptography is not installed")
    from datetime import UTC, datetime

    from dpaudit import attestation

    private, public = attestation.generate(tmp_path / "k")
    now = datetime(2026, 11, 23, tzinfo=UTC)
    policy = parse_policy("", source="x")
    verdict = evaluate(honest, policy, today=factory.TODAY, recomputed=factory.fresh(honest))
    statement = attestation.audit_statement(honest, verdict, created=now)
    good = attestation.seal(statement, attestation.load_private(private)).encode()
    signed = json.loads(good)["payload"]
    trusted = {"x": attestation.load_public(public)}

    def target(data: bytes) -> None:
        try:
            found = attestation.verify(data, model_sha256=factory.MODEL, trusted=trusted, now=now, max_age=None)
        except DpauditError:
            return
        if found.status == Status.PASS:
            assert json.loads(data)["payload"] == signed

    inner = json.dumps(statement).encode()
    wrapped = json.dumps({**json.loads(good), "payload": base64.b64encode(inner).decode()}).encode()
    assert fuzz(target, [good, wrapped], count=count, seed=4) > 3
