"""The data of the figures about the audit: its power, and the ladder of lower bounds, claim and upper bounds."""

from dpaudit.evidence import Evidence
from dpaudit.records import BoundStatus, Direction, Verdict
from dpaudit.reports.clean import short
from dpaudit.reports.plots import Plot, Series, percent_text


def power(evidence: Evidence, verdict: Verdict) -> Plot | None:
    """How often the audit would have refuted the claim of a worse mechanism, with what the policy asks."""
    methods = dict.fromkeys(p.label for p in evidence.powers)
    series = []
    for number, method in enumerate(methods):
        known = [
            (p.alternative_epsilon, p.power, p.power_ci or (p.power, p.power))
            for p in evidence.powers
            if p.label == method and p.power is not None and p.alternative_epsilon is not None
        ]
        if known:
            known.sort()
            points = tuple((x, y) for x, y, _ in known)
            errors = tuple(interval for _, _, interval in known)
            series.append(
                Series(name=short(method), points=points, role=f"attack{number % 3}", dots=True, errors=errors)
            )
    if not series:
        return None
    target = next((f.limit for f in verdict.findings if f.rule == "DPA103" and isinstance(f.limit, float)), None)
    claim = evidence.claim.epsilon
    return Plot(
        id="power",
        kind="power",
        title="Power of the audit",
        description="How often the simulated audit refuted the claim when the mechanism was worse than claimed, with "
        f"intervals of 95 %. The claim is ε {claim:g}; the dashed line is what the policy asks.",
        x_label="true ε of the simulated mechanism",
        y_label="power to refute the claim",
        series=tuple(series),
        headers=("method", "true ε", "power"),
        rows=tuple((s.name, f"{x:.4g}", percent_text(y)) for s in series for x, y in s.points),
        marks={"asked by the policy": target} if target is not None else {},
    )


def ladder(evidence: Evidence) -> Plot | None:
    """Lower bounds by method, the claim, and the accountants' upper bounds, on one line."""
    series = [
        Series(
            name=f"{short(b.label)} ({b.family.value}, {percent_text(b.confidence or 0)})",
            points=((b.epsilon, 0.0),),
            role="lower",
        )
        for b in evidence.bounds
        if b.direction == Direction.LOWER and b.epsilon is not None and b.status == BoundStatus.OK
    ]
    summary = evidence.accounting
    if summary is not None:
        upper = {
            "PLD accounting of the ledger": summary.epsilon_pld,
            "RDP accounting of the ledger": summary.epsilon_rdp,
        }
        series += [
            Series(name=name, points=((value, 0.0),), role="upper")
            for name, value in upper.items()
            if value is not None
        ]
    if not series:
        return None
    claim = evidence.claim.epsilon
    kinds = {"lower": "ε is at least", "upper": "ε is at most"}
    return Plot(
        id="ladder",
        kind="ladder",
        title="Lower bounds, claim and upper bounds",
        description="What the audit shows ε to be at least, by method, and what accounting gives it to be at most. "
        f"The claim is ε {claim:g}.",
        x_label=f"ε at δ {evidence.claim.delta:g}",
        y_label="",
        series=tuple(series),
        headers=("method", "kind", "ε"),
        rows=tuple((s.name, kinds[s.role], f"{s.points[0][0]:.4g}") for s in series),
        marks={f"claimed ε {claim:g}": claim},
    )
