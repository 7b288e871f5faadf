"""Attestations: accepted by the libraries of in-toto and securesystemslib; every change and every doubt is noticed."""

import base64
import json
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dpaudit.cli.main import run
from dpaudit.errors import DataError, UsageError
from dpaudit.evidence import Evidence

pytest.importorskip("cryptography", reason="not run: cryptography is not installed")

from dpaudit import attestation
from dpaudit.gate import evaluate
from dpaudit.policy import load_policy, parse_policy
from dpaudit.records import Status, Verdict

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PASS, FAIL, UNCLEAR = Status.PASS, Status.FAIL, Status.INCONCLUSIVE


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return attestation.generate(tmp_path_factory.mktemp("keys") / "audit.pem")


@pytest.fixture(scope="module")
def private(key_files: tuple[Path, Path]) -> Any:
    return attestation.load_private(key_files[0])


@pytest.fixture(scope="module")
def trusted(key_files: tuple[Path, Path]) -> dict[str, Any]:
    return {"audit job": attestation.load_public(key_files[1])}


def judge(factory: ModuleType, bundle: Evidence, policy: str = "standard") -> Verdict:
    return evaluate(bundle, load_policy(policy), today=factory.TODAY, recomputed=factory.fresh(bundle))


@pytest.fixture(scope="module")
def envelope(factory: ModuleType, honest: Evidence, private: Any) -> bytes:
    statement = attestation.audit_statement(honest, judge(factory, honest), created=NOW)
    return attestation.seal(statement, private).encode()


def status(factory: ModuleType, data: bytes, trusted: dict[str, Any], **changes: Any) -> dict[str, Status]:
    options = {"model_sha256": factory.MODEL, "trusted": trusted, "now": NOW, "max_age": timedelta(days=90), **changes}
    found = attestation.verify(data, **options)
    return {**{check.id: check.status for check in found.checks}, "all": found.status}


def test_an_honest_attestation_holds(factory: ModuleType, envelope: bytes, trusted: dict[str, Any]) -> None:
    assert set(status(factory, envelope, trusted).values()) == {PASS}


def test_in_toto_and_securesystemslib_accept_it(
    factory: ModuleType, honest: Evidence, envelope: bytes, private: Any
) -> None:
    """Third-party validators: the envelope verifies, and the payload is a valid statement."""
    dsse = pytest.importorskip("securesystemslib.dsse", reason="not run: securesystemslib is not installed")
    from securesystemslib.signer import SSlibKey

    json_format = pytest.importorskip("google.protobuf.json_format")
    pytest.importorskip("in_toto_attestation", reason="not run: in-toto-attestation is not installed")
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    from dpaudit.attestation.keys import key_id

    public = private.public_key()
    key = SSlibKey.from_crypto(public, keyid=key_id(public))
    parsed = dsse.Envelope.from_dict(json.loads(envelope))
    assert list(parsed.verify([key], threshold=1)) == [key.keyid]
    svr = attestation.svr_statement(honest, judge(factory, honest), created=NOW)
    for payload in (json.loads(parsed.payload), svr, attestation.seal_statement(honest, created=NOW)):
        message = statement_pb2.Statement()
        json_format.ParseDict(payload, message)
        statement = Statement("", "", {})
        statement.pb = message
        statement.validate()
    parsed.payload = parsed.payload.replace(b'"epsilon": "6.0"', b'"epsilon": "1.0"')
    with pytest.raises(Exception, match=r"Accepted signatures|verif"):
        parsed.verify([key], threshold=1)


def test_signed_by_securesystemslib_and_read_by_us(
    factory: ModuleType, honest: Evidence, trusted: dict[str, Any], private: Any
) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse", reason="not run: securesystemslib is not installed")
    from securesystemslib.signer import CryptoSigner

    statement = attestation.audit_statement(honest, judge(factory, honest), created=NOW)
    parsed = dsse.Envelope(json.dumps(statement).encode(), "application/vnd.in-toto+json", {})
    parsed.sign(CryptoSigner(private))
    assert status(factory, json.dumps(parsed.to_dict()).encode(), trusted)["all"] == PASS


def test_ecdsa_keys_work_and_others_are_refused(factory: ModuleType, honest: Evidence, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    from dpaudit.attestation.keys import public_pem

    def save(key: Any, password: bytes | None = None) -> Path:
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
        (tmp_path / "key.pem").write_bytes(pem)
        return tmp_path / "key.pem"

    key = ec.generate_private_key(ec.SECP256R1())
    secret = attestation.load_private(save(key, b"secret"), password="secret")
    statement = attestation.audit_statement(honest, judge(factory, honest), created=NOW)
    public = attestation.load_public(public_pem(key.public_key()).decode())
    assert status(factory, attestation.seal(statement, secret).encode(), {"x": public})["all"] == PASS
    with pytest.raises(DataError):
        attestation.load_private(save(key, b"secret"), password="wrong")
    with pytest.raises(DataError):
        attestation.load_private(save(key, b"secret"))
    for other in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(DataError, match="P-256"):
            attestation.load_private(save(other))
    for rubbish in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"):
        (tmp_path / "x").write_bytes(rubbish)
        with pytest.raises(DataError):
            attestation.load_public(tmp_path / "x")


def changed(envelope: bytes, edit: Any) -> bytes:
    """Change the statement inside and keep the signature."""
    document = json.loads(envelope)
    statement = json.loads(base64.b64decode(document["payload"]))
    edit(statement)
    document["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(document).encode()


def resigned(statement: dict[str, Any], private: Any, **predicate: Any) -> bytes:
    statement = {**statement, "predicate": {**statement["predicate"], **predicate}}
    return attestation.seal(statement, private).encode()


def test_what_is_changed_after_signing_fails(factory: ModuleType, envelope: bytes, trusted: dict[str, Any]) -> None:
    edits = [
        lambda s: s["predicate"]["claim"].update(epsilon="1.0"),
        lambda s: s["predicate"].update(timeCreated="2026-11-23T11:00:00+00:00"),
        lambda s: s["subject"].append({"name": "more", "digest": {"sha256": "b" * 64}}),
        lambda s: None,  # spelled in another way: not the signed bytes
    ]
    for edit in edits:
        found = status(factory, changed(envelope, edit), trusted)
        assert (found["signature"], found["all"]) == (FAIL, FAIL)


def test_every_single_bit_matters(factory: ModuleType, envelope: bytes, trusted: dict[str, Any]) -> None:
    """A flipped bit is an error or a failed signature, unless it lies in the key id, which is only a hint."""
    rng, hint = random.Random(5), json.loads(envelope)["signatures"][0]["keyid"].encode()
    start = envelope.index(hint)
    for place in rng.sample(range(len(envelope)), 1500):
        data = bytearray(envelope)
        data[place] ^= 1 << rng.randrange(8)
        try:
            found = status(factory, bytes(data), trusted)["all"]
        except DataError:
            continue
        if found == PASS:
            inside_hint = start <= place < start + len(hint)
            assert inside_hint or json.loads(bytes(data))["payload"] == json.loads(envelope)["payload"], place


def test_other_keys_models_dates_results_and_policies(
    factory: ModuleType, honest: Evidence, trusted: dict[str, Any], private: Any, envelope: bytes, tmp_path: Path
) -> None:
    stranger = attestation.load_public(attestation.generate(tmp_path / "other")[1])
    assert status(factory, envelope, {"x": stranger})["signature"] == FAIL
    assert status(factory, envelope, {})["signature"] == FAIL
    assert status(factory, envelope, trusted, model_sha256="b" * 64)["subject"] == FAIL
    for days, expected in ((0, PASS), (90, PASS), (91, FAIL), (-1, FAIL)):
        assert status(factory, envelope, trusted, now=NOW + timedelta(days=days))["age"] == expected
    assert status(factory, envelope, trusted, now=NOW + timedelta(days=900), max_age=None)["age"] == PASS
    strict = load_policy("strict").digest
    assert status(factory, envelope, trusted, policy_sha256=strict)["policy"] == FAIL
    assert status(factory, envelope, trusted, policy_sha256=load_policy("standard").digest)["policy"] == PASS
    lenient = attestation.audit_statement(honest, judge(factory, honest, "demonstration"), created=NOW)
    assert status(factory, attestation.seal(lenient, private).encode(), trusted)["policy"] == FAIL
    statement = attestation.audit_statement(honest, judge(factory, honest), created=NOW)
    for result, expected in (
        ("PASSED", PASS),
        ("INCONCLUSIVE", UNCLEAR),
        ("FAILED", FAIL),
        ("passed", FAIL),
        (None, FAIL),
    ):
        found = status(factory, resigned(statement, private, result=result), trusted)
        assert (found["result"], found["all"]) == (expected, expected)
    for created in (None, "today", "2026-11-23T11:00:00", 5):
        assert status(factory, resigned(statement, private, timeCreated=created), trusted)["age"] == FAIL
    for change in ({"predicateType": "https://example.com/x"}, {"predicate": []}, {"subject": "all"}, {"subject": [1]}):
        data = attestation.seal({**statement, **change}, private).encode()
        assert status(factory, data, trusted)["all"] == FAIL


def test_an_svr_is_only_for_a_pass(
    factory: ModuleType, honest: Evidence, trusted: dict[str, Any], private: Any
) -> None:
    statement = attestation.svr_statement(honest, judge(factory, honest), created=NOW)
    assert statement["predicate"]["properties"][0] == "DPAUDIT_GATE_PASSED"
    assert "DPAUDIT_POWER_ADEQUATE" in statement["predicate"]["properties"]
    assert status(factory, attestation.seal(statement, private).encode(), trusted)["all"] == PASS
    without = resigned(statement, private, properties=["DPAUDIT_POWER_ADEQUATE"])
    assert status(factory, without, trusted)["result"] == FAIL
    for change in ({"bounds": (factory.bound(epsilon=9.0),)}, {"powers": ()}):
        bundle = factory.edited(honest, **change)
        with pytest.raises(UsageError, match="passes only"):
            attestation.svr_statement(bundle, judge(factory, bundle), created=NOW)
    nameless = factory.edited(honest, training={})
    with pytest.raises(UsageError, match="model_sha256"):
        attestation.svr_statement(nameless, judge(factory, honest), created=NOW)


def test_nothing_private_is_attested(factory: ModuleType, honest: Evidence) -> None:
    bundle = factory.edited(honest, training={**honest.training, "cohorts": [31337], "client_ids": ["alice"]})
    text = json.dumps(attestation.audit_statement(bundle, judge(factory, bundle), created=NOW))
    for secret in ("31337", "alice", "502", "498"):
        assert secret not in text
    assert floats(json.loads(text)) == []


def floats(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [found for item in value.values() for found in floats(item)]
    if isinstance(value, list):
        return [found for item in value for found in floats(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff",
        b'{"payloadType": "text/plain", "payload": "", "signatures": []}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "", "signatures": []}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "!", "signatures": [{"sig": "AA=="}]}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": [{"sig": "AA=="}]}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": [{}]}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": 3, "signatures": [3]}',
    ],
)  # fmt: skip
def test_rubbish_is_refused(factory: ModuleType, trusted: dict[str, Any], data: bytes) -> None:
    with pytest.raises(DataError):
        status(factory, data, trusted)


def signers(*names: str, pem: str) -> Any:
    tables = "".join(f'[[evidence.signer]]\nname = "{name}"\npublic_key = """{pem}"""\n' for name in names)
    return parse_policy(tables, source="x").evidence.signer


def test_seals(
    factory: ModuleType, honest: Evidence, key_files: tuple[Path, Path], private: Any, envelope: bytes, tmp_path: Path
) -> None:
    pem = key_files[1].read_text()
    sealed = attestation.seal(attestation.seal_statement(honest, created=NOW), private).encode()
    known = signers("audit job", pem=pem)
    assert attestation.check_seal(sealed, evidence_digest=honest.digest, signers=known).signer == "audit job"
    other = attestation.check_seal(sealed, evidence_digest="0" * 64, signers=known)
    assert (other.signer, other.reason) == (None, "it was made for other evidence")
    assert attestation.check_seal(envelope, evidence_digest=honest.digest, signers=known).signer is None
    stranger = attestation.generate(tmp_path / "other")[1].read_text()
    unknown = attestation.check_seal(sealed, evidence_digest=honest.digest, signers=signers("x", pem=stranger))
    assert unknown.signer is None
    for wrong in ((), signers("a", "a", pem=pem), signers("a", pem="-----BEGIN PUBLIC KEY-----\nAAAA" + " " * 50)):
        with pytest.raises(DataError):
            attestation.check_seal(sealed, evidence_digest=honest.digest, signers=wrong)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    private, public = attestation.generate(tmp_path / "k")
    assert os.stat(private).st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="never overwritten"):
        attestation.generate(tmp_path / "k")
    private.unlink()
    with pytest.raises(UsageError, match="never overwritten"):
        attestation.generate(tmp_path / "k")
    assert public.exists()


def test_the_commands(
    factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """attest, verify and gate --seal: files, exit codes, and what is refused."""
    monkeypatch.chdir(tmp_path)
    Path("model.keras").write_bytes(b"weights")
    from dpaudit.model_files import model_sha256

    facts = {**factory.parts(tmp_path)["training"], "model_sha256": model_sha256("model.keras")}
    Path("policy.toml").write_text("[claim]\nrecompute = false\n")
    Path("dpaudit.toml").write_text("[claim]\nrecompute = false\n")
    made = {
        "pass": factory.make(tmp_path / "p", ledger_path=tmp_path / "ledger.jsonl", training=facts),
        "fail": factory.make(tmp_path / "f", ledger_path=tmp_path / "ledger.jsonl", training=facts,
                             bounds=(factory.bound(epsilon=9.0),)),
        "inconclusive": factory.make(tmp_path / "i", ledger_path=tmp_path / "ledger.jsonl", training=facts, powers=()),
    }  # fmt: skip
    assert run(["attest", "--new-key", "audit.pem"]) == 0
    day = ["--now", "2026-11-23"]
    codes = {"pass": 0, "fail": 1, "inconclusive": 3}
    for name, bundle in made.items():
        command = ["attest", str(bundle.root), "--key", "audit.pem", "-o", f"{name}.json", *day]
        assert run(command) == codes[name]
        assert run([*command, "--svr", f"{name}-svr.json"]) == (0 if name == "pass" else 2)
        check = ["verify", f"{name}.json", "model.keras", "--key", "audit.pem.pub", "--max-age", "90d", *day]
        capsys.readouterr()
        assert run([*check, "--json"]) == codes[name]
        assert json.loads(capsys.readouterr().out)["status"] == name
        assert run(["verify", f"{name}.json", "policy.toml", "--key", "audit.pem.pub", *day]) == 1
    assert run(["verify", "pass-svr.json", "model.keras", "--key", "audit.pem.pub", "--max-age", "2w", *day]) == 0
    assert not Path("fail-svr.json").exists()
    late = ["--now", "2027-06-01", "--max-age", "90d"]
    assert run(["verify", "pass.json", "model.keras", "--key", "audit.pem.pub", *late]) == 1
    assert run(["verify", "pass.json", "model.keras", *day]) == 2  # no key, and the policy here names no signer
    pem = Path("audit.pem.pub").read_text()
    required = "[claim]\nrecompute = false\n[evidence]\nrequire_signature = true\n"
    Path("dpaudit.toml").write_text(f'{required}[[evidence.signer]]\nname = "job"\npublic_key = """{pem}"""\n')
    assert run(["verify", "pass.json", "model.keras", *day]) == 0
    seal = ["attest", str(made["pass"].root), "--seal-evidence", "--key", "audit.pem", "-o", "seal.json"]
    assert run(seal) == 0
    assert run(["gate", str(made["pass"].root), *day, "--seal", "seal.json"]) == 0
    assert run(["gate", str(made["pass"].root), *day]) == 3
    assert run(["gate", str(made["inconclusive"].root), *day, "--seal", "seal.json"]) == 1
    for arguments in (
        ["attest"], ["attest", str(made["pass"].root)], ["attest", str(made["pass"].root), "--key", "policy.toml"],
        ["attest", str(made["pass"].root), "--key", "audit.pem", "-o", str(made["pass"].root / "x.json")],
        ["attest", "--new-key", "audit.pem"], ["verify", "pass.json"], ["verify", "nowhere", "model.keras"],
        ["verify", "model.keras", "model.keras", "--key", "audit.pem.pub"],
        ["verify", "pass.json", "model.keras", "--key", "audit.pem.pub", "--max-age", "soon"],
        ["gate", str(made["pass"].root), "--seal", "policy.toml"],
    ):  # fmt: skip
        assert run(arguments) == 2, arguments
