"""The HTML report: self-contained, without scripts, accessible, and in agreement with the verdict it shows."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from dpaudit import reports
from dpaudit.errors import MissingDependency
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import parse_policy
from dpaudit.records import RatePoint, Status, Verdict
from dpaudit.reports import checklist, figures, plots, plots_audit, plots_spent
from dpaudit.reports.pdf import BROWSERS
from dpaudit.reports.sentences import REFUTING, Standing, Story

DRAW = figures.draw
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects elements, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module", autouse=True)
def drawn_once() -> Iterator[None]:
    """Bundles that differ in a finding share their figures: what was drawn from the same numbers is not drawn again."""
    known: dict[str, str] = {}

    def draw(plot: plots.Plot) -> str:
        key = repr(plot)
        if key not in known:
            known[key] = DRAW(plot)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", draw)
        yield


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


def judge(factory: ModuleType, bundle: Evidence, *, recompute: bool = True) -> Verdict:
    recomputed = factory.fresh(bundle) if recompute and bundle.ledger else None
    return evaluate(bundle, parse_policy("", source="x"), today=factory.TODAY, recomputed=recomputed)


@pytest.fixture(scope="module")
def text(factory: ModuleType, honest: Evidence) -> str:
    return reports.render("html", honest, judge(factory, honest))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_one_small_file_that_asks_for_nothing(text: str, page: Page) -> None:
    assert len(text.encode()) < 500_000
    assert not {name for name, _ in page.elements} & {"script", "link", "iframe", "img", "object", "form", "base"}
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in {"src", "href", "xlink:href", "action"}:
                assert value is not None
                assert value.startswith("#"), value
    assert not re.search(r"url\((?!#)|@import|javascript:", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name, attributes in page.elements:
        for key in ("href", "xlink:href", "aria-labelledby"):
            for target in (attributes.get(key) or "").split():
                assert target.lstrip("#") in ids, (name, key, target)
        for value in attributes.values():
            for target in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert target in ids


def test_structure_for_screen_readers(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("title")[:1]) == 1
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    drawings = page.all("svg")
    assert len(drawings) >= 6
    assert all(drawing["role"] == "img" and drawing["aria-labelledby"] for drawing in drawings)
    assert len(page.all("desc")) == len(drawings)
    assert len(page.all("details")) == len(drawings) - 1  # a data table under every figure; the icons have a caption
    for cell in page.all("th"):
        assert cell.get("scope") in {"col", "row"}


def test_the_order_is_the_verdict_first(page: Page) -> None:
    words = page.words
    parts = [
        "Verdict: PASS", "What it means for a person", "Findings What the policy asks", "DPA001", "The gate confirmed",
        "No lower bound that counts", "No attack was shown", "Accuracy on held-out data", "A pass is no proof",
        "Digests and versions", "A bound on how much",
    ]  # fmt: skip
    places = [words.index(part) for part in parts]
    assert places == sorted(places)


def test_text_stays_text_in_figures(text: str) -> None:
    assert "false-positive rate" in re.sub(r"<[^>]*>", "", text[text.index("<svg") :])
    assert "DejaVu" not in text[text.index("<svg") :]
    assert not re.search(r"#00000[1-8]", text)


def test_the_coins_and_cohorts_stay_with_the_auditor(factory: ModuleType, honest: Evidence) -> None:
    bundle = factory.edited(
        honest,
        training={**honest.training, "cohorts": [17, 23], "client_ids": ["alice"], "realised_batch": 31337},
        bounds=(factory.bound(n_member=486, n_non_member=514),),
    )
    words = Page(reports.render("html", bundle, judge(factory, bundle))).words
    for secret in ("486", "514", "alice", "31337", "17, 23"):
        assert secret not in words


HOSTILE = (
    "<script>alert(1)</script>",
    "</title><script>",
    '"><svg onload=x>',
    "{{ 7*7 }}",
    "$\\frac{",
    "\u202e",
    "&amp;",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(factory: ModuleType, honest: Evidence, text: str, name: str) -> None:
    bad = factory.edited(
        honest,
        claim=replace(honest.claim, model=name),
        bounds=(factory.bound(method=name), factory.bound(epsilon=None, reason=name)),
        checks=(factory.check(name, status=Status.FAIL, detail=name, refuted=name),),
        attacks=(factory.attack(name, threat_model=name), factory.attack(name, auc=None, reason=name)),
        powers=(factory.power(method=name), factory.power(power=None, reason=name)),
        training={**honest.training, "data": name, "sampler": name},
        environment={name: name, "packages": {name: name}},
        curves={**honest.curves, name: honest.curves["lira"]},
        accounting=replace(honest.accounting, library=name, reasons={"epsilon_rdp": name}, epsilon_rdp=None),
        version=name,
    )
    shown = reports.render("html", bad, judge(factory, bad))
    page = Page(shown)
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in Page(text).elements}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    visible = "\\u202e" if name == "\u202e" else name
    assert " ".join(visible.split()) in page.words
    assert len(page.all("svg")) > 6  # every figure was drawn, with the name as a label


def test_numbers_that_cannot_be_drawn_are_in_a_table(factory: ModuleType, honest: Evidence) -> None:
    bad = factory.edited(
        honest,
        claim=replace(honest.claim, epsilon=1e308),
        bounds=(factory.bound(epsilon=1.7e308),),
        curves={"canaries": replace(honest.curves["canaries"], edges=(0.0, 0.0, -1.0))},
    )
    words = Page(reports.render("html", bad, judge(factory, bad))).words
    assert "could not be drawn" in words
    assert "1.7e+308" in words


def test_an_empty_bundle_has_a_report(factory: ModuleType, honest: Evidence) -> None:
    empty = factory.edited(
        honest, ledger=None, accounting=None, bounds=(), attacks=(), checks=(), powers=(), training={}, environment={},
        curves={}, scores={}, coins={},
    )  # fmt: skip
    page = Page(reports.render("html", empty, judge(factory, empty)))
    assert "Verdict: INCONCLUSIVE" in page.words
    assert "no odds can be given" in page.words
    assert page.all("svg") == []


def planted(factory: ModuleType, honest: Evidence) -> dict[str, dict[str, Any]]:
    """Bundles that contradict themselves, by the rule that notices."""
    high = (RatePoint(fpr=0.01, tpr=0.3, ci=(0.25, 0.35)),)

    def fails(identity: str) -> tuple[Any, ...]:
        return tuple(factory.check(i, status=Status.FAIL if i == identity else Status.PASS) for i in factory.CHECKS)

    other = factory.write_ledger(None, sampler="shuffle")
    return {
        "DPA001": {"claim": replace(honest.claim, epsilon=5.0)},
        "DPA003": {"ledger": other, "accounting": factory.summary_of(other)},
        "DPA007": {"checks": fails("noise.scale")},
        "DPA101": {"bounds": (factory.bound(epsilon=7.5),)},
        "DPA102": {"checks": fails("sampling.rate")},
        "DPA202": {"attacks": (factory.attack(tpr_at_fpr=high),)},
        "DPA204": {"checks": fails("attack.worst_group")},
        "DPA303": {"training": {**honest.training, "noise_factor_planted": 0.5}},
        "DPA306": {"training": {**honest.training, "rounds": 40}},
        "DPA307": {"training": {**honest.training, "seed_origin": "configured"}},
    }


REASSURING = (
    "The gate confirmed",
    "It follows from the accounting",
    "nothing contradicts the claim",
    "Verdict: PASS",
)


PLANTED = (
    "DPA001", "DPA003", "DPA007", "DPA101", "DPA102", "DPA202", "DPA204", "DPA303", "DPA306", "DPA307",
)  # fmt: skip


@pytest.mark.parametrize("rule", PLANTED)
def test_no_sentence_reassures_against_the_verdict(factory: ModuleType, honest: Evidence, rule: str) -> None:
    bundle = factory.edited(honest, **planted(factory, honest)[rule])
    verdict = judge(factory, bundle)
    assert [finding.rule for finding in verdict.findings if finding.status == Status.FAIL] == [rule]
    assert rule in REFUTING
    assert Story(bundle, verdict).standing == Standing.REFUTED
    for shown in (
        Page(reports.render("html", bundle, verdict)).words,
        reports.render_report("md", bundle, verdict),
        reports.render_report("json", bundle, verdict),
    ):
        for sentence in REASSURING:
            assert sentence not in shown
        assert "No odds can be promised" in shown
        assert "can be pointed out" not in shown


OWN = {
    "DPA204": ("stays below what the accounting allows", "Attacks do better against one group"),
    "DPA007": ("look like what the ledger says", "not what the ledger says"),
    "DPA101": ("the audit does not contradict it", "The audit contradicts the claim"),
    "DPA202": ("No attack was shown to do better", "An attack does better than any attack could"),
}


@pytest.mark.parametrize("rule", list(OWN))
def test_the_sentence_of_a_rule_follows_its_finding(
    factory: ModuleType, honest: Evidence, page: Page, rule: str
) -> None:
    good, bad = OWN[rule]
    assert good in page.words
    assert bad not in page.words
    bundle = factory.edited(honest, **planted(factory, honest)[rule])
    words = Page(reports.render("html", bundle, judge(factory, bundle))).words
    assert bad in words
    assert good not in words


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ({}, Standing.CONFIRMED),
        ({"ledger": None}, Standing.UNCONFIRMED),
        ({"checks": ()}, Standing.CONDITIONAL),
        ({"powers": ()}, Standing.CONDITIONAL),
    ],
)
def test_standing(factory: ModuleType, honest: Evidence, changes: dict[str, Any], standing: Standing) -> None:
    bundle = factory.edited(honest, **changes)
    story = Story(bundle, judge(factory, bundle))
    assert story.standing == standing
    confirmed = story.odds_lead().startswith("It follows from the accounting")
    assert confirmed == (standing == Standing.CONFIRMED)


def test_a_waived_rule_is_never_confirmed(factory: ModuleType, honest: Evidence) -> None:
    bundle = factory.edited(honest, checks=())
    text = '[[waiver]]\nrule = "{}"\nreason = "checked by hand"\nticket = "T"\nowner = "me"\nexpires = 2026-12-01\n'
    policy = parse_policy("".join(text.format(rule) for rule in ("DPA007", "DPA102", "DPA205")), source="x")
    verdict = evaluate(bundle, policy, today=factory.TODAY, recomputed=factory.fresh(bundle))
    assert verdict.status == Status.PASS
    assert Story(bundle, verdict).standing == Standing.CONDITIONAL
    assert "except for what is waived" in Story(bundle, verdict).headline()


def test_odds_are_rounded_up(factory: ModuleType, honest: Evidence) -> None:
    accounting = replace(honest.accounting, tpr_ceilings=((0.01, 0.130_001), (0.1, 1.0)))
    bundle = factory.edited(honest, accounting=accounting)
    story = Story(bundle, judge(factory, honest))
    assert story.odds()[0].startswith("at most 13.1 can be pointed out by an attacker who wrongly flags 1 in 100 of")
    assert story.odds()[1].startswith("at most 100 can")


def test_drawings_are_the_same_every_time(honest: Evidence) -> None:
    plot = plots.trade_off(honest)
    assert plot is not None
    assert DRAW(plot) == DRAW(plot)


def test_every_plot_has_words_and_a_table(honest: Evidence) -> None:
    made = [
        plots.trade_off(honest), plots.roc(honest), plots_spent.rounds(honest), plots.canary_histogram(honest),
        plots_audit.ladder(honest), plots_spent.profile(honest), *plots.attack_histograms(honest),
    ]  # fmt: skip
    for plot in made:
        assert plot is not None
        assert plot.title
        assert plot.description.endswith(".")
        assert plot.rows
        assert all(len(row) == len(plot.headers) for row in plot.rows)


def test_without_a_browser_a_pdf_says_what_to_install(
    factory: ModuleType, honest: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("DPAUDIT_BROWSER", raising=False)
    with pytest.raises(MissingDependency, match="Install chromium"):
        reports.render_report("pdf", honest, judge(factory, honest))


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs a Chromium")
def test_pdf_is_tagged_and_has_the_language(factory: ModuleType, honest: Evidence) -> None:
    data = reports.render_report("pdf", honest, judge(factory, honest))
    assert isinstance(data, bytes)
    assert data.startswith(b"%PDF-")
    assert b"/StructTreeRoot" in data
    assert b"/Lang" in data
    assert 20_000 < len(data) < 2_000_000


NEW = {
    "DPA105": ("drill.half-noise", "A fault that was planted on purpose was caught.", "was not caught"),
    "DPA203": ("attack.alive", "were seen to win on a model without noise", "was not seen to win where it must"),
    "DPA204": ("attack.worst_group", "stays below what the accounting allows", "Attacks do better against one group"),
}


@pytest.mark.parametrize("rule", list(NEW))
@pytest.mark.parametrize("status", [Status.FAIL, Status.INCONCLUSIVE, Status.NOT_RUN, None])
def test_sentences_about_checks_follow_their_findings(
    factory: ModuleType, honest: Evidence, page: Page, rule: str, status: Status | None
) -> None:
    """Planted contradictions: whatever the check says, or its absence, no reassuring sentence survives it."""
    identity, good, bad = NEW[rule]
    others = tuple(check for check in honest.checks if check.id != identity)
    planted_check = () if status is None else (factory.check(identity, status=status),)
    bundle = factory.edited(honest, checks=(*others, *planted_check))
    verdict = judge(factory, bundle)
    words = Page(reports.render("html", bundle, verdict)).words
    markdown = reports.render_report("md", bundle, verdict)
    assert good in page.words
    for shown in (words, str(markdown)):
        assert good not in shown
    if status == Status.FAIL:
        assert bad in words


def test_the_checklist_says_no_more_than_the_findings(factory: ModuleType, honest: Evidence) -> None:
    """Every row with rules behind it is confirmed only if each of them passed; what evidence cannot hold is open."""
    for rule in ("", *PLANTED):
        bundle = factory.edited(honest, **planted(factory, honest)[rule]) if rule else honest
        verdict = judge(factory, bundle)
        statuses = {finding.rule: finding.status for finding in verdict.findings}
        for _, answer, rules in checklist.checklist(bundle, verdict).rows:
            named = [code for code in rules.split(", ") if code.startswith("DPA")]
            if named:
                assert ("confirmed" in answer) == all(statuses[code] == Status.PASS for code in named)
                assert ("refuted" in answer) == any(statuses[code] == Status.FAIL for code in named)
            else:
                assert answer.startswith(("not answered", "in part"))


def test_waivers_have_a_table_of_their_own(factory: ModuleType, honest: Evidence) -> None:
    assert checklist.waivers(judge(factory, honest)) is None
    text = '[[waiver]]\nrule = "{}"\nreason = "checked by hand"\nticket = "T"\nowner = "me"\nexpires = 2026-12-01\n'
    policy = parse_policy(text.format("DPA103") + text.format("DPA002"), source="x")
    bundle = factory.edited(honest, powers=())
    verdict = evaluate(bundle, policy, today=factory.TODAY, recomputed=factory.fresh(bundle))
    table = checklist.waivers(verdict)
    assert table is not None
    assert [(rule, status) for rule, status, _ in table.rows] == [
        ("DPA103", "waived"), ("DPA904", "pass"), ("DPA902", "pass"),
    ]  # fmt: skip
    words = Page(reports.render("html", bundle, verdict)).words
    assert "waived to 2026-12-01 by me (T): checked by hand" in words
    assert "Waivers: who answers for what" in words


def test_commands_to_reproduce(page: Page) -> None:
    assert "dpaudit run digits.toml --out runs/digits" in page.words
    assert "dpaudit gate EVIDENCE --policy standard --now 2026-11-23" in page.words
