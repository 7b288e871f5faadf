"""The fire drill of a run: what the step test says of half the noise decides, and nothing is taken for caught."""

from pathlib import Path

import pytest

from dpaudit import config
from dpaudit.pipeline import fire_drill
from dpaudit.records import CheckResult, Status

DIGITS = config.load(Path(__file__).resolve().parents[2] / "examples" / "digits_federated.toml")


def hold(*statuses: Status, settings: config.RunConfig = DIGITS) -> list[CheckResult]:
    planted = []

    def check(twin: config.RunConfig) -> list[CheckResult]:
        planted.append(twin.demonstration.noise_factor)
        return [CheckResult(id=f"step.{n}", status=status, detail="") for n, status in enumerate(statuses)]

    found = fire_drill.hold_drill(settings, check)
    assert planted == ([0.5] if found else [])
    return found


@pytest.mark.parametrize(
    ("statuses", "expected", "caught"),
    [
        ((Status.PASS, Status.FAIL), Status.PASS, 1),
        ((Status.FAIL, Status.FAIL, Status.INCONCLUSIVE), Status.PASS, 2),
        ((Status.PASS, Status.PASS), Status.FAIL, 0),
        ((Status.PASS, Status.INCONCLUSIVE), Status.FAIL, 0),
        ((Status.INCONCLUSIVE,), Status.INCONCLUSIVE, 0),
        ((Status.NOT_RUN,), Status.INCONCLUSIVE, 0),
        ((), Status.INCONCLUSIVE, 0),
    ],
)
def test_outcomes(statuses: tuple[Status, ...], expected: Status, caught: int) -> None:
    (check,) = hold(*statuses)
    assert (check.id, check.status, check.statistic) == ("drill.half-noise", expected, caught)


def test_a_run_that_is_a_drill_itself_holds_none() -> None:
    from dpaudit.pipeline import with_fault

    assert hold(Status.PASS, settings=with_fault(DIGITS, noise_factor=0.5)) == []
