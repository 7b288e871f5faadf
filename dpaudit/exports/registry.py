"""A record for the registry of differential-privacy deployments (OpenDP), as YAML.

Written for the registry's schema as of 2026 (`basic`, `dp_variant`, `privacy_loss`, `deployment_model`,
`implementation`, `administrative`). Facts that only the publisher knows (curators, region, purpose) are arguments;
what the evidence knows is filled in. The status is always Draft: the registry's board decides.
"""

import re
from collections.abc import Mapping
from typing import Any

from dpaudit.errors import UsageError
from dpaudit.evidence import Evidence
from dpaudit.exports.summary import best_bound, claim_sentence, result
from dpaudit.exports.yaml import dump
from dpaudit.records import Unit, Verdict

REQUIRED = ("curator", "curator_type", "intended_use", "region", "author")
CURATORS = ("Government", "Industry", "Nonprofit")
_RELATIONS = {"add-or-remove-one": "adding or removing one", "replace-one": "replacing one by another"}


def record(evidence: Evidence, verdict: Verdict, about: Mapping[str, str]) -> dict[str, Any]:
    """Return the record as plain data.

    Args:
        evidence: the bundle.
        verdict: what the gate said of it.
        about: `curator`, `curator_type`, `intended_use`, `region`, `author`, and optionally `published` (a date).

    Raises: UsageError for what is missing.
    """
    if missing := [name for name in REQUIRED if not about.get(name)]:
        raise UsageError(f"a record of the registry needs {', '.join(missing)}; give --about KEY=VALUE for each.")
    if about["curator_type"] not in CURATORS:
        raise UsageError(f"curator_type must be one of {', '.join(CURATORS)}; got {about['curator_type']!r}.")
    name = evidence.claim.model or "model"
    deployment = {
        "basic": {
            "name": name,
            "data_curators": [{"data_curator_name": about["curator"], "data_curator_type": about["curator_type"]}],
            "description": f"{name}: {result(verdict)}; {claim_sentence(evidence, verdict)}",
            "intended_use": about["intended_use"],
            "data_product_type": "Machine learning model",
            "data_product_region": about["region"],
            "publication_date": about.get("published") or str(verdict.date),
        },
        "dp_variant": {"variant_name": "Approximate DP"},
        "privacy_loss": _privacy_loss(evidence),
        "deployment_model": _deployment_model(evidence),
        "implementation": _implementation(evidence, verdict),
        "administrative": {"status": "Draft", "registry_authors": [about["author"]], "tier": 2},
    }
    return {"url_slug": _slug(name), "deployment": deployment}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def _privacy_loss(evidence: Evidence) -> dict[str, Any]:
    claim, summary = evidence.claim, evidence.accounting
    loss: dict[str, Any] = {
        "privacy_unit": "client (all data of one device or user)" if claim.unit == Unit.CLIENT else "record",
        "privacy_unit_details": f"Data sets are adjacent by {_RELATIONS[claim.relation.value]} {claim.unit.value}.",
        "privacy_parameters": {"epsilon": claim.epsilon, "delta": claim.delta},
        "privacy_parameters_details": f"Recomputed from the ledger by PLD: {summary.epsilon_pld if summary else None}; "
        f"mu {summary.mu if summary else None}.",
    }
    units = evidence.training.get("units")
    if isinstance(units, int) and not isinstance(units, bool):
        loss["number_of_privacy_units"] = units
    return loss


def _deployment_model(evidence: Evidence) -> dict[str, Any]:
    texts = [a.text for a in (evidence.accounting.assumptions if evidence.accounting else ())]
    return {
        "model_name": "Federated" if evidence.claim.unit == Unit.CLIENT else "Central",
        "trust_assumptions": "; ".join(texts) or "The server that samples, clips and adds noise is trusted.",
        "release_type": "One release",
        "data_source_type": "Static",
        "access_type": "Non-interactive",
    }


def _implementation(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    facts, bound = evidence.training, best_bound(evidence)
    library = evidence.accounting.library if evidence.accounting else "no accountant"
    shown = (
        f"epsilon at least {bound.epsilon:.4g} ({bound.label})" if bound and bound.epsilon is not None else "nothing"
    )
    return {
        "mechanisms": f"{facts.get('algorithm', 'DP-SGD')}, {facts.get('rounds')} rounds, noise multiplier "
        f"{facts.get('noise_multiplier')}, clip norm {facts.get('clip_norm')}, sampler {facts.get('sampler')}.",
        "composition": f"Composed by {library} over the events of a privacy ledger.",
        "justification": f"Audited by dpaudit {evidence.version}, verdict {result(verdict)} on {verdict.date}; "
        f"the audit showed {shown}.",
    }


def render(evidence: Evidence, verdict: Verdict, about: Mapping[str, str]) -> str:
    """Return the record as YAML."""
    return dump(record(evidence, verdict, about))
