"""The sentences of a report. Each is chosen by the findings of the gate, never by a comparison of its own."""

from collections.abc import Mapping
from enum import Enum

from dpaudit.evidence import Evidence
from dpaudit.records import Finding, Status, Unit, Verdict
from dpaudit.reports.clean import plain
from dpaudit.reports.summary import by_severity

UNITS: Mapping[Unit, tuple[str, str]] = {Unit.EXAMPLE: ("record", "records"), Unit.CLIENT: ("client", "clients")}
RELATIONS = {"add-or-remove-one": "adding or removing one {}", "replace-one": "replacing one {} by another"}
PASS, FAIL, UNCLEAR, WAIVED, IDLE = (
    Status.PASS,
    Status.FAIL,
    Status.INCONCLUSIVE,
    Status.WAIVED,
    Status.NOT_RUN,
)
ABOUT_RUN = ("DPA003", "DPA005", "DPA007", "DPA102", "DPA306")
"""Rules that ask whether training did what its ledger says."""
REFUTING = ("DPA001", "DPA002", *ABOUT_RUN, "DPA101", "DPA202", "DPA204", "DPA302", "DPA303", "DPA307")
"""Rules whose FAIL means that the numbers of the accounting do not hold for this training, or for this model."""


class Standing(Enum):
    """How far the numbers of the accounting may be relied on."""

    CONFIRMED = "confirmed"
    CONDITIONAL = "conditional"
    UNCONFIRMED = "unconfirmed"
    REFUTED = "refuted"


_GUARANTEE = {
    Standing.CONFIRMED: "The gate confirmed the claim from the privacy ledger, and tests of the training found it "
    "to be what the ledger says.",
    Standing.CONDITIONAL: "The gate confirmed that the claim follows from the privacy ledger. It did not confirm that "
    "the training was what the ledger says; only if it was does the guarantee hold.",
    Standing.UNCONFIRMED: "The gate did not confirm the claim. The numbers of this section are what the bundle says, "
    "and no guarantee.",
    Standing.REFUTED: "The gate found evidence against the claim or against what it rests on. The numbers of this "
    "section are what the bundle says, and no guarantee.",
}
_BASIS = {
    Standing.CONFIRMED: "It follows from the accounting",
    Standing.CONDITIONAL: "If the training was what its ledger says, it follows from the accounting",
    Standing.UNCONFIRMED: "If the bundle's unconfirmed accounting were true, it would follow",
}
_AT_MOST = {
    Standing.CONFIRMED: "At most",
    Standing.CONDITIONAL: "If the training was what its ledger says: at most",
    Standing.UNCONFIRMED: "By the bundle's unconfirmed numbers: at most",
}
_CAVEAT = {
    Standing.CONFIRMED: "",
    Standing.CONDITIONAL: " (if the training was what its ledger says)",
    Standing.UNCONFIRMED: " (by the bundle's unconfirmed numbers)",
}
_TRACE = {
    PASS: "Noise and clipping were tested and look like what the ledger says.",
    FAIL: "The noise or the clipping is not what the ledger says.",
    UNCLEAR: "It is not known whether noise and clipping were what the ledger says.",
    WAIVED: "Noise and clipping were not shown to be what the ledger says; this is waived.",
    IDLE: "Noise and clipping were not tested.",
}
_AUDIT = {
    PASS: "No lower bound that counts is above the claim: the audit does not contradict it.",
    FAIL: "The audit contradicts the claim.",
    UNCLEAR: "The audit gives no lower bound that could be compared with the claim.",
    WAIVED: "The audit does not support the claim; this is waived.",
    IDLE: "Lower bounds were not judged.",
}
_POWER = {
    PASS: "The audit was strong enough to catch the worse mechanism that the policy names.",
    FAIL: "The audit was not strong enough.",
    UNCLEAR: "The audit was not shown to be strong enough: that it found nothing would mean little.",
    WAIVED: "The audit was not shown to be strong enough; this is waived.",
    IDLE: "The power of the audit was not judged.",
}
_ATTACKS = {
    PASS: "No attack was shown to do better than the accounting allows.",
    FAIL: "An attack does better than any attack could if the accounting applied to this training.",
    UNCLEAR: "It could not be judged whether an attack does better than the accounting allows.",
    WAIVED: "The comparison of attacks with the ceiling of the accounting is waived.",
    IDLE: "Attacks were not compared with the ceiling of the accounting.",
}
_GAME = {
    PASS: "Members and non-members are alike but for their membership, as far as the check could see.",
    IDLE: "There was no attack whose members and non-members could be compared.",
}
_ALIVE = {
    PASS: "The attacks were seen to win on a model without noise, so that their losing here means something.",
    UNCLEAR: "An attack was not seen to win where it must: that it loses here means little.",
    WAIVED: "Whether the attacks can win at all is waived.",
    IDLE: "Whether the attacks can win at all was not tried.",
}
_WORST_GROUP = {
    PASS: "The group that attacks hit hardest stays below what the accounting allows.",
    FAIL: "Attacks do better against one group than the accounting allows for anybody.",
    UNCLEAR: "It could not be judged how the worst-off group fares.",
    WAIVED: "How the worst-off group fares is waived.",
    IDLE: "No group was looked at on its own: an average hides those who are hit.",
}
_DRILL = {
    PASS: "A fault that was planted on purpose was caught.",
    FAIL: "A fault that was planted on purpose was not caught: the same tests would miss a real one.",
    UNCLEAR: "It is not known whether a planted fault would have been caught.",
    WAIVED: "A fire drill is waived.",
    IDLE: "No fault was planted to see whether it would be caught.",
}
_NO_GAME = (
    "Members and non-members were not shown to be alike: what attacks achieve may come from the data, "
    "not from the model."
)


class Story:
    """What the verdict lets a report say."""

    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self.evidence = evidence
        self.verdict = verdict
        self.one, self.many = UNITS[evidence.claim.unit]

    def finding(self, code: str) -> Finding | None:
        """Return the finding of a rule, if the rule was asked."""
        return next((finding for finding in self.verdict.findings if finding.rule == code), None)

    def status(self, code: str) -> Status:
        """Return the status of a rule; NOT RUN if it was not asked."""
        finding = self.finding(code)
        return finding.status if finding else IDLE

    @property
    def standing(self) -> Standing:
        """How far the findings let anybody rely on the accounting."""
        if any(self.status(code) == FAIL for code in REFUTING):
            return Standing.REFUTED
        if self.status("DPA001") != PASS:
            return Standing.UNCONFIRMED
        if all(self.status(code) == PASS for code in ABOUT_RUN) and self.verdict.status == PASS:
            return Standing.CONFIRMED
        return Standing.CONDITIONAL

    def _with(self, code: str, texts: Mapping[Status, str], other: str = "") -> str:
        sentence = texts.get(self.status(code), other)
        finding = self.finding(code)
        return f"{sentence} ({code}: {plain(finding.message)})" if finding else sentence

    def headline(self) -> str:
        """Say what the verdict means, in one sentence."""
        worst = ", ".join(f"{f.rule} {f.title}" for f in by_severity(self.verdict) if f.status == self.verdict.status)
        if self.verdict.status == PASS:
            waived = any(finding.status == WAIVED for finding in self.verdict.findings)
            rest = ", except for what is waived below." if waived else "."
            return f"Everything that the policy asks was judged, and nothing contradicts the claim{rest}"
        if self.verdict.status == FAIL:
            return f"The release does not meet the policy: {worst}."
        return f"This evidence cannot tell whether the claim holds: {worst or 'nothing was judged'}."

    def claim(self) -> str:
        """State the claim in words."""
        claim = self.evidence.claim
        change = RELATIONS[claim.relation.value].format(self.one)
        return f"Claimed: (ε {claim.epsilon:g}, δ {claim.delta:g})-differential privacy against {change}."

    def guarantee(self) -> str:
        """Say whether the numbers of the accounting are a guarantee."""
        return self._with("DPA001", {}, _GUARANTEE[self.standing])

    def trace(self) -> str:
        """Say whether noise and clip were seen to be what the ledger says."""
        return self._with("DPA007", _TRACE)

    def audit(self) -> str:
        """Say what the lower bounds showed."""
        return self._with("DPA101", _AUDIT)

    def power(self) -> str:
        """Say whether the audit's silence means anything."""
        return self._with("DPA103", _POWER)

    def drill(self) -> str:
        """Say whether a planted fault was caught."""
        return self._with("DPA105", _DRILL)

    def alive(self) -> str:
        """Say whether the attacks can win at all."""
        return self._with("DPA203", _ALIVE, _ALIVE[UNCLEAR])

    def worst_group(self) -> str:
        """Say how the worst-off group fares."""
        return self._with("DPA204", _WORST_GROUP)

    def attacks(self) -> str:
        """Say how the attacks compare with what the accounting allows."""
        return self._with("DPA202", _ATTACKS)

    def fair_game(self) -> str:
        """Say whether the attacks were a fair game."""
        return self._with("DPA205", _GAME, _NO_GAME)

    def at_most(self) -> str:
        """Introduce a number that the accounting bounds from above."""
        return _AT_MOST[self.standing]

    def caveat(self) -> str:
        """Qualify a table of numbers that rest on the accounting; empty when they are confirmed."""
        return _CAVEAT[self.standing]

    @property
    def ceilings(self) -> tuple[tuple[float, float], ...]:
        """The (false-positive rate, largest true-positive rate) pairs to show; none where the findings refute them."""
        summary = self.evidence.accounting
        return () if summary is None or self.standing == Standing.REFUTED else summary.tpr_ceilings

    def odds_lead(self) -> str:
        """Introduce the odds, or say why there are none."""
        if self.standing == Standing.REFUTED:
            return "No odds can be promised: the findings contradict the claim, or what it rests on."
        if not self.ceilings:
            return "The bundle holds no ceiling on attacks, so that no odds can be given."
        return f"{_BASIS[self.standing]} that of every 100 {self.many} in the training data"

    def odds(self) -> list[str]:
        """Say in odds what an attacker can do, from the ceilings of the accounting; each goes on from `odds_lead`."""
        return [
            f"at most {_percent_up(tpr)} can be pointed out by an attacker who wrongly flags {_per(fpr)} of those that "
            "were not in it."
            for fpr, tpr in self.ceilings
        ]

    def posteriors(self) -> list[tuple[str, list[str]]]:
        """Return, per prior, the largest probability that a flagged record was a member, at each ceiling's rate."""
        return [
            (f"{100 * prior:g} %", [_posterior(prior, *pair) for pair in self.ceilings]) for prior in (0.01, 0.1, 0.5)
        ]


def _posterior(prior: float, fpr: float, tpr: float) -> str:
    right, wrong = prior * tpr, (1 - prior) * fpr
    return f"{_percent_up(right / (right + wrong))} %" if right + wrong > 0 else "none"


def _percent_up(rate: float) -> str:
    """Round a ceiling up, never down."""
    tenths = -int(-(rate * 1000 - 1e-6) // 1)
    return f"{max(0, min(tenths, 1000)) / 10:g}"


def _per(rate: float) -> str:
    """Write a rate as odds."""
    times = 1 / rate if rate > 0 else float("inf")
    whole = times < 20_000 and abs(times - round(times)) < 1e-6 * times
    return f"1 in {times:.0f}" if whole else f"{100 * rate:.3g} %"
