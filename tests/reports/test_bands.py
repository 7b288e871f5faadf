"""The bands around ROC curves cover the true curve as often as they say, and are drawn; the ceiling spans the axes."""

import re
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest

from dpaudit.evidence import Evidence, curve_of
from dpaudit.records import AttackResult, ScoreSet
from dpaudit.reports import figures, plots
from dpaudit.reports.bands import LEFT, Band, band_of

MEMBERS, OTHERS, SHIFT = 900, 700, 0.8
RATES = (0.0015, 0.01, 0.1, 0.5)


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


def scored(members: int = MEMBERS, others: int = OTHERS) -> AttackResult:
    return AttackResult(attack="a", threat_model="t", auc=0.5, n_member=members, n_non_member=others)


def sample(seed: int, step: float) -> ScoreSet:
    rng = np.random.default_rng(seed)
    member, other = rng.standard_normal(MEMBERS) + SHIFT, rng.standard_normal(OTHERS)
    if step:
        member, other = np.round(member / step) * step, np.round(other / step) * step
    return ScoreSet(member=member, non_member=other)


def truth(rate: float, step: float) -> float:
    """The largest TPR that a threshold with FPR <= rate has, of scores rounded to `step`."""
    if not step:
        return float(ndtr(SHIFT + ndtri(rate)))
    cuts = np.arange(-40, 41) * step + step / 2
    return float(max(ndtr(SHIFT - cut) for cut in cuts if ndtr(-cut) <= rate))


def limits(band: Band, rate: float) -> tuple[float, float]:
    return next((low, high) for start, end, low, high in band.cells if start <= rate <= end)


def made(seed: int, step: float = 0.0) -> Band:
    band = band_of(curve_of(sample(seed, step)), scored(), name="a", role="attack0")
    assert band is not None
    return band


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_the_band_covers_the_true_curve_at_any_one_rate(step: float) -> None:
    """300 samples, 4 rates each: 45 or more misses at one rate have probability 2e-11 if the band covers with 95 %."""
    bands = [made(seed, step) for seed in range(300)]
    for rate in RATES:
        true = truth(rate, step)
        missed = sum(not low <= true <= high for low, high in (limits(band, rate) for band in bands))
        assert missed < 45, (rate, missed)


def test_the_band_is_narrow_enough_to_say_something() -> None:
    low, high = limits(made(0), 0.1)
    assert high - low < 0.25
    wrong = float(ndtr(SHIFT + 1.0 + ndtri(0.1)))
    assert not low <= wrong <= high


def test_the_cells_are_side_by_side_and_the_limits_rise() -> None:
    cells = np.array(made(1).cells)
    assert cells[0, 0] == pytest.approx(LEFT)
    assert cells[-1, 1] == 1
    np.testing.assert_array_equal(cells[1:, 0], cells[:-1, 1])
    assert np.all(np.diff(cells[:, 2:], axis=0) >= 0)
    assert np.all((cells[:, 2] <= cells[:, 3]) & (cells[:, 2] >= 0) & (cells[:, 3] <= 1))


def test_the_limits_are_those_of_clopper_and_pearson() -> None:
    """Four members and four others apart from each other: the limits by SciPy's exact interval, at 97.5 %."""
    curve = curve_of(ScoreSet(member=np.arange(4.0) + 9, non_member=np.arange(4.0)))
    band = band_of(curve, scored(4, 4), name="a", role="attack0")
    assert band is not None
    all_four = binomtest(4, 4).proportion_ci(confidence_level=0.975, method="exact")
    none = binomtest(0, 4).proportion_ci(confidence_level=0.975, method="exact")
    for start, end, low, high in band.cells:
        assert low == pytest.approx(all_four.low if start >= none.high else 0.0)
        assert high == 1.0, (start, end)
    assert any(low > 0 for _, _, low, _ in band.cells)


@pytest.mark.parametrize(
    ("members", "others"), [(0, OTHERS), (MEMBERS, 0), (MEMBERS + 1, OTHERS), (MEMBERS, OTHERS - 1), (1, 1)]
)
def test_no_band_where_the_counts_are_not_those_of_the_curve(members: int, others: int) -> None:
    assert band_of(curve_of(sample(0, 0.0)), scored(members, others), name="a", role="attack0") is None


@pytest.mark.parametrize(
    "roc", [(), ((0.0, 1.0), (1.0, 0.0)), ((0.5, 0.5), (0.0, 0.0)), ((-1.0, -1.0),), ((2.0, 2.0),)]
)
def test_no_band_for_what_is_no_curve(roc: tuple[tuple[float, float], ...]) -> None:
    curve = replace(curve_of(sample(0, 0.0)), roc=roc)
    assert band_of(curve, scored(2, 2), name="a", role="attack0") is None


def test_the_figure_has_band_ceiling_and_table(honest: Evidence) -> None:
    plot = plots.roc(honest)
    assert plot is not None
    assert [band.name for band in plot.bands] == ["lira, pointwise 95 %"]
    assert "pointwise 95 % limits (exact, Clopper-Pearson)" in plot.description
    assert sum(row[0] == "lira, pointwise 95 %" for row in plot.rows) >= 10
    svg = figures.draw(plot)
    assert "lira, pointwise 95 %" in re.sub(r"<[^>]*>", "", svg)
    assert len(re.findall(r"(?:fill-)?opacity: 0\.18", svg)) >= 2  # the band and its place in the legend
    bare = figures.draw(replace(plot, bands=()))
    assert "pointwise 95 %" not in re.sub(r"<desc.*?</desc>|<[^>]*>", "", bare, flags=re.DOTALL)


def test_the_ceiling_spans_the_axes(honest: Evidence) -> None:
    assert honest.accounting is not None
    whole = honest.accounting.trade_off
    for trade_off in (whole, tuple(p for p in whole if 0.05 < p[0] < 0.9)):
        bundle = replace(honest, accounting=replace(honest.accounting, trade_off=trade_off, tpr_ceilings=()))
        plot = plots.roc(bundle)
        assert plot is not None
        points = next(s.points for s in plot.series if s.role == "proven")
        assert points[0][0] <= LEFT
        assert points[-1][0] == 1
        assert all(a <= b + 1e-12 for (_, a), (_, b) in pairwise(points))


def test_a_curve_that_is_no_attack_of_the_bundle_has_no_band(honest: Evidence) -> None:
    plot = plots.roc(replace(honest, attacks=()))
    assert plot is not None
    assert plot.bands == ()
    assert "Shaded" not in plot.description
