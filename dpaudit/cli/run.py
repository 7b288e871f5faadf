"""`dpaudit run CONFIG --out DIR`: the whole job."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.engine_option import engine_option
from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import load_tensorflow

if TYPE_CHECKING:
    from dpaudit.pipeline import Outcome


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; new, or with --resume.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run: no noise twice, no round counted twice.")
@click.option("--policy", help="Profile or policy file; default: what the configuration says.")
@click.option(
    "--noise-factor",
    type=click.FloatRange(min=0, min_open=True),
    help="Demonstration: scale the real noise behind the ledger's back.",
)
@click.option("--now", type=click.DateTime(["%Y-%m-%d"]), help="Date of the judgement (UTC today).")
@engine_option
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    config: Path,
    out: Path,
    resume: bool,
    policy: str | None,
    noise_factor: float | None,
    now: datetime | None,
    engine: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train, account, audit, attack, verify, report and gate, as CONFIG says.

    Exit code: 0 pass, 1 fail, 3 inconclusive, 2 usage.
    """
    from dpaudit import config as configuration
    from dpaudit.policy import load_policy

    settings = configuration.load(config)
    chosen = load_policy(policy or _policy_beside(settings.policy, config))
    load_tensorflow()
    from dpaudit import pipeline
    from dpaudit.pipeline.progress import choose

    if noise_factor is not None:
        settings = pipeline.with_fault(settings, noise_factor=noise_factor)
    today = now.date() if now else datetime.now(UTC).date()
    reporter = choose(quiet=quiet)
    try:
        outcome = pipeline.run(
            settings, out, policy=chosen, resume=resume, today=today, reporter=reporter, engine=engine
        )
        reporter.stage("writing the report")
        written = pipeline.write_outputs(outcome, out)
    finally:
        reporter.close()
    emit("run", document(outcome, written), pipeline.verdict_text(outcome, written), as_json=as_json)
    ctx.exit(outcome.verdict.exit_code)


def _policy_beside(policy: str, config: Path) -> str:
    """A policy file named in a configuration lies beside it."""
    beside = config.parent / policy
    return str(beside) if beside.is_file() else policy


def document(outcome: "Outcome", written: dict[str, Path]) -> dict[str, Any]:
    """Return the JSON document of a run, with the keys that other programs rely on."""
    bundle = outcome.evidence
    return {
        "status": outcome.verdict.status,
        "evidence": bundle.root,
        "claim": bundle.claim,
        "epsilon": {"rdp": outcome.accounting.epsilon_rdp, "pld": outcome.accounting.epsilon_pld},
        "delta": bundle.claim.delta,
        "bounds": bundle.bounds,
        "attacks": bundle.attacks,
        "checks": bundle.checks,
        "power": bundle.powers,
        "training": bundle.training,
        "verdict": outcome.verdict,
        "written": {name: str(path) for name, path in written.items()},
    }
