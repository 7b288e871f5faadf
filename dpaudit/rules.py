"""The rules of the gate, in the order in which they are shown."""

from dpaudit import (
    rules_attacks,
    rules_audit,
    rules_baseline,
    rules_claim,
    rules_drill,
    rules_evidence,
    rules_provenance,
    rules_sampler,
)
from dpaudit.errors import UsageError
from dpaudit.rules_base import Rule
from dpaudit.rules_waivers import EXPLANATIONS

_PARTS = (
    rules_claim, rules_sampler, rules_audit, rules_drill, rules_attacks, rules_evidence, rules_provenance,
    rules_baseline,
)  # fmt: skip
RULES: tuple[Rule, ...] = tuple(sorted((rule for part in _PARTS for rule in part.RULES), key=lambda rule: rule.code))
CATALOGUE: tuple[Rule, ...] = (*RULES, *EXPLANATIONS)
"""Every code that a verdict can name: the rules, and what waivers say."""


def find(code: str) -> Rule:
    """Return the rule of a code, in any case; raise UsageError with the nearest codes if there is none."""
    for rule in CATALOGUE:
        if rule.code == code.upper():
            return rule
    raise UsageError(f"there is no rule {code!r}. The rules are {', '.join(rule.code for rule in CATALOGUE)}.")
