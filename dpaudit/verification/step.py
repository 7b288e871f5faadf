"""Is one training step what it claims to be? A few executions with common random numbers answer most of it.

A step's release is o(D, s) = a (S(D) + noise(s)) + b for some unknown scale a (learning rate, averaging) and offset b.
Two executions on the same batch with different seeds leave the noise alone; two executions with the same seed on
batches that differ by one unit leave that unit's contribution alone, exactly. Their ratio is what privacy rests on,
and the unknown scale cancels (Tramèr et al., arXiv:2202.12219, ask for the same triangle of batches, without noise).

Write a factory that returns a `Step`, and give it to `check_step`; `dpaudit check step MODULE:FACTORY` does the same.
"""

from collections.abc import Callable

from dpaudit.errors import UsageError
from dpaudit.records import CheckResult
from dpaudit.verification import _step_checks as checks
from dpaudit.verification import _step_noise as noise
from dpaudit.verification import _step_sizes as sizes
from dpaudit.verification._results import check_level
from dpaudit.verification._step_runs import StepFailed, prepare
from dpaudit.verification._step_types import Step, StepClaim


def check_step(
    step_factory: Callable[[], Step], claim: StepClaim | float, *, significance: float = 0.01, seed: int = 0
) -> list[CheckResult]:
    """Test one training step against its claimed noise multiplier; about a dozen executions plus one per canary.

    * `step.seeded`: the same seed gives the same release (else nothing below can be said);
    * `step.randomness`: the noise does not depend on the batch (else the next is inconclusive);
    * `step.noise`: nothing that data can move is released without noise;
    * `step.sensitivity`: the effective noise multiplier, with confidence, over all canaries;
    * `step.denominator`: neither noise nor the weight of one unit depends on how many came (double, half, empty);
    * `step.robust`: NaN, infinite, huge and zero contributions neither crash the step nor come through;
    * `step.noise-shape`, `step.noise-reuse`: Gaussian, and independent between tensors and between `replays`;
    * `step.carry-over`, `step.adaptive-clip`: where the step offers `second` and `next_clip`.

    Half of the significance goes to the sensitivity, a quarter each to shape and reuse; the others are exact.

    Args:
        step_factory: returns the step under test.
        claim: the claimed noise multiplier, alone or with what is needed to turn a finding into an epsilon.
        significance: false-alarm probability of all results together.
        seed: first of the seeds that the step is run with.

    Returns:
        Check results; a step that cannot be run or seeded is INCONCLUSIVE, never PASS.
    """
    check_level(significance)
    wanted = claim if isinstance(claim, StepClaim) else StepClaim(noise_multiplier=claim)
    try:
        runs = prepare(_made(step_factory), seed=seed)
    except StepFailed as failure:
        return [failure.result(significance)]
    first = [checks.seeded(runs), checks.randomness(runs)]
    if not runs.noise.present:
        return [*first, noise.noise_everywhere(runs), *checks.robust(runs)]
    return [
        *first,
        checks.sensitivity(runs, wanted, significance / 2),
        noise.noise_everywhere(runs),
        *sizes.denominator(runs),
        *checks.robust(runs),
        noise.noise_shape(runs, significance / 4),
        noise.noise_reuse(runs, significance / 4),
        *checks.carry_over(runs),
        *checks.adaptive_clip(runs),
    ]


def _made(step_factory: Callable[[], Step]) -> Step:
    """Call the factory; raise UsageError unless a Step comes back."""
    if not callable(step_factory):
        raise UsageError(f"check_step needs a function that returns a Step; got {type(step_factory).__name__}.")
    step: object = step_factory()
    if not isinstance(step, Step):
        raise UsageError(f"the factory must return a dpaudit.verification.Step; got {type(step).__name__}.")
    return step
