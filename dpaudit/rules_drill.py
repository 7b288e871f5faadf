"""The rule of the fire drill: a planted fault must be caught by the very rules that the release relies on."""

from collections.abc import Callable, Iterator
from datetime import UTC

from dpaudit.evidence import Evidence
from dpaudit.records import Status
from dpaudit.rules_attacks import above_theory
from dpaudit.rules_audit import lower_bound, noise_and_clip, statistical_tests
from dpaudit.rules_base import DRILL, Case, Drill, Outcome, Rule, failed, judge_checks, not_asked, passed, unclear

CATCHERS: dict[str, Callable[[Case], Outcome]] = {
    "DPA007": noise_and_clip,
    "DPA101": lower_bound,
    "DPA102": statistical_tests,
    "DPA202": above_theory,
}
"""Rules that look at what happened; a drill counts as caught only if one of these fails."""
_SAME = (
    "algorithm", "rounds", "clip_norm", "noise_multiplier", "client_sampling_rate", "example_sampling_rate",
    "local_steps", "aggregator", "canaries", "canary_families", "unit", "data",
)  # fmt: skip
"""Facts in which the drill's training must not differ from the release's."""


def fire_drill(case: Case) -> Outcome:
    """DPA105."""
    outcomes = list(_outcomes(case))
    for status in (Status.FAIL, Status.INCONCLUSIVE, Status.PASS):
        if found := [outcome for outcome in outcomes if outcome.status == status]:
            return found[0]
    text = "no fire drill was held"
    required = case.policy.audit.require_fire_drill or any(p.startswith(DRILL) for p in case.policy.audit.checks)
    return unclear(text) if required else not_asked(text)


def _outcomes(case: Case) -> Iterator[Outcome]:
    """Judge the drills inside the evidence, and the one that the gate was shown."""
    checks = [check for check in case.evidence.checks if check.id.startswith(DRILL)]
    if checks:
        outcome = judge_checks(checks, [], "planted faults were caught,")
        bare = [check.id for check in checks if check.statistic is None or check.statistic < 1]
        doubt = outcome.status == Status.PASS and bare
        yield unclear(f"{bare[0]} says pass, but does not say how many checks caught the fault") if doubt else outcome
    if case.beside.drill is not None:
        yield _judge(case, case.beside.drill)


def _judge(case: Case, drill: Drill) -> Outcome:
    planted = drill.evidence.training.get("noise_factor_planted")
    if isinstance(planted, bool) or not isinstance(planted, int | float) or not 0 < planted < 1:
        return unclear("the evidence of the fire drill does not say that noise was taken away on purpose")
    if different := _different(case.evidence, drill.evidence):
        return unclear(f"the fire drill was held on another training: {different} differs")
    limit, day = case.policy.audit.fire_drill_max_age_days, drill.evidence.created.astimezone(UTC).date()
    age = (case.today - day).days
    if not -1 <= age <= limit:
        text = f"the fire drill is of {day}, {age} days before the judgement, the policy allows {limit}"
        return unclear(text, measured=age, limit=limit)
    twin = Case(evidence=drill.evidence, policy=case.policy, today=case.today, recomputed=drill.recomputed)
    caught = [code for code, judge in CATCHERS.items() if judge(twin).status == Status.FAIL]
    if not caught:
        return failed(f"noise was scaled by {planted:g} behind the ledger's back and no rule failed", measured=planted)
    return passed(f"noise scaled by {planted:g} on {day} was caught by {', '.join(caught)}", measured=", ".join(caught))


def _different(release: Evidence, drill: Evidence) -> str | None:
    """Return the first fact in which two trainings differ; a fact that neither states is no difference."""
    return next((name for name in _SAME if release.training.get(name) != drill.training.get(name)), None)


RULES = (
    Rule(
        code="DPA105",
        title="fire drill",
        question="Was a fault that was planted on purpose caught by the same tests?",
        fails="the planted fault was not caught.",
        inconclusive="the policy asks for a drill and none was held, it is too old, or it was of another training.",
        why="People believe an alarm that they have seen ring; a broken test passes everything.",
        fix="`dpaudit run CONFIG --noise-factor 0.5 --out DRILL`, then `dpaudit gate EVIDENCE --drill DRILL`.",
        judge=fire_drill,
    ),
)
