"""The checks of a training step, on executions that were collected beforehand."""

import math

from dpaudit.records import CheckResult, Status
from dpaudit.verification import _step_canaries as canary
from dpaudit.verification._results import DETECTION, chi2_quantile
from dpaudit.verification._step_runs import (
    SAME_NOISE,
    SAME_SIZE,
    Effect,
    Runs,
    as_tensors,
    difference,
    norm_of,
    rounding,
)
from dpaudit.verification._step_types import Batch, StepClaim
from dpaudit.verification._step_unseeded import repeated_sensitivity

SLACK = 1e-4
"""Relative: float32 arithmetic may put a contribution this far above the clip norm."""
WEAK = 0.5
"""Canaries that move the release less than this share of what is allowed have not reached the clip."""


def exact(
    check: str, status: Status, detail: str, refuted: str | None = None, *, detectable: float | None = None
) -> CheckResult:
    """Return the result of a check without a significance; `detectable` is what it would have seen, with certainty."""
    refuted = refuted if status == Status.FAIL else None
    return CheckResult(id=check, status=status, detail=detail, refuted=refuted, minimum_detectable=detectable)


def seeded(runs: Runs) -> CheckResult:
    """The same seed must give the same release."""
    scale = runs.noise.norm or 1.0
    share = runs.repeatable / scale
    if share <= SAME_SIZE:
        detail = f"two executions with one seed differ by {share:.2g} of the noise"
        return exact("step.seeded", Status.PASS, f"{detail}; minimum_detectable is that share.", detectable=SAME_SIZE)
    detail = (
        f"two executions with one seed differ by {share:.2g} of the noise: seed every generator that the step uses."
    )
    return exact("step.seeded", Status.INCONCLUSIVE, detail, detectable=SAME_SIZE)


def randomness(runs: Runs) -> CheckResult:
    """The noise must be the same draw whatever the batch; else its generator is shared with data-dependent draws."""
    if runs.aligned:
        detail = (
            "the noise is the same draw whatever the batch; minimum_detectable is a change of direction, 1 - cosine."
        )
        return exact("step.randomness", Status.PASS, detail, detectable=1 - SAME_NOISE)
    detail = (
        f"with one more unit the noise is another one (cosine {runs.same_draw:.2g}): it depends on the data. Give the "
        "noise its own generator, and draw it once per step."
    )
    return exact("step.randomness", Status.INCONCLUSIVE, detail)


# Sensitivity over noise


def _lower_mu(effect: Effect, runs: Runs, error: float) -> float:
    """Return the lower confidence limit of the canary's effect over the noise, valid with probability 1 - error.

    With noise of one scale tau in K coordinates, |N|^2 / tau^2 is chi-square(K), so that
    P[|change| sqrt(chi2_{K; e}) / |N| <= |change| / tau] = 1 - e. With a scale per tensor the same holds for each
    of L tensors at e / L, and mu^2 adds up over tensors. Each version gets half of the error.
    """
    squares, freedom = runs.noise.squares, runs.noise.freedom
    used = [i for i, k in enumerate(freedom) if k > 0]
    change = math.sqrt(sum(effect.norms[i] ** 2 for i in used))
    total = sum(squares[i] for i in used)
    whole = change * math.sqrt(chi2_quantile(error / 2, sum(freedom[i] for i in used)) / total)
    parts = sum(effect.norms[i] ** 2 * chi2_quantile(error / 2 / len(used), freedom[i]) / squares[i] for i in used)
    return max(whole, math.sqrt(parts))


def _p_value(effect: Effect, runs: Runs, limit: float) -> float:
    """Return the smallest error at which the lower limit exceeds `limit`."""
    if _lower_mu(effect, runs, 1 - 1e-9) <= limit:
        return 1.0
    low, high = -700.0, 0.0  # natural logarithm of the error
    if _lower_mu(effect, runs, math.exp(low)) > limit:
        return math.exp(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _lower_mu(effect, runs, math.exp(middle)) > limit else (middle, high)
    return math.exp(high)


def sensitivity(runs: Runs, claim: StepClaim, share: float) -> CheckResult:
    """Test that no canary moves the release by more than the noise is claimed to hide.

    No correction for the number of canaries: given the batch, each effect is a number; only the noise is random.
    """
    check = "step.sensitivity"
    if not runs.aligned or seeded(runs).status != Status.PASS:
        return repeated_sensitivity(runs, claim, share)
    effects = [effect for effect in (*runs.effects, *runs.poison) if effect.problem is None]
    if not effects:
        detail = "every canary crashed the step or made it release NaN; see step.robust."
        return CheckResult(id=check, status=Status.INCONCLUSIVE, detail=detail, significance=share)
    worst = max(effects, key=lambda effect: _lower_mu(effect, runs, share))
    mu, limit = _lower_mu(worst, runs, share), 1 / claim.noise_multiplier
    freedom = sum(runs.noise.freedom)
    point = math.sqrt(sum(norm**2 for norm in worst.norms) * freedom / sum(runs.noise.squares))
    # Undoing the scale of a larger batch may itself move the sum by the mean contribution, at most the clip norm.
    refutes = limit * (2 if runs.rescaled else 1) * (1 + SLACK)
    status = Status.FAIL if mu > refutes else Status.PASS
    note = ""
    if status == Status.PASS and point < WEAK * limit:
        status, note = (
            Status.INCONCLUSIVE,
            "the canaries did not reach the clip, or there is far more noise than claimed: ",
        )
    elif status == Status.PASS and _ignores_added(runs):
        status, note = (
            Status.INCONCLUSIVE,
            "a second copy of an ordinary unit changed nothing, so that added units seem to be left out: ",
        )
    elif status == Status.PASS and mu > limit * (1 + SLACK):
        status, note = Status.INCONCLUSIVE, "the scale of the release depends on the batch, see step.denominator: "
    return CheckResult(
        id=check,
        status=status,
        statistic=mu,
        threshold=refutes,
        p_value=_p_value(worst, runs, refutes),
        detail=note + _sensitivity_detail(worst, claim, mu, point, len(effects)) + _replaced_note(runs),
        minimum_detectable=1 - math.sqrt(chi2_quantile(share / 2, freedom) / chi2_quantile(DETECTION, freedom)),
        refuted=f"noise multiplier {claim.noise_multiplier:.6g}" if status == Status.FAIL else None,
        significance=share,
        n=freedom,
    )


def _ignores_added(runs: Runs) -> bool:
    """Say whether a unit that came a second time left no trace: then the canaries were not taken either."""
    return any(
        effect.name == canary.DUPLICATE and effect.problem is None and not any(effect.norms) for effect in runs.effects
    )


def _sensitivity_detail(worst: Effect, claim: StepClaim, mu: float, point: float, canaries: int) -> str:
    if mu == 0:
        return f"none of {canaries} canaries moved the release: the step ignores its data, or the canaries missed."
    text = f"of {canaries} canaries {worst.name!r} moves the release most: effective noise multiplier {1 / point:.4g}, "
    text += f"at most {1 / mu:.4g} with confidence, claimed {claim.noise_multiplier:.4g}"
    text += _epsilon_text(claim, 1 / mu)
    text += "; minimum_detectable is a relative shortfall of the noise multiplier."
    return text


def _replaced_note(runs: Runs) -> str:
    if not runs.step.fixed_size or runs.step.kind == "updates":
        return ""
    return " Batches of one size: an example was replaced, and half of its effect counted."


def _epsilon_text(claim: StepClaim, effective: float) -> str:
    """Return what the accountant says when every step is like this one."""
    if claim.steps is None or claim.delta is None:
        return ""
    from dpaudit import accounting, events

    def epsilon(z: float) -> float:
        gaussian: events.Event = events.Gaussian(noise_multiplier=z)
        if claim.sampling_rate < 1:
            gaussian = events.PoissonSampled(sampling_rate=claim.sampling_rate, event=gaussian)
        return accounting.epsilon(events.SelfComposed(event=gaussian, count=claim.steps or 1), claim.delta or 0.5)

    if effective >= claim.noise_multiplier:
        return f" (epsilon {epsilon(claim.noise_multiplier):.4g} at delta {claim.delta:g} if every step is like this)"
    return (
        f" (epsilon at least {epsilon(effective):.4g} instead of {epsilon(claim.noise_multiplier):.4g} at delta "
        f"{claim.delta:g} if every step is like this)"
    )


# What they sent, and what is kept


def robust(runs: Runs) -> list[CheckResult]:
    """No contribution may crash the step, or come through as NaN."""
    bad = [effect for effect in (*runs.effects, *runs.poison) if effect.problem is not None]
    if not bad:
        names = ", ".join(effect.name for effect in runs.poison)
        return [exact("step.robust", Status.PASS, f"survived: {names}, and {len(runs.effects)} canaries.")]
    text = "; ".join(f"{effect.name!r} {effect.problem}" for effect in bad[:5])
    return [exact("step.robust", Status.FAIL, f"{text}.", "no contribution decides whether there is a release")]


def carry_over(runs: Runs) -> list[CheckResult]:
    """Nothing of one batch may be left in the next release (gradients that were not reset)."""
    check, step = "step.carry-over", runs.step
    if step.second is None:
        return []
    if not runs.aligned or seeded(runs).status != Status.PASS:
        return [exact(check, Status.INCONCLUSIVE, "the noise is not reproducible; see above.")]
    name, row = next(canary.canaries(step))
    grow = canary.replaced if step.fixed_size else canary.added
    try:
        plain = as_tensors(step.second(step.batch, step.batch, runs.seed))
        after = as_tensors(step.second(grow(step.batch, row), step.batch, runs.seed))
    except Exception as error:
        return [exact(check, Status.INCONCLUSIVE, f"two steps cannot be run: {type(error).__name__}: {error}")]
    left = norm_of(difference(after, plain))
    share = left / runs.noise.norm
    detail = f"canary {name!r} of the first batch moves the second release by {share:.2g} of the noise; "
    detail += "minimum_detectable is that share."
    limit = sum(rounding(plain)) + SAME_SIZE * runs.noise.norm
    status = Status.PASS if left <= limit else Status.FAIL
    return [exact(check, status, detail, "each batch is used once", detectable=limit / runs.noise.norm)]


def adaptive_clip(runs: Runs) -> list[CheckResult]:
    """Adaptive clipping must raise the clip norm when everything is clipped, and lower it when nothing is."""
    check, step = "step.adaptive-clip", runs.step
    if step.next_clip is None or step.kind != "updates":
        return []
    tensors = step.batch[:-1] if step.weighted else step.batch

    def scaled(factor: float) -> Batch:
        return (*((array * factor).astype(array.dtype) for array in tensors), *step.batch[len(tensors) :])

    try:
        high, low = step.next_clip(scaled(1e6), runs.seed), step.next_clip(scaled(1e-6), runs.seed)
    except Exception as error:
        return [exact(check, Status.INCONCLUSIVE, f"the next clip norm is not known: {type(error).__name__}: {error}")]
    detail = f"next clip norm {high:.4g} when everything is clipped, {low:.4g} when nothing is."
    return [exact(check, Status.PASS if high > low else Status.FAIL, detail, "adaptive clipping towards a quantile")]
