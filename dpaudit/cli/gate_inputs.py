"""What a gate is shown beside the evidence: released model, commit, seal, fire drill, earlier releases."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpaudit.errors import DataError, DpauditError

if TYPE_CHECKING:
    from dpaudit.evidence import Evidence
    from dpaudit.policy import Policy
    from dpaudit.records import AccountingSummary
    from dpaudit.rules_base import Beside, Drill, Seal

F = TypeVar("F", bound=Callable[..., Any])
_SEAL_LIMIT = 16 << 20
_PATH = click.Path(path_type=Path)


def beside_options(function: F) -> F:
    """Add the options that show the gate more than the evidence."""
    options = (
        click.option("--model", type=_PATH, help="The file or folder that is released (DPA302)."),
        click.option("--commit", metavar="SHA", help="The commit that is released (DPA303)."),
        click.option("--seal", type=_PATH, help="Seal over the evidence (DPA304), see `dpaudit attest`."),
        click.option("--drill", type=_PATH, help="Evidence of a run with a planted fault (DPA105)."),
        click.option(
            "--release", "releases", multiple=True, type=_PATH,
            help="Evidence of an earlier release about the same people (DPA402); any number of times.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def recompute(bundle: "Evidence") -> "AccountingSummary | None":
    """Recompute the accounting of a bundle's ledger, or read it from the cache; None where that is impossible.

    What the accountants refuse is said on stderr and leaves DPA001 inconclusive: the verdict, not an error, tells it.
    """
    from dpaudit.cli import accounting_cache

    if bundle.ledger is None:
        return None
    try:
        return accounting_cache.summarize(bundle.ledger, delta=bundle.claim.delta, relation=bundle.claim.relation)
    except (DpauditError, ArithmeticError, ValueError, MemoryError) as error:
        click.echo(f"dpaudit: the claim could not be recomputed: {error}", err=True)
        return None


def gather(
    bundle: "Evidence",
    policy: "Policy",
    *,
    model: Path | None = None,
    commit: str | None = None,
    seal: Path | None = None,
    drill: Path | None = None,
    releases: tuple[Path, ...] = (),
) -> "Beside":
    """Read everything that the gate was shown."""
    from dpaudit.evidence import read_evidence
    from dpaudit.model_files import model_sha256
    from dpaudit.rules_base import Beside

    earlier = tuple(read_evidence(path) for path in releases)
    return Beside(
        model_sha256=model_sha256(model) if model else None,
        commit=_commit(commit) if commit is not None else None,
        seal=_seal(bundle, policy, seal) if seal else None,
        drill=_drill(drill) if drill else None,
        releases=earlier,
        composed=_composed(bundle, earlier) if policy.budget.epsilon is not None else None,
    )


def _commit(text: str) -> str:
    if not (12 <= len(text) <= 64 and all(c in "0123456789abcdefABCDEF" for c in text)):
        raise DataError(f"--commit must be 12 to 64 hexadecimal digits; got {text[:80]!r}.")
    return text


def _drill(path: Path) -> "Drill":
    from dpaudit.evidence import read_evidence
    from dpaudit.rules_base import Drill

    bundle = read_evidence(path)
    return Drill(evidence=bundle, recomputed=recompute(bundle))


def _seal(bundle: "Evidence", policy: "Policy", path: Path) -> "Seal":
    from dpaudit import attestation
    from dpaudit.evidence_store import read_plain

    data = read_plain(path, _SEAL_LIMIT)
    return attestation.check_seal(data, evidence_digest=bundle.digest, signers=policy.evidence.signer)


def _composed(bundle: "Evidence", releases: tuple["Evidence", ...]) -> "AccountingSummary | None":
    """Account for the events of all ledgers as one; None where a ledger is missing or the accountants refuse."""
    from dpaudit.cli import accounting_cache
    from dpaudit.ledger import PrivacyLedger

    together = PrivacyLedger(unit=bundle.claim.unit, relation=bundle.claim.relation)
    for release in (*releases, bundle):
        if release.ledger is None:
            return None
        for entry in release.ledger.events():
            if entry.event is not None:
                together.record(entry.event)
    try:
        return accounting_cache.summarize(together, delta=bundle.claim.delta, relation=bundle.claim.relation)
    except (DpauditError, ArithmeticError, ValueError, MemoryError) as error:
        click.echo(f"dpaudit: the releases could not be composed: {error}", err=True)
        return None
