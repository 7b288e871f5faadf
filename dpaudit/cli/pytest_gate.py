"""pytest plugin: `pytest --dpaudit-evidence EVIDENCE` runs the gate, one test for each finding.

A rule that passes is a passed test, one that fails or could not be judged is a failed test, one that was not asked or
is waived is skipped. The verdict itself is a test too, so that nothing that the findings do not show can pass. Nothing
heavy is imported before the option is used.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dpaudit.records import Finding, Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the gate."""
    group = parser.getgroup("dpaudit")
    group.addoption("--dpaudit-evidence", metavar="EVIDENCE", help="Run the gate on this evidence, as tests.")
    group.addoption("--dpaudit-policy", metavar="FILE|PROFILE", help="Policy of that gate, as `dpaudit gate --policy`.")
    group.addoption("--dpaudit-model", metavar="FILE", help="The released model, as `dpaudit gate --model`.")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of the gate to whatever else was collected."""
    if evidence := config.getoption("--dpaudit-evidence"):
        gate: pytest.Collector = Gate.from_parent(session, name="dpaudit", nodeid="dpaudit")
        verdict = judge(Path(evidence), config.getoption("--dpaudit-policy"), config.getoption("--dpaudit-model"))
        items.extend(_items(gate, verdict))


def judge(evidence: Path, policy: str | None, model: str | None) -> "Verdict":
    """Return the verdict of `dpaudit gate` with these options, today (UTC)."""
    from datetime import UTC, datetime

    from dpaudit.cli.gate_inputs import gather, recompute
    from dpaudit.errors import DpauditError
    from dpaudit.evidence import read_evidence
    from dpaudit.gate import evaluate
    from dpaudit.policy import load_policy

    try:
        chosen, bundle = load_policy(policy), read_evidence(evidence)
        beside = gather(bundle, chosen, model=Path(model) if model else None)
        recomputed = recompute(bundle) if chosen.claim.recompute else None
        return evaluate(bundle, chosen, today=datetime.now(UTC).date(), recomputed=recomputed, beside=beside)
    except DpauditError as error:
        raise pytest.UsageError(f"dpaudit: {error}") from error


class Gate(pytest.Collector):
    """The collector that the tests of the gate belong to."""

    def collect(self) -> Iterator[pytest.Item]:
        """Collect nothing by itself: the findings are added when the gate has run."""
        return iter(())


def _items(gate: pytest.Collector, verdict: "Verdict") -> Iterator[pytest.Item]:
    for number, finding in enumerate(verdict.findings):
        name = f"{finding.rule}-{number}" if finding.rule.startswith("DPA9") else finding.rule
        yield FindingItem.from_parent(gate, name=name, finding=finding)
    yield VerdictItem.from_parent(gate, name="verdict", verdict=verdict)


class GateFailed(Exception):
    """What a test of the gate raises; shown without a traceback."""


class FindingItem(pytest.Item):
    """One finding as a test."""

    def __init__(self, *, finding: "Finding", **options: Any) -> None:
        super().__init__(**options)
        self.finding = finding
        for name in ("rule", "measured", "limit"):
            if (value := getattr(finding, name)) is not None:
                self.user_properties.append((name, value))

    def runtest(self) -> None:
        """Fail, skip or pass, as the finding says."""
        status, found = self.finding.status.value, self.finding
        if status in ("not-run", "waived"):
            pytest.skip(f"{status}: {found.message}")
        if status != "pass":
            raise GateFailed(f"{status}: {found.message}. {found.fix or ''}".rstrip())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the message of the finding, and nothing of the machinery."""
        return str(excinfo.value) if excinfo.errisinstance(GateFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name the test by its rule."""
        return self.path, None, f"dpaudit {self.finding.rule} {self.finding.title}"


class VerdictItem(pytest.Item):
    """The verdict as a test: it passes only if the gate passes."""

    def __init__(self, *, verdict: "Verdict", **options: Any) -> None:
        super().__init__(**options)
        self.verdict = verdict
        self.user_properties.extend((f"digest.{name}", digest) for name, digest in verdict.digests.items())

    def runtest(self) -> None:
        """Fail unless the verdict is PASS."""
        if self.verdict.exit_code != 0:
            raise GateFailed(f"the verdict is {self.verdict.status.value}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the verdict, and nothing of the machinery."""
        return str(excinfo.value) if excinfo.errisinstance(GateFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name the test."""
        return self.path, None, "dpaudit verdict"
