"""The report as Markdown: the sentences and tables of the HTML report, without figures."""

from collections.abc import Iterable

from dpaudit.evidence import Evidence
from dpaudit.records import Verdict
from dpaudit.reports import checklist, groups, view
from dpaudit.reports.markdown import escape
from dpaudit.reports.markdown import render as render_verdict
from dpaudit.reports.sentences import Story
from dpaudit.reports.view import Table


def render(evidence: Evidence, verdict: Verdict) -> str:
    """Return the verdict in Markdown, followed by what a report says."""
    story = Story(evidence, verdict)
    parts = [
        render_verdict(evidence, verdict),
        f"**{escape(story.headline())}** {escape(story.claim())}\n",
        *_section("What it means for a person", (story.odds_lead(), *story.odds()), ()),
        *([_table(waived)] if (waived := checklist.waivers(verdict)) is not None else []),
        *_section(
            "The guarantee",
            (story.guarantee(), story.trace()),
            (view.guarantee(evidence), view.assumptions(evidence)),
        ),
        *_section(
            "The audit",
            (story.audit(), story.power(), story.drill()),
            (view.canaries(evidence), view.bounds(evidence), view.powers(evidence), view.checks(evidence)),
        ),
        *_section(
            "Attacks",
            (story.attacks(), story.fair_game(), story.alive(), story.worst_group()),
            (view.attacks(evidence), groups.groups(evidence)),
        ),
        *_section("Training", (), (view.training(evidence),)),
        "#### What this does not prove\n",
        "\n".join(f"* {escape(limit)}" for limit in view.LIMITS) + "\n",
        _table(checklist.checklist(evidence, verdict)),
        *_section("Provenance", checklist.commands(evidence, verdict), (view.provenance(evidence, verdict),)),
    ]
    return "\n".join(parts)


def _section(title: str, sentences: Iterable[str], tables: Iterable[Table | None]) -> list[str]:
    body = [f"{escape(sentence)}\n" for sentence in sentences]
    return [f"#### {title}\n", *body, *(_table(table) for table in tables if table is not None)]


def _table(table: Table) -> str:
    head = f"| {' | '.join(map(escape, table.headers))} |\n|{'---|' * len(table.headers)}"
    rows = "\n".join(f"| {' | '.join(map(escape, row))} |" for row in table.rows)
    return f"{escape(table.caption)}:\n\n{head}\n{rows}\n"
