"""The rules of the gate, in the order in which they are shown."""

from dpaudit import rules_attacks, rules_audit, rules_claim, rules_evidence
from dpaudit.errors import UsageError
from dpaudit.rules_base import Rule
from dpaudit.rules_waivers import EXPLANATIONS

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (*rules_claim.RULES, *rules_audit.RULES, *rules_attacks.RULES, *rules_evidence.RULES),
        key=lambda rule: rule.code,
    )
)
CATALOGUE: tuple[Rule, ...] = (*RULES, *EXPLANATIONS)
"""Every code that a verdict can name: the rules, and what waivers say."""


def find(code: str) -> Rule:
    """Return the rule of a code, in any case; raise UsageError with the nearest codes if there is none."""
    for rule in CATALOGUE:
        if rule.code == code.upper():
            return rule
    raise UsageError(f"there is no rule {code!r}. The rules are {', '.join(rule.code for rule in CATALOGUE)}.")
