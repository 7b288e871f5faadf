"""The data of the figures about what is spent: epsilon at every delta, and over the rounds."""

from dpaudit.evidence import Evidence
from dpaudit.reports.plots import TABLE_ROWS, Plot, Series, thinned


def profile(evidence: Evidence) -> Plot | None:
    """Epsilon at every delta: one mechanism has many (epsilon, delta) pairs."""
    summary = evidence.accounting
    points = tuple((d, e) for d, e in summary.profile if d > 0) if summary is not None else ()
    if not points:
        return None
    claim = evidence.claim
    return Plot(
        id="profile",
        kind="profile",
        title="One training, many pairs of ε and δ",
        description="ε by PLD accounting at each δ, and the claimed pair. The curve says more than any one pair.",
        x_label="δ",
        y_label="ε",
        series=(
            Series(name="by the accounting", points=points, role="proven"),
            Series(name="claimed", points=((claim.delta, claim.epsilon),), role="claim", dots=True),
        ),
        headers=("δ", "ε"),
        rows=tuple((f"{d:.3g}", f"{e:.4g}") for d, e in thinned(points, TABLE_ROWS)),
    )


def rounds(evidence: Evidence) -> Plot | None:
    """Spent epsilon after each round, with the claim."""
    summary = evidence.accounting
    if summary is None or not summary.epsilon_over_rounds:
        return None
    points = tuple((float(number), spent) for number, spent in summary.epsilon_over_rounds)
    claim = evidence.claim.epsilon
    shown = thinned(points, TABLE_ROWS)
    return Plot(
        id="rounds",
        kind="rounds",
        title="Privacy spent over the rounds",
        description=f"ε by PLD accounting after each round, at δ {summary.delta:g}, with the claimed ε {claim:g}.",
        x_label="round",
        y_label="ε",
        series=(Series(name="spent by the ledger", points=points, role="proven"),),
        headers=("round", "ε"),
        rows=tuple((f"{x:.0f}", f"{y:.4g}") for x, y in shown),
        marks={f"claimed ε {claim:g}": claim},
    )
