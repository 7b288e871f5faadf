"""`dpaudit export KIND EVIDENCE`: the verdict in the forms of others, or the evidence as one .zip file."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpaudit.cli.gate import refuse_inside, write
from dpaudit.cli.gate_inputs import recompute
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import UsageError

if TYPE_CHECKING:
    from dpaudit.evidence import Evidence
    from dpaudit.records import Verdict

_PATH = click.Path(path_type=Path)
_NAMES = {
    "hf-card": "model-card.md",
    "cyclonedx": "model.cdx.json",
    "dp-registry": "deployment.yaml",
    "zip": "evidence.zip",
    "mlflow": None,
}


@click.command()
@click.argument("kind", type=click.Choice(list(_NAMES)))
@click.argument("evidence", type=_PATH)
@click.option("-o", "--out", type=_PATH, help="File to write; the default depends on KIND (mlflow writes none).")
@click.option("--policy", metavar="FILE|PROFILE", help="Profile or policy file, as `dpaudit gate`.")
@click.option("--now", type=click.DateTime(["%Y-%m-%d"]), help="Date of the judgement (UTC today).")
@click.option("--about", multiple=True, metavar="KEY=VALUE", help="Facts for dp-registry that evidence does not hold.")
@json_option
def command(
    *,
    kind: str,
    evidence: Path,
    out: Path | None,
    policy: str | None,
    now: datetime | None,
    about: tuple[str, ...],
    as_json: bool,
) -> None:
    """Export EVIDENCE and the gate's verdict on it as KIND.

    hf-card: front matter and section for a Hugging Face model card. cyclonedx: bill of materials 1.6. dp-registry:
    record for the OpenDP registry of deployments. mlflow: metrics and tags of the active run. zip: the evidence as one
    file. The exit code says whether it was written; what the verdict is stands in what is written.
    """
    from dpaudit.evidence import pack_evidence, read_evidence

    bundle = read_evidence(evidence)
    target = out or (Path(_NAMES[kind] or "") if _NAMES[kind] else None)
    if target is not None:
        refuse_inside(target, bundle.root)
    if kind == "zip":
        if target is None or target.suffix != ".zip":
            raise UsageError(f"the name of a zipped bundle ends in .zip; got {target}.")
        packed = pack_evidence(bundle, target)
        body = {"written": str(target), "kind": kind, "digests": {"evidence": packed.digest}}
        emit("export", body, f"evidence sha256:{packed.digest}: {target}", as_json=as_json)
        return
    verdict = _judge(bundle, policy, now)
    if target is None:
        from dpaudit.exports import tracking

        tracking.log(bundle, verdict)
    else:
        write(target, _render(kind, bundle, verdict, about))
    payload = {"written": str(target) if target else None, "kind": kind, "status": verdict.status}
    emit("export", payload, f"{verdict.status.value}: {target or 'logged to MLflow'}", as_json=as_json)


def _judge(bundle: "Evidence", policy: str | None, now: datetime | None) -> "Verdict":
    from dpaudit.gate import evaluate
    from dpaudit.policy import load_policy

    chosen = load_policy(policy)
    today = now.date() if now else datetime.now(UTC).date()
    return evaluate(bundle, chosen, today=today, recomputed=recompute(bundle) if chosen.claim.recompute else None)


def _render(kind: str, bundle: "Evidence", verdict: "Verdict", about: tuple[str, ...]) -> str:
    from dpaudit.exports import exporter

    facts = dict(_fact(item) for item in about)
    module = exporter(kind)
    text: str = module.render(bundle, verdict, facts) if kind == "dp-registry" else module.render(bundle, verdict)
    return text


def _fact(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise UsageError(f"--about must be KEY=VALUE; got {item[:80]!r}.")
    return key, value
