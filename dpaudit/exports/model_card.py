"""A block for a Hugging Face model card: front matter in YAML, and a section in Markdown.

`model-index` holds the audit's numbers as evaluation results, `privacy` (a key of our own, which the hub keeps) the
claim and the verdict.
"""

from typing import Any

from dpaudit.evidence import Evidence
from dpaudit.exports.summary import best_bound, claim_sentence, result
from dpaudit.exports.yaml import dump
from dpaudit.records import Verdict


def metadata(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """Return the front matter as plain data."""
    claim, summary = evidence.claim, evidence.accounting
    name = claim.model or "model"
    privacy = {
        "verdict": result(verdict),
        "judged_on": verdict.date,
        "policy_profile": verdict.profile,
        "epsilon": claim.epsilon,
        "delta": claim.delta,
        "unit": claim.unit.value,
        "neighbouring": claim.relation.value,
        "epsilon_recomputed_pld": summary.epsilon_pld if summary else None,
        "mu": summary.mu if summary else None,
        "evidence_sha256": evidence.digest,
        "model_sha256": evidence.training.get("model_sha256"),
        "audited_with": f"dpaudit {evidence.version}",
    }
    index = {
        "name": name,
        "results": [
            {
                "task": {"type": "privacy-audit", "name": "Differential privacy audit"},
                "dataset": {"type": "private", "name": "not disclosed"},
                "metrics": _metrics(evidence),
            }
        ],
    }
    tags = ["differential-privacy", "dpaudit"]
    return {"tags": tags, "privacy": privacy, "model-index": [index]}


def _metrics(evidence: Evidence) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = [
        {
            "type": "epsilon",
            "name": f"claimed epsilon at delta {evidence.claim.delta:g}",
            "value": evidence.claim.epsilon,
        }
    ]
    bound = best_bound(evidence)
    if bound is not None and bound.epsilon is not None:
        name = f"epsilon shown by the audit, at least ({bound.label}, {100 * (bound.confidence or 0):g} % confidence)"
        metrics.append({"type": "epsilon_lower_bound", "name": name, "value": bound.epsilon})
    metrics += [
        {
            "type": "tpr_at_fpr",
            "name": f"membership inference by {attack.attack}: true-positive rate at false-positive rate {point.fpr:g}",
            "value": point.tpr,
        }
        for attack in evidence.attacks
        for point in attack.tpr_at_fpr
        if point.tpr is not None
    ]
    return metrics


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return front matter and section; to be merged into the model's README.md."""
    lines = [
        "## Privacy",
        "",
        f"**{result(verdict)}**: {claim_sentence(evidence, verdict)}",
        "",
        "A pass is no proof that nothing leaks; it speaks of one release and of the unit above.",
        f"Evidence SHA-256 `{evidence.digest}`, judged on {verdict.date} under the policy profile `{verdict.profile}`.",
        "",
    ]
    return f"---\n{dump(metadata(evidence, verdict))}---\n\n" + "\n".join(lines)
