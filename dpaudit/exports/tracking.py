"""The verdict as a run of MLflow (optional): parameters, metrics, tags and the report as an artifact.

Artifact paths are flat, because GitLab's model registry, which speaks the same protocol, has no folders.
"""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

from dpaudit.errors import MissingDependency
from dpaudit.evidence import Evidence
from dpaudit.exports.summary import best_bound, result
from dpaudit.records import Verdict


def client() -> Any:
    """Return the module mlflow; raise MissingDependency if it is not installed."""
    try:
        return import_module("mlflow")
    except ModuleNotFoundError as error:
        raise MissingDependency("logging to MLflow needs mlflow. Run: pip install 'dpaudit[mlflow]'") from error


def metrics(evidence: Evidence) -> dict[str, float]:
    """Return the numbers that are logged; what could not be computed is left out, never 0."""
    summary, bound = evidence.accounting, best_bound(evidence)
    found: dict[str, float | None] = {
        "dp.claim.epsilon": evidence.claim.epsilon,
        "dp.claim.delta": evidence.claim.delta,
        "dp.accounting.epsilon_pld": summary.epsilon_pld if summary else None,
        "dp.accounting.epsilon_rdp": summary.epsilon_rdp if summary else None,
        "dp.accounting.mu": summary.mu if summary else None,
        "dp.audit.epsilon_lower_bound": bound.epsilon if bound else None,
    }
    for attack in evidence.attacks:
        found[f"dp.attack.{attack.attack}.auc"] = attack.auc
        for point in attack.tpr_at_fpr:
            found[f"dp.attack.{attack.attack}.tpr_at_fpr_{point.fpr:g}"] = point.tpr
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def tags(evidence: Evidence, verdict: Verdict) -> dict[str, str]:
    """Return the tags: the verdict and the digests of what was judged."""
    digests = {f"dpaudit.digest.{name}": digest for name, digest in verdict.digests.items()}
    return {
        "dpaudit.verdict": result(verdict),
        "dpaudit.date": str(verdict.date),
        "dpaudit.profile": str(verdict.profile),
        "dpaudit.unit": evidence.claim.unit.value,
        "dpaudit.neighbouring": evidence.claim.relation.value,
        **digests,
    }


def log(evidence: Evidence, verdict: Verdict, *, report: Path | None = None, mlflow: Any = None) -> None:
    """Log the verdict to the active run of MLflow, or to a new one.

    Args:
        evidence: the bundle.
        verdict: what the gate said of it.
        report: a file to keep beside it.
        mlflow: the module (or something that behaves like it); imported when left out.
    """
    api = mlflow if mlflow is not None else client()
    opened = api.active_run() is None
    if opened:
        api.start_run(run_name=f"dpaudit {evidence.claim.model or 'model'}")
    try:
        api.log_metrics(metrics(evidence))
        api.set_tags(tags(evidence, verdict))
        if report is not None:
            api.log_artifact(str(report))
    finally:
        if opened:
            api.end_run()
