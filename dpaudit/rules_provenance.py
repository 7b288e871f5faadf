"""Rules about where a release stands: which code made it, and what was released about the same people before."""

from typing import Any

from dpaudit.evidence import Evidence
from dpaudit.rules_base import Case, Outcome, Rule, close, exceeds, failed, not_asked, pair, passed, unclear


def provenance(case: Case) -> Outcome:
    """DPA303."""
    planted = case.evidence.training.get("noise_factor_planted", 1.0)
    if isinstance(planted, bool) or not isinstance(planted, int | float) or planted != 1:
        return failed(
            f"the evidence is of a training with a planted fault (noise factor {planted!r})",
            fix="This is a demonstration or a fire drill; release another training.",
        )
    code, policy = _code(case.evidence), case.policy.evidence
    required = policy.require_provenance or policy.require_clean_tree or case.beside.commit is not None
    if code is None:
        text = "the evidence does not say which code made it"
        return unclear(text) if required else not_asked(text)
    commit, dirty = code.get("commit"), code.get("dirty")
    if not isinstance(commit, str) or not commit:
        text = "the evidence names no commit of the code that made it"
        return unclear(text) if required else not_asked(text)
    if case.beside.commit is not None and not _same_commit(commit, case.beside.commit):
        text = f"the evidence was made by commit {commit[:12]}, the release is from {case.beside.commit[:12]}"
        return failed(text, measured=commit, limit=case.beside.commit)
    if policy.require_clean_tree and dirty is not False:
        text = f"the code was commit {commit[:12]}"
        return failed(f"{text} with changes on top") if dirty is True else unclear(f"{text}, perhaps changed")
    tree = ", with changes on top" if dirty is True else ", without changes" if dirty is False else ""
    return passed(f"made by commit {commit[:12]}{tree}", measured=commit)


def _same_commit(recorded: str, released: str) -> bool:
    """Whether two names are of one commit; a short name must have 12 digits at least."""
    one, other = sorted((recorded.lower(), released.lower()), key=len)
    return len(one) >= 12 and other.startswith(one)


def _code(evidence: Evidence) -> dict[str, Any] | None:
    code = evidence.provenance.get("code") if evidence.provenance is not None else None
    return code if isinstance(code, dict) else None


def cumulative(case: Case) -> Outcome:
    """DPA402."""
    budget, shown = case.policy.budget, case.beside.releases
    if budget.epsilon is None:
        return not_asked("the policy sets no budget for all releases together")
    known = {release.digest for release in shown}
    if absent := [digest for digest in budget.releases if digest not in known]:
        text = f"{len(absent)} of the {len(budget.releases)} earlier releases that the policy names were not shown"
        return unclear(f"{text}, first sha256:{absent[0][:12]}")
    if other := _other_people(case):
        return unclear(other)
    composed = case.beside.composed
    if composed is None or composed.epsilon_pld is None:
        reason = composed.reasons.get("epsilon_pld") if composed is not None else "nothing was composed"
        return unclear(f"the releases together have no ε: {reason or 'no reason given'}")
    if not close(composed.delta, case.claim.delta) or composed.relation != case.claim.relation:
        return unclear("the releases were composed at another δ or relation than the claim's")
    one, other_text = pair(composed.epsilon_pld, budget.epsilon)
    text = f"{len(shown) + 1} releases spent ε {one} together, the budget is {other_text}"
    if exceeds(composed.epsilon_pld, budget.epsilon):
        return failed(text, measured=composed.epsilon_pld, limit=budget.epsilon)
    return passed(text, measured=composed.epsilon_pld, limit=budget.epsilon)


def _other_people(case: Case) -> str | None:
    """Say why earlier releases cannot be composed with this one; None when they can."""
    for release in case.beside.releases:
        name = f"the release sha256:{release.digest[:12]}"
        if release.ledger is None:
            return f"{name} holds no ledger"
        if release.digest == case.evidence.digest:
            return f"{name} is the evidence under judgement"
        if (release.claim.unit, release.claim.relation) != (case.claim.unit, case.claim.relation):
            return f"{name} protects one {release.claim.unit.value}, {release.claim.relation.value}: something else"
    return None


RULES = (
    Rule(
        code="DPA303",
        title="provenance",
        question="Is it known which code made the evidence, and is it the code of this release?",
        fails="it was made by another commit, from a changed tree, or from a training with a planted fault.",
        inconclusive="the policy (or --commit) asks for the code and the evidence does not name it.",
        why="An audit of other code is an audit of another pipeline.",
        fix="Run from a clean checkout of the commit that is released.",
        judge=provenance,
    ),
    Rule(
        code="DPA402",
        title="cumulative budget",
        question="Do all releases about the same people together stay within the budget?",
        fails="the ledgers of all releases, composed, spend more ε than the budget.",
        inconclusive="an earlier release that the policy names was not shown, or the ledgers cannot be composed.",
        why="Every release about the same people adds to what is learned of them; each alone may look harmless.",
        fix="Release less often, with more noise, or about other people; `--release EVIDENCE` shows earlier releases.",
        judge=cumulative,
    ),
)
