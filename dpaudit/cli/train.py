"""`dpaudit train CONFIG --out DIR`: training and its ledger, without audit or verdict."""

from pathlib import Path
from typing import Any

import click

from dpaudit.cli.engine_option import engine_option
from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import load_tensorflow


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; new, or with --resume.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@engine_option
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def command(config: Path, out: Path, resume: bool, engine: str, quiet: bool, as_json: bool) -> None:
    """Train as CONFIG says; the ledger and the model lie in the folder afterwards.

    `dpaudit run CONFIG --out DIR --resume` goes on with audit, attacks, verification, report and gate.
    """
    from dpaudit import config as configuration

    settings = configuration.load(config)
    load_tensorflow()
    from dpaudit import accounting, pipeline
    from dpaudit.ledger import PrivacyLedger
    from dpaudit.pipeline.progress import choose

    reporter = choose(quiet=quiet)
    try:
        trained = pipeline.train(settings, out, resume=resume, reporter=reporter, engine=engine)
        ledger = PrivacyLedger.open(trained.workspace.ledger)
        summary = accounting.summarize(
            ledger, delta=settings.claim.delta, relation=settings.claim.relation, rounds=False
        )
    finally:
        reporter.close()
    payload: dict[str, Any] = {
        "evidence": None,
        "reason": "train writes no evidence; `dpaudit run --resume` on the same folder goes on with the audit",
        "claim": {"epsilon": settings.claim.epsilon, "delta": settings.claim.delta, "unit": settings.claim.unit},
        "epsilon": {"rdp": summary.epsilon_rdp, "pld": summary.epsilon_pld},
        "delta": settings.claim.delta,
        "bounds": [],
        "attacks": [],
        "checks": [],
        "verdict": None,
        "ledger": trained.workspace.ledger,
        "model": trained.run.model,
        "holdout_accuracy": trained.run.holdout_accuracy,
    }
    accuracy = trained.run.holdout_accuracy
    text = (
        f"Trained {trained.run.rounds_done} rounds: hold-out accuracy {accuracy:.1%}.\n"
        f"By the ledger, epsilon {summary.epsilon_pld} (PLD), {summary.epsilon_rdp} (RDP) "
        f"at delta {settings.claim.delta:g}.\n"
        f"Ledger: {trained.workspace.ledger}\nModel: {trained.run.model}"
    )
    emit("train", payload, text, as_json=as_json)
