"""The data of the figures: what each shows, in words and as a table, before anything is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dpaudit.evidence import Curve, Evidence
from dpaudit.records import AccountingSummary
from dpaudit.reports.bands import LEFT, Band, band_of
from dpaudit.reports.clean import short

Points = tuple[tuple[float, float], ...]
TABLE_ROWS = 24
_DOTS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, or one set of dots, with its name; `role` chooses colour and dashes."""

    name: str
    points: Points
    role: str
    dots: bool = False
    errors: tuple[tuple[float, float], ...] = ()
    """Intervals of y, one for each dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure: `kind` chooses the drawing, `description` is read aloud, `headers` and `rows` are its data table."""

    id: str
    kind: str
    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: Mapping[str, float] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    bands: tuple[Band, ...] = ()


def percent_text(value: float) -> str:
    """Write a rate as a percentage."""
    return f"{100 * value:.3g} %"


def thinned(points: Points, most: int) -> Points:
    """Keep at most `most` points, evenly, with both ends."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return tuple(points[round(i * step)] for i in range(most))


def _table(series: tuple[Series, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((s.name, percent_text(x), percent_text(y)) for s in series for x, y in thinned(s.points, TABLE_ROWS))


def _attack_points(evidence: Evidence, *, miss: bool) -> list[Series]:
    """Return the measured rates of every attack, as misses or as hits, with their intervals."""
    found = []
    for attack in evidence.attacks:
        measured = [p for p in attack.tpr_at_fpr if p.tpr is not None and p.ci is not None]
        if not measured:
            continue
        points, errors = [], []
        for p in measured:
            tpr, (low, high) = p.tpr or 0.0, p.ci or (0.0, 1.0)
            points.append((p.fpr, 1 - tpr if miss else tpr))
            errors.append((1 - high, 1 - low) if miss else (low, high))
        found.append(
            Series(
                name=short(attack.attack),
                points=tuple(points),
                role=_role(evidence, attack.attack),
                dots=True,
                errors=tuple(errors),
            )
        )
    return found


def trade_off(evidence: Evidence) -> Plot | None:
    """Proven trade-off between the two errors of an attacker, with what the audit and the attacks measured."""
    summary = evidence.accounting
    if summary is None or not summary.trade_off:
        return None
    series = [
        Series(name="by the accounting: no attack below", points=summary.trade_off, role="proven"),
        Series(name="blind guessing", points=((0.0, 1.0), (1.0, 0.0)), role="chance"),
        *_summary_curve(summary),
        *_attack_points(evidence, miss=True),
    ]
    if canaries := evidence.curves.get("canaries"):
        dots = tuple((x, 1 - y) for x, y in thinned(canaries.roc, _DOTS))
        series.append(Series(name="canary audit, every threshold", points=dots, role="canary", dots=True))
    return Plot(
        id="trade-off",
        kind="line",
        title="Errors of an attacker",
        description="False positives against false negatives. By the accounting, every attack lies above the solid "
        "curve. Dots are measured on samples and scatter around their true place, so that a dot below the curve is no "
        "proof by itself: the findings compare confidence limits.",
        x_label="false-positive rate (non-members flagged)",
        y_label="false-negative rate (members missed)",
        series=tuple(series),
        headers=("series", "false-positive rate", "false-negative rate"),
        rows=_table(tuple(series)),
    )


def _role(evidence: Evidence, name: str) -> str:
    """An attack looks the same in every figure."""
    names = [attack.attack for attack in evidence.attacks]
    place = names.index(name) if name in names else len(names) + _ordered(evidence).index(name)
    return f"attack{place % 3}"


def roc(evidence: Evidence) -> Plot | None:
    """ROC of the attacks on logarithmic axes, with their confidence bands, chance and the proven ceiling."""
    curves = {name: curve for name, curve in evidence.curves.items() if name != "canaries"}
    points = _attack_points(evidence, miss=False)
    if not curves and not points:
        return None
    series = [
        Series(name=short(name), points=curves[name].roc, role=_role(evidence, name)) for name in _ordered(evidence)
    ]
    series += [replace(measured, name=f"{measured.name}, interval") for measured in points] if series else points
    series.append(Series(name="chance", points=((1e-4, 1e-4), (1.0, 1.0)), role="chance"))
    if ceiling := _ceiling(evidence.accounting):
        series.append(Series(name="ceiling by the accounting", points=ceiling, role="proven"))
    bands = _bands(evidence)
    return Plot(
        id="roc",
        kind="log-log",
        title="Attacks at low false-positive rates",
        description="True-positive rate against false-positive rate of each membership-inference attack, both axes "
        "logarithmic. What attackers want is far left; the ceiling is what the accounting allows."
        + (f" {_BANDS}" if bands else ""),
        x_label="false-positive rate",
        y_label="true-positive rate",
        series=tuple(series),
        headers=("series", "false-positive rate", "true-positive rate"),
        rows=_table(tuple(series)) + _band_rows(bands),
        bands=bands,
    )


_BANDS = (
    "Shaded: pointwise 95 % limits (exact, Clopper-Pearson) of each attack's true-positive rate; they hold at any one "
    "false-positive rate, not at all of them together."
)


def _ceiling(summary: AccountingSummary | None) -> Points:
    """Return the largest true-positive rates by the accounting, from where the axes begin to 100 %."""
    if summary is None or not summary.trade_off:
        return ()
    known = sorted({(x, 1 - y) for x, y in summary.trade_off if x > 0} | {p for p in summary.tpr_ceilings if p[0] > 0})
    if not known:
        return ()
    left = ((LEFT, known[0][1]),) if known[0][0] > LEFT else ()  # the ceiling only rises
    return (*left, *known, *(((1.0, 1.0),) if known[-1][0] < 1 else ()))


def _bands(evidence: Evidence) -> tuple[Band, ...]:
    """Return the band of every attack whose curve is in the bundle."""
    results = {attack.attack: attack for attack in evidence.attacks}
    found = [
        band_of(
            evidence.curves[name],
            results[name],
            name=f"{short(name)}, pointwise 95 %",
            role=_role(evidence, name),
        )
        for name in _ordered(evidence)
        if name in results
    ]
    return tuple(band for band in found if band is not None)


def _band_rows(bands: tuple[Band, ...]) -> tuple[tuple[str, ...], ...]:
    """Every eighth cell of a band, with the limits that hold anywhere in it."""
    return tuple(
        (band.name, f"{percent_text(start)} to {percent_text(end)}", f"{percent_text(low)} to {percent_text(high)}")
        for band in bands
        for start, end, low, high in band.cells[::8]
    )


def _ordered(evidence: Evidence) -> list[str]:
    """Return the names of attack curves, in the order of the attacks."""
    order = [attack.attack for attack in evidence.attacks]
    names = [name for name in evidence.curves if name != "canaries"]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _summary_curve(summary: AccountingSummary) -> list[Series]:
    """The trade-off curve of the nearest Gaussian mechanism: a summary by one number, and no guarantee."""
    if summary.mu is None or not summary.mu > 0:
        return []
    from scipy.special import ndtr, ndtri

    rates = [x for x, _ in summary.trade_off if 0 < x < 1]
    points = tuple((x, float(ndtr(ndtri(1 - x) - summary.mu))) for x in rates)
    regret = f", regret {summary.mu_regret:.3g}" if summary.mu_regret is not None else ""
    return (
        [Series(name=f"Gaussian summary, μ {summary.mu:.3g}{regret}", points=points, role="summary")] if points else []
    )


def _histogram(identity: str, title: str, about: str, names: tuple[str, str], curve: Curve) -> Plot:
    middles = [(a + b) / 2 for a, b in zip(curve.edges, curve.edges[1:], strict=False)]
    pairs = zip(names, (curve.member, curve.non_member), ("in", "out"), strict=True)
    series = tuple(
        Series(name=name, points=tuple(zip(middles, shares, strict=False)), role=role) for name, shares, role in pairs
    )
    rows = tuple(
        (f"{low:.3g} to {high:.3g}", percent_text(one), percent_text(other))
        for low, high, one, other in zip(curve.edges, curve.edges[1:], curve.member, curve.non_member, strict=False)
    )
    return Plot(
        id=identity,
        kind="histogram",
        title=title,
        description=about,
        x_label="score (higher: more like a member); end bins hold what lies beyond",
        y_label="share of scores",
        series=series,
        headers=("score", *names),
        rows=rows,
        edges=curve.edges,
    )


def canary_histogram(evidence: Evidence) -> Plot | None:
    """Scores of canaries that were in and that were out."""
    curve = evidence.curves.get("canaries")
    if curve is None:
        return None
    about = (
        "Shares of the scores of canaries that were put in by their coins and of those that were left out. "
        "The farther apart, the more the training gives away."
    )
    return _histogram("canaries", "Scores of the canaries", about, ("canaries in", "canaries out"), curve)


def attack_histograms(evidence: Evidence) -> list[Plot]:
    """Scores of members and non-members, for each attack."""
    about = "Shares of the scores that the attack gave to members and to non-members."
    return [
        _histogram(
            f"scores-{i}",
            f"Scores of the attack {short(name)}",
            about,
            ("members", "non-members"),
            evidence.curves[name],
        )
        for i, name in enumerate(_ordered(evidence))
    ]
