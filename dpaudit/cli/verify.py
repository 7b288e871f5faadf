"""`dpaudit verify ATTESTATION MODEL`: does a signed statement speak of this model, does it pass, and is it recent?"""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from dpaudit.records import Status

_PATH = click.Path(path_type=Path)
_AGE = re.compile(r"^([1-9][0-9]{0,4})([hdw])$")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def age(text: str) -> timedelta:
    """Return a length of time written as 90d, 12h or 2w; raise UsageError for anything else."""
    if match := _AGE.match(text):
        return int(match[1]) * _UNITS[match[2]]
    raise UsageError(f"--max-age must be a number with h, d or w, such as 90d; got {text[:40]!r}.")


@click.command()
@click.argument("attestation", type=_PATH)
@click.argument("model", type=_PATH)
@click.option("--key", "keys", type=_PATH, multiple=True, help="Trusted public key in PEM; the policy's when left out.")
@click.option("--max-age", metavar="90d", help="Oldest attestation that is accepted; any age when left out.")
@click.option("--policy", metavar="FILE|PROFILE", help="Policy that must have been applied; else any real one.")
@click.option("--now", type=click.DateTime(["%Y-%m-%d"]), help="The present (UTC now), at the end of that day.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    attestation: Path,
    model: Path,
    keys: tuple[Path, ...],
    max_age: str | None,
    policy: str | None,
    now: datetime | None,
    as_json: bool,
) -> None:
    """Verify a signed ATTESTATION about MODEL (the file or folder that is released).

    Exit code: 0 if it is signed by a trusted key, speaks of this model, passed and is recent; 1 if not; 3 if the
    verdict that it carries is inconclusive; 2 if it cannot be read.
    """
    from dpaudit import attestation as attesting
    from dpaudit.attestation.dsse import MAX_BYTES
    from dpaudit.evidence_store import read_plain
    from dpaudit.model_files import model_sha256
    from dpaudit.policy import load_policy
    from dpaudit.reports.clean import plain

    limit = age(max_age) if max_age is not None else None
    present = now.replace(tzinfo=UTC) + timedelta(days=1) if now else datetime.now(UTC)
    found = attesting.verify(
        read_plain(attestation, MAX_BYTES),
        model_sha256=model_sha256(model),
        trusted=trusted_keys(keys),
        now=present,
        max_age=limit,
        policy_sha256=load_policy(policy).digest if policy else None,
    )
    code = exit_code(found.status)
    rows = [f"  {check.status.value.upper():<14}{check.id:<11}{plain(check.detail)}" for check in found.checks]
    payload = {
        "status": found.status, "checks": found.checks, "predicate_type": found.statement.get("predicateType"),
        "exit_code": code,
    }  # fmt: skip
    emit("verify", payload, "\n".join([*rows, "", f"{found.status.value.upper()}: {attestation}"]), as_json=as_json)
    ctx.exit(code)


def trusted_keys(keys: tuple[Path, ...]) -> dict[str, Any]:
    """Return the keys that were given, else those of the signers of the policy that is found here.

    Raises: UsageError if there are none: a signature by just anybody means nothing.
    """
    from dpaudit import attestation
    from dpaudit.policy import load_policy

    if keys:
        return {str(path): attestation.load_public(path) for path in keys}
    signers = load_policy().evidence.signer
    if not signers:
        raise UsageError("verify needs --key PUBLIC_KEY, or a dpaudit.toml here with [[evidence.signer]].")
    return {signer.name: attestation.load_public(signer.public_key) for signer in signers}


def exit_code(status: "Status") -> int:
    """Return the exit code of a status."""
    return {"pass": EXIT_PASS, "fail": EXIT_FAIL}.get(status.value, EXIT_INCONCLUSIVE)
