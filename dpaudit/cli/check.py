"""`dpaudit check ...`: statistical and exact checks that need no training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS

if TYPE_CHECKING:
    from dpaudit.records import CheckResult, Scalar, Status


@click.group("check")
def command() -> None:
    """Check what ran against what was claimed. Exit code: 0 pass, 1 fail, 3 inconclusive."""


def report(ctx: click.Context, results: Sequence["CheckResult"], *, as_json: bool, **facts: "Scalar") -> None:
    """Print the results of a check command and leave with the exit code of the worst."""
    from dpaudit.records import Status

    status = overall(results)
    refuted = sorted({result.refuted for result in results if result.refuted is not None})
    payload = {"status": status, "checks": list(results), "refuted": refuted, **facts}
    lines = [f"{result.status.value.upper():13} {result.id}: {result.detail}" for result in results]
    lines += [f"refuted: {claim}" for claim in refuted]
    emit("check", payload, "\n".join([*lines, status.value.upper()]), as_json=as_json)
    ctx.exit({Status.PASS: EXIT_PASS, Status.FAIL: EXIT_FAIL}.get(status, EXIT_INCONCLUSIVE))


def overall(results: Sequence["CheckResult"]) -> "Status":
    """Return FAIL if any check failed, PASS if there are checks and all passed, else INCONCLUSIVE."""
    from dpaudit.records import Status

    if any(result.status == Status.FAIL for result in results):
        return Status.FAIL
    passed = bool(results) and all(result.status == Status.PASS for result in results)
    return Status.PASS if passed else Status.INCONCLUSIVE


@command.command()
@click.argument("indices", type=click.Path(path_type=Path))
@click.option("--sampling-rate", type=float, required=True, help="The claimed probability per unit and round.")
@click.option("--population", type=click.IntRange(min=1), help="Number of units; default: the largest index + 1.")
@click.option("--rounds", type=click.IntRange(min=1), help="Number of batches of a .csv whose last ones are empty.")
@click.option("--significance", type=float, default=0.01, show_default=True, help="False-alarm probability, all tests.")
@json_option
@click.pass_context
def sampling(
    ctx: click.Context,
    /,
    *,
    indices: Path,
    sampling_rate: float,
    population: int | None,
    rounds: int | None,
    significance: float,
    as_json: bool,
) -> None:
    """Test recorded batches against Poisson sampling: .npz, .csv (batch, index) or .jsonl (a list per batch)."""
    from dpaudit import verification
    from dpaudit.verification.batch_files import read_counts

    counts = read_counts(indices, population=population, rounds=rounds)
    results = verification.check_counts(counts, sampling_rate=sampling_rate, significance=significance)
    units = len(counts.inclusions)
    report(ctx, results, as_json=as_json, rounds=len(counts.batch_sizes), population=units, significance=significance)


@command.command()
@click.argument("ledger", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(min=0), help="Rounds that the trainer says it ran.")
@click.option("--noise-draws", type=click.IntRange(min=0), help="Draws of noise that the trainer made.")
@json_option
@click.pass_context
def ledger(ctx: click.Context, /, ledger: Path, rounds: int | None, noise_draws: int | None, as_json: bool) -> None:
    """Check a privacy ledger: intact, no gaps, the promised noise in every round, one fixed denominator."""
    from dpaudit import verification
    from dpaudit.ledger import PrivacyLedger

    opened = PrivacyLedger.open(ledger)
    results = verification.check_ledger(opened, rounds_run=rounds, noise_draws=noise_draws)
    report(ctx, results, as_json=as_json, digest=opened.digest, torn_bytes=opened.torn_bytes)
