"""Drawing the plots as SVG that follows the page's colours, light or dark; the only importer of matplotlib.

Colours are drawn as place-holders and replaced by CSS variables; text stays text; every id carries the plot's
own, because several figures share one page.
"""

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dpaudit.reports.plots import Plot, Series

Axes = Any
_NAMES = ("ink", "grid", "a", "b", "c", "d", "bad", "page")
_HEX = {name: f"#0000{number + 1:02x}" for number, name in enumerate(_NAMES)}
INK, GRID, PAGE, BAD = (_HEX[name] for name in ("ink", "grid", "page", "bad"))
_STYLES: dict[str, dict[str, Any]] = {
    "proven": {"color": _HEX["a"], "linestyle": "-", "linewidth": 2.2},
    "summary": {"color": _HEX["d"], "linestyle": (0, (4, 2)), "linewidth": 1.4},
    "chance": {"color": GRID, "linestyle": (0, (1, 2)), "linewidth": 1.4},
    "canary": {"color": _HEX["d"], "linestyle": "none", "marker": ".", "markersize": 5},
    "attack0": {"color": _HEX["b"], "linestyle": "-", "linewidth": 1.6, "marker": "o"},
    "attack1": {"color": _HEX["c"], "linestyle": (0, (6, 2)), "linewidth": 1.6, "marker": "s"},
    "attack2": {"color": _HEX["d"], "linestyle": (0, (3, 1.5, 1, 1.5)), "linewidth": 1.6, "marker": "^"},
    "claim": {"color": BAD, "linestyle": "none", "marker": "D", "markersize": 7},
    "in": {"color": _HEX["b"], "linestyle": "-", "linewidth": 1.6},
    "out": {"color": _HEX["a"], "linestyle": (0, (5, 2)), "linewidth": 1.6},
    "lower": {"color": _HEX["b"], "marker": ">"},
    "upper": {"color": _HEX["a"], "marker": "<"},
}
_RC = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}


def draw(plot: Plot) -> str:
    """Return one plot as an inline SVG element with title and description."""
    with mpl.rc_context({**_RC, "svg.hashsalt": plot.id}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the font lacks: the browser has the letters
        height = max(1.8, 0.42 * len(plot.series) + 1.2) if plot.kind == "ladder" else 3.7
        figure = Figure(figsize=(6.6, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        _DRAWINGS[plot.kind](axes, plot)
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(stream.getvalue(), plot)


def _curves(axes: Axes, plot: Plot) -> None:
    for series in plot.series:
        style = dict(_STYLES[series.role])
        xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
        if series.dots and series.errors:
            _with_errors(axes, series, style)
        else:
            style.pop("marker", None) if not series.dots else None
            axes.plot(xs, ys, label=series.name, **style)


def _with_errors(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
    below = [max(0.0, y - low) for y, (low, _) in zip(ys, series.errors, strict=True)]
    above = [max(0.0, high - y) for y, (_, high) in zip(ys, series.errors, strict=True)]
    axes.errorbar(
        xs, ys, yerr=[below, above], label=series.name, color=style["color"], marker=style["marker"], linestyle="none",
        capsize=3, markersize=5,
    )  # fmt: skip


def _line(axes: Axes, plot: Plot) -> None:
    _curves(axes, plot)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    _percent(axes.xaxis)
    _percent(axes.yaxis)
    axes.grid(visible=True, alpha=0.5)
    axes.legend(loc="upper right")


def _log_log(axes: Axes, plot: Plot) -> None:
    for band in plot.bands:
        starts, ends, lows, highs = zip(*band.cells, strict=True)
        borders = [*starts, ends[-1]]
        style = {"color": _STYLES[band.role]["color"], "alpha": 0.18, "linewidth": 0, "zorder": 0.5}
        axes.fill_between(borders, [*lows, lows[-1]], [*highs, highs[-1]], step="post", label=band.name, **style)
    _curves(axes, plot)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1e-3, 1)
    axes.set_ylim(1e-3, 1.15)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0.001, 0.01, 0.1, 1.0])
        _percent(axis)
        axis.set_minor_formatter(FuncFormatter(lambda _value, _at: ""))
    axes.grid(visible=True, alpha=0.5)
    axes.legend(loc="lower right")


def _profile(axes: Axes, plot: Plot) -> None:
    _curves(axes, plot)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:g}"))
    axes.grid(visible=True, alpha=0.5)
    axes.legend(loc="upper right")


def _rounds(axes: Axes, plot: Plot) -> None:
    _curves(axes, plot)
    for name, value in plot.marks.items():
        axes.axhline(value, color=BAD, linestyle=(0, (5, 2)), label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(visible=True, alpha=0.5)
    axes.legend(loc="lower right")


def _power(axes: Axes, plot: Plot) -> None:
    _curves(axes, plot)
    for name, value in plot.marks.items():
        axes.axhline(value, color=BAD, linestyle=(0, (5, 2)), label=name)
    axes.set_ylim(-0.02, 1.05)
    axes.set_xlim(left=0)
    _percent(axes.yaxis)
    axes.grid(visible=True, alpha=0.5)
    axes.legend(loc="center left")


def _histogram(axes: Axes, plot: Plot) -> None:
    for series in plot.series:
        style = _STYLES[series.role]
        shares = [y for _, y in series.points]
        axes.stairs(shares, plot.edges, color=style["color"], fill=True, alpha=0.25)
        axes.stairs(
            shares, plot.edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.6, label=series.name
        )
    _percent(axes.yaxis)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")


def _ladder(axes: Axes, plot: Plot) -> None:
    names = []
    largest = max([*plot.marks.values(), *(s.points[0][0] for s in plot.series)])
    for height, series in enumerate(plot.series):
        value, style = series.points[0][0], _STYLES[series.role]
        end = 0.0 if series.role == "upper" else largest * 1.12
        axes.plot([value, end], [height, height], color=style["color"], linewidth=5, alpha=0.3, solid_capstyle="butt")
        axes.plot([value], [height], color=style["color"], marker=style["marker"], markersize=8)
        sign = "≤" if series.role == "upper" else "≥"
        text = f"{sign} {value:.3g}"
        place = {"xy": (value, height), "xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, **place, bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 1.0})
        names.append(series.name)
    for name, value in plot.marks.items():
        axes.axvline(value, color=BAD, linestyle=(0, (5, 2)))
        axes.annotate(
            name,
            (value, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=BAD,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.75)
    axes.set_xlim(0, largest * 1.12)


_DRAWINGS: dict[str, Callable[[Axes, Plot], None]] = {
    "line": _line,
    "log-log": _log_log,
    "profile": _profile,
    "rounds": _rounds,
    "power": _power,
    "histogram": _histogram,
    "ladder": _ladder,
}


def _percent(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _at: f"{100 * value:.4g} %"))


def _inline(svg: str, plot: Plot) -> str:
    """Strip the document around the drawing, follow the page's colours and fonts, and make ids unique."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    for name, code in _HEX.items():
        body = body.replace(code, f"var(--fig-{name})")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{plot.id}-\1"', body)
    body = re.sub(r'href="#([^"]*)"', rf'href="#{plot.id}-\1"', body)
    body = re.sub(r"url\(#([^)]*)\)", rf"url(#{plot.id}-\1)", body)
    view = re.search(r'viewBox="[^"]*"', body)
    title, description = escape(plot.title), escape(plot.description)
    opening = (
        f'<svg {view[0] if view else ""} role="img" aria-labelledby="{plot.id}-title {plot.id}-desc" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{plot.id}-title">{title}</title><desc id="{plot.id}-desc">{description}</desc>'
    )
    return opening + body[body.index(">") + 1 :]
