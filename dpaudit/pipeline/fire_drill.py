"""A fire drill in every run: the step test must catch this run's own step when half of its noise is taken away."""

from collections.abc import Callable

from dpaudit.config import RunConfig
from dpaudit.records import CheckResult, Status

PLANTED = 0.5
"""Factor on the noise of the drill: a bug that halves the noise costs more than twice the epsilon."""


def hold_drill(config: RunConfig, test_step: Callable[[RunConfig], list[CheckResult]]) -> list[CheckResult]:
    """Plant half the noise in the run's own training step and say whether the step test, `test_step`, noticed.

    A run with a fault that was planted already is a drill itself and holds none. The drill fails when no check of the
    step test fails: then a real fault of that size would not be noticed by it either. A step that cannot be tested
    makes the drill inconclusive.
    """
    if config.demonstration.noise_factor != 1.0:
        return []
    fault = config.demonstration.model_copy(update={"noise_factor": PLANTED})
    found = test_step(config.model_copy(update={"demonstration": fault}))
    caught = [check for check in found if check.status == Status.FAIL]
    ran = [check for check in found if check.status in (Status.FAIL, Status.PASS)]
    status = Status.PASS if caught else Status.FAIL if ran else Status.INCONCLUSIVE
    names = ", ".join(check.id for check in caught) or "no check"
    return [
        CheckResult(
            id="drill.half-noise",
            status=status,
            statistic=float(len(caught)),
            threshold=1.0,
            detail=f"noise scaled by {PLANTED:g} in the run's own step was caught by {names} of {len(found)} checks",
            refuted="the step test notices a step with half its noise" if status == Status.FAIL else None,
            n=len(found),
        )
    ]
