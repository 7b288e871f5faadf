"""The table of groups: how well each attack does inside each group of people.

The numbers of all groups are in the run's private file beside the bundle, which no digest covers. They are shown only
where they agree with the check that is in the bundle; otherwise the table holds the worst group by that check.
"""

import math
import stat
from dataclasses import dataclass
from typing import Any

from dpaudit import serialize
from dpaudit.errors import DpauditError
from dpaudit.evidence import Evidence
from dpaudit.evidence_store import read_plain
from dpaudit.records import CheckResult
from dpaudit.reports.clean import plain
from dpaudit.reports.view import Table, area_ceiling

CHECK = "attack.worst_group"
DOCUMENT = "private/exposed_records.json"
SCHEMA = "dpaudit.exposed-records/v1"
_LIMIT = 16 * 2**20
_MOST = 60
_NAMED = frozenset({"everyone", "class", "typicality", "size"})
"""Groupings whose groups may be named in a report; a client is not named."""
_HEADERS = ("attack", "group", "AUC", "interval", "AUC at most, by the accounting")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    attack: str
    name: str
    auc: float | None
    low: float
    high: float
    reason: str


def groups(evidence: Evidence) -> Table | None:
    """Return the AUC of every attack in every group with its interval, the worst first; None without the check."""
    check = next((c for c in evidence.checks if c.id == CHECK), None)
    if check is None:
        return None
    found = _read(evidence)
    if not found or not _agree(found, check):
        return _worst_only(check, found is not None)
    ceiling = area_ceiling(check.threshold)
    shown = sorted(found, key=lambda g: (g.auc is None, -g.low))[:_MOST]
    rows = [
        (plain(g.attack), plain(g.name), f"none: {plain(g.reason)}", "none", ceiling)
        if g.auc is None
        else (plain(g.attack), plain(g.name), f"{g.auc:.3f}", f"{g.low:.3f} to {g.high:.3f}", ceiling)
        for g in shown
    ]
    left = f"; the {len(shown)} worst of {len(found)}" if len(shown) < len(found) else ""
    caption = (
        "Attacks by group, worst first; all intervals hold together with probability "
        f"{_level(check.significance)}{left}. From the run's private file, which agrees with the check {CHECK} "
        "but which no digest covers"
    )
    return Table(caption=caption, headers=_HEADERS, rows=rows)


def _worst_only(check: CheckResult, disagrees: bool) -> Table:
    why = "is not shown, for it disagrees with this check" if disagrees else "is not beside the bundle"
    row = (
        "every attack",
        plain(check.detail or "no detail given"),
        _rate(check.statistic),
        area_ceiling(check.threshold),
    )
    return Table(
        caption=f"The worst group by the check {CHECK}; the run's private file with all groups {why}",
        headers=("attack", "worst group", "lower limit of its AUC", "AUC at most, by the accounting"),
        rows=[row],
    )


def _rate(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _level(significance: float | None) -> str:
    known = significance is not None and 0 < significance < 1
    return f"{100 * (1 - significance):.4g} %" if known and significance is not None else "not stated"


def _agree(found: list[_Group], check: CheckResult) -> bool:
    """Whether the worst lower limit is the one that was judged."""
    lows = [group.low for group in found if group.auc is not None]
    return bool(lows) and check.statistic is not None and math.isclose(max(lows), check.statistic, rel_tol=1e-9)


def _read(evidence: Evidence) -> list[_Group] | None:
    """Return the groups of the private file: None where there is none, [] where it cannot be understood."""
    path = evidence.root.parent / DOCUMENT
    try:
        if path.parent.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
            return None
    except (OSError, ValueError):  # absent, or not for the eyes of whoever makes this report
        return None
    try:
        document: Any = serialize.loads(read_plain(path, _LIMIT))
        if document["schema"] != SCHEMA:
            return []
        return [_group(item) for item in document["groups"]]
    except (DpauditError, KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError):
        return []


def _group(item: Any) -> _Group:
    """Understand one group; raise ValueError for what is no name or no rate."""
    attack, grouping, group, reason = (item[name] or "" for name in ("attack", "grouping", "group", "reason"))
    if not all(isinstance(text, str) for text in (attack, grouping, group, reason)):
        raise ValueError("a group must be named by text.")
    low, high = item["auc_ci"] or (0.0, 1.0)
    auc = None if item["auc_ci"] is None else item["auc"]
    if not all(isinstance(x, int | float) and 0 <= x <= 1 for x in (low, high, *(() if auc is None else (auc,)))):
        raise ValueError("an AUC and its limits must lie between 0 and 1.")
    name = f"{grouping} {group}".strip() if grouping in _NAMED else f"{grouping} (name withheld)"
    return _Group(attack=attack, name=name, auc=auc, low=low, high=high, reason=reason or "no reason given")
