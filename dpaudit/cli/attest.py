"""`dpaudit attest EVIDENCE`: sign what the gate says of a model; `--seal-evidence`: sign the evidence itself."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.gate import refuse_inside, write
from dpaudit.cli.gate_inputs import beside_options, gather, recompute
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_PASS, UsageError

if TYPE_CHECKING:
    from dpaudit.evidence import Evidence
    from dpaudit.records import Verdict

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("evidence", type=_PATH, required=False)
@click.option("--key", type=_PATH, help="Private key in PEM; its password in DPAUDIT_KEY_PASSWORD.")
@click.option("-o", "--out", type=_PATH, default=Path("dpaudit-attestation.json"), show_default=True)
@click.option("--svr", type=_PATH, help="Also write a Simple Verification Result (only if the verdict is PASS).")
@click.option("--seal-evidence", is_flag=True, help="Sign the evidence itself, without judging it (for `gate --seal`).")
@click.option("--policy", metavar="FILE|PROFILE", help="Profile or policy file, as `dpaudit gate`.")
@beside_options
@click.option("--now", type=click.DateTime(["%Y-%m-%d"]), help="Date of the judgement (UTC today).")
@click.option(
    "--assurance",
    type=click.Choice(["self_attested", "third_party", "reproduced"]),
    default="self_attested",
    show_default=True,
    help="Who stands behind the audit.",
)
@click.option("--new-key", type=_PATH, help="Make a new Ed25519 key at this path (and .pub beside it), then stop.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    evidence: Path | None,
    key: Path | None,
    out: Path,
    svr: Path | None,
    seal_evidence: bool,
    policy: str | None,
    model: Path | None,
    commit: str | None,
    seal: Path | None,
    drill: Path | None,
    releases: tuple[Path, ...],
    now: datetime | None,
    assurance: str,
    new_key: Path | None,
    as_json: bool,
) -> None:
    """Judge EVIDENCE as `dpaudit gate` does and write a signed in-toto statement about the audited model.

    The statement says what the verdict is, FAILED and INCONCLUSIVE too, and so does the exit code: 0 pass, 1 fail,
    3 inconclusive. `--seal-evidence` signs the evidence instead, where it is made.
    """
    from dpaudit import attestation
    from dpaudit.evidence import read_evidence

    if new_key is not None:
        private, public = attestation.generate(new_key)
        written = [str(private), str(public)]
        emit("attest", {"written": written}, f"private key {private}, public key {public}", as_json=as_json)
        return
    if evidence is None or key is None:
        raise UsageError("attest needs EVIDENCE and --key KEY; `dpaudit attest --new-key FILE` makes a key.")
    bundle = read_evidence(evidence)
    for path in filter(None, (out, svr)):
        refuse_inside(path, bundle.root)
    secret = attestation.load_private(key, password=os.environ.get("DPAUDIT_KEY_PASSWORD"))
    if seal_evidence:
        write(out, attestation.seal(attestation.seal_statement(bundle, created=datetime.now(UTC)), secret))
        payload = {"written": [str(out)], "evidence": bundle.digest, "exit_code": EXIT_PASS}
        emit("attest", payload, f"sealed sha256:{bundle.digest}: {out}", as_json=as_json)
        return
    shown = {"model": model, "commit": commit, "seal": seal, "drill": drill, "releases": releases}
    written, verdict = _attest(bundle, secret, out, svr, policy=policy, now=now, assurance=assurance, shown=shown)
    payload = {
        "written": written, "status": verdict.status, "digests": verdict.digests, "exit_code": verdict.exit_code,
    }  # fmt: skip
    from dpaudit.reports.summary import last_line

    emit("attest", payload, f"{last_line(verdict)}\nattestation: {', '.join(written)}", as_json=as_json)
    ctx.exit(verdict.exit_code)


def _attest(
    bundle: "Evidence",
    secret: Any,
    out: Path,
    svr: Path | None,
    *,
    policy: str | None,
    now: datetime | None,
    assurance: str,
    shown: dict[str, Any],
) -> tuple[list[str], "Verdict"]:
    """Judge, and write what is signed; nothing is written if any of it cannot be made."""
    from dpaudit import attestation
    from dpaudit.gate import evaluate
    from dpaudit.policy import load_policy

    chosen = load_policy(policy)
    recomputed = recompute(bundle) if chosen.claim.recompute else None
    today = now.date() if now else datetime.now(UTC).date()
    beside = gather(bundle, chosen, **shown)
    verdict = evaluate(bundle, chosen, today=today, recomputed=recomputed, beside=beside)
    created = now.replace(tzinfo=UTC) if now else datetime.now(UTC)
    statements = {out: attestation.audit_statement(bundle, verdict, created=created, assurance=assurance)}
    if svr is not None:
        statements[svr] = attestation.svr_statement(bundle, verdict, created=created)
    for path, statement in statements.items():
        write(path, attestation.seal(statement, secret))
    return [str(path) for path in statements], verdict
