"""The table of groups shows the run's private file only where it agrees with the check that the gate judged."""

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dpaudit import reports
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import parse_policy
from dpaudit.records import RatePoint
from dpaudit.reports import groups, view

GROUPS: list[dict[str, Any]] = [
    {"attack": "lira", "grouping": "everyone", "group": "", "auc": 0.56, "auc_ci": [0.5, 0.62], "reason": None},
    {"attack": "lira", "grouping": "class", "group": "7", "auc": 0.71, "auc_ci": [0.52, 0.9], "reason": None},
    {"attack": "lira", "grouping": "class", "group": "<b>", "auc": 0.4, "auc_ci": [0.1, 0.7], "reason": None},
    {"attack": "lira", "grouping": "class", "group": "9", "auc": None, "auc_ci": None, "reason": "fewer than 10"},
]


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def bundle(factory: ModuleType, honest: Evidence, tmp_path: Path) -> Evidence:
    return factory.edited(honest, root=tmp_path / "evidence")


def put(bundle: Evidence, found: Any, *, schema: str = groups.SCHEMA) -> Path:
    path = bundle.root.parent / groups.DOCUMENT
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"schema": schema, "records": [{"index": 31337}], "groups": found}))
    return path


def test_every_group_with_its_interval_worst_first(factory: ModuleType, bundle: Evidence) -> None:
    put(bundle, GROUPS)
    table = groups.groups(bundle)
    assert table is not None
    assert [tuple(row) for row in table.rows] == [
        ("lira", "class 7", "0.710", "0.520 to 0.900", "0.800"),
        ("lira", "everyone", "0.560", "0.500 to 0.620", "0.800"),
        ("lira", "class <b>", "0.400", "0.100 to 0.700", "0.800"),
        ("lira", "class 9", "none: fewer than 10", "none", "0.800"),
    ]
    assert "hold together with probability 95 %" in table.caption
    verdict = evaluate(bundle, parse_policy("", source="x"), today=factory.TODAY, recomputed=factory.fresh(bundle))
    page, markdown = reports.render("html", bundle, verdict), reports.render_report("md", bundle, verdict)
    assert "0.520 to 0.900" in page
    assert "<b>" not in page
    assert "0.520 to 0.900" in str(markdown)
    assert "31337" not in page + str(markdown)  # single records stay with the auditor


def test_without_the_file_the_check_alone(bundle: Evidence) -> None:
    table = groups.groups(bundle)
    assert table is not None
    assert "is not beside the bundle" in table.caption
    assert [tuple(row) for row in table.rows] == [
        ("every attack", "attack.worst_group is as recorded", "0.52", "0.800")
    ]
    assert len(table.headers) == 4


def test_without_the_check_no_table(factory: ModuleType, bundle: Evidence) -> None:
    put(bundle, GROUPS)
    assert groups.groups(factory.edited(bundle, checks=())) is None


def test_clients_are_not_named(bundle: Evidence) -> None:
    put(bundle, [*GROUPS, {**GROUPS[0], "grouping": "client", "group": "alice"}])
    table = groups.groups(bundle)
    assert table is not None
    names = [row[1] for row in table.rows]
    assert "client (name withheld)" in names
    assert not any("alice" in name for name in names)


def changed(**changes: Any) -> list[dict[str, Any]]:
    return [GROUPS[0], {**GROUPS[1], **changes}, *GROUPS[2:]]


BAD: tuple[Any, ...] = (
    [], None, {}, "x", [1], [{}], GROUPS[:1], changed(auc_ci=[0.51, 0.9]), changed(auc_ci=[0.52, 1.5]),
    changed(auc_ci=[0.52]), changed(auc=-1.0), changed(auc="0.7"), changed(attack=3), changed(group={"a": 1}),
)  # fmt: skip


@pytest.mark.parametrize("found", BAD)
def test_a_file_that_disagrees_is_not_shown(bundle: Evidence, found: Any) -> None:
    put(bundle, found)
    table = groups.groups(bundle)
    assert table is not None
    assert "disagrees with this check" in table.caption
    assert len(table.rows) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "NaN", '{"schema": "other/v1"}', "[" * 100_000])
def test_what_is_no_such_file_is_not_shown(bundle: Evidence, text: str) -> None:
    put(bundle, []).write_text(text)
    table = groups.groups(bundle)
    assert table is not None
    assert len(table.rows) == 1


def test_links_pipes_and_folders_are_not_read(bundle: Evidence, tmp_path: Path) -> None:
    path = put(bundle, GROUPS)
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    for make in (lambda: path.symlink_to(elsewhere), lambda: os.mkfifo(path), path.mkdir):
        make()
        table = groups.groups(bundle)
        assert table is not None
        assert "is not beside the bundle" in table.caption
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_many_groups_are_cut_and_counted(bundle: Evidence) -> None:
    put(bundle, [*GROUPS, *({**GROUPS[0], "group": str(i)} for i in range(200))])
    table = groups.groups(bundle)
    assert table is not None
    assert len(table.rows) == 60
    assert "the 60 worst of 204" in table.caption
    assert table.rows[0][1] == "class 7"


def test_ceilings_stand_beside_what_was_measured(factory: ModuleType, bundle: Evidence) -> None:
    """The larger of the attack's own ceiling and the accounting's: what is allowed is never understated."""
    points = (
        RatePoint(fpr=0.1, tpr=0.14, ci=(0.11, 0.17), ceiling=0.9),
        RatePoint(fpr=0.05, tpr=0.09, ci=(0.05, 0.13), ceiling=0.31),
        RatePoint(fpr=0.01, tpr=0.02, ci=(0.01, 0.03), ceiling=0.0001),
        RatePoint(fpr=0.02, tpr=0.02, ci=(0.01, 0.03)),
    )
    attack = factory.attack(tpr_at_fpr=points, auc_ceiling=0.75101)
    bad = factory.attack("loss", auc_ceiling=1e308)
    changed_bundle = factory.edited(bundle, attacks=(attack, bad))
    table = view.attacks(changed_bundle)
    assert table is not None
    assert table.headers[3] == "AUC at most, by the accounting"
    known = dict(bundle.accounting.tpr_ceilings)  # type: ignore[union-attr]
    wanted = ["90\u00a0%", "31\u00a0%", f"{100 * known[0.01]:.3g}\u00a0%", "none"]
    assert [row[-1] for row in table.rows[:4]] == wanted
    assert [row[3] for row in table.rows] == ["0.752"] * 4 + ["none"] * 3
    verdict = evaluate(bundle, parse_policy("", source="x"), today=factory.TODAY, recomputed=factory.fresh(bundle))
    for shown in (
        reports.render("html", changed_bundle, verdict),
        reports.render_report("md", changed_bundle, verdict),
    ):
        assert "0.752" in str(shown)
        assert "31\u00a0%" in str(shown)
        assert "AUC at most, by the accounting" in str(shown)
