"""Where a finding is shown in code review: at the policy's line for its rule, else at the evidence's manifest."""

from dataclasses import dataclass
from pathlib import Path

from dpaudit import serialize
from dpaudit.evidence import Evidence
from dpaudit.policy import Policy
from dpaudit.records import Finding

_KEYS = {
    "DPA001": "claim.epsilon",
    "DPA002": "claim.require_two_accountants",
    "DPA003": "claim.sampler",
    "DPA004": "claim.delta",
    "DPA005": "claim.unit",
    "DPA007": "audit.checks",
    "DPA101": "audit.families",
    "DPA102": "audit.checks",
    "DPA103": "audit.min_power",
    "DPA104": "audit.coin_significance",
    "DPA105": "audit.fire_drill_max_age_days",
    "DPA201": "attacks.ceiling.0",
    "DPA202": "attacks.required",
    "DPA203": "attacks.require_alive",
    "DPA204": "attacks.require_worst_group",
    "DPA205": "attacks.required",
    "DPA301": "evidence.max_age_days",
    "DPA302": "evidence.require_model",
    "DPA303": "evidence.require_provenance",
    "DPA304": "evidence.require_signature",
    "DPA306": "evidence",
    "DPA307": "evidence.allow_configured_seed",
    "DPA401": "baseline",
    "DPA402": "budget.epsilon",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A file, relative to the working folder where that is possible, and a line in it."""

    path: str
    line: int


def key_of(finding: Finding) -> str:
    """Return the dotted key of the policy that governs a finding."""
    return _KEYS.get(finding.rule, "waiver.0" if finding.rule.startswith("DPA9") else "profile")


def anchor(evidence: Evidence, policy: Policy | None, finding: Finding) -> Anchor:
    """Return the place of a finding."""
    if policy is None or not Path(policy.source).is_file():
        place = evidence.root / "manifest.json" if evidence.root.is_dir() else evidence.root
        return Anchor(path=_relative(place), line=1)
    parts = key_of(finding).split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    line = next((policy.lines[name] for name in prefixes if name in policy.lines), 1)
    return Anchor(path=_relative(Path(policy.source)), line=line)


def _relative(path: Path) -> str:
    """Return a path that does not change from machine to machine: relative to the working folder, or its last part."""
    whole, here = path.resolve(), Path.cwd().resolve()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else path.name


def fingerprint(evidence: Evidence, finding: Finding, repeat: int = 0) -> str:
    """Return an identity that stays while the finding stays: no measured number is part of it."""
    text = f"{finding.rule}|{evidence.claim.model or ''}|{key_of(finding)}|{repeat or ''}"
    return serialize.sha256_bytes(text.encode("utf-8", "replace"))
