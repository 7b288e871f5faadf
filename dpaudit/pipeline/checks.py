"""The statistical checks of a run: is the noise that was added, the clip, the sampling what the ledger says?"""

import math

import numpy as np
from numpy.typing import NDArray

from dpaudit import verification
from dpaudit.config import RunConfig
from dpaudit.errors import DataError
from dpaudit.federated.run_files import TrainingRun, checkpoint_weights, released_weights
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline.canary_audit import CanaryView
from dpaudit.pipeline.design import secret_sampling_rate
from dpaudit.records import CheckResult, Status, Unit

SIGNIFICANCE = 0.01
"""False-alarm probability of all statistical checks of a run together; each group gets its declared share."""

NOISE_SHARE = SIGNIFICANCE * 0.4
SAMPLING_SHARE = SIGNIFICANCE * 0.2
CANARY_SHARE = SIGNIFICANCE * 0.2
STEP_SHARE = SIGNIFICANCE * 0.2


def promised_noise(ledger: PrivacyLedger) -> float:
    """Return the noise multiplier that the ledger's header promises; that, not the plan in memory, is under test."""
    value = ledger.facts.get("noise_multiplier")
    if not isinstance(value, int | float) or not value > 0:
        raise DataError(f"the ledger's header must state a noise_multiplier above 0; it says {value!r}.")
    return float(value)


def check_noise(
    ledger: PrivacyLedger,
    view: CanaryView,
    coins: NDArray[np.bool_],
    canary_participation: NDArray[np.bool_],
    model_noise: tuple[NDArray[np.float64], int],
) -> list[CheckResult]:
    """Test scale, shape and reuse of the noise where no canary is, the noise on the model, and the clip on canaries."""
    idle = np.asarray(view.observations, dtype=np.float64)[:, ~coins]
    present = np.asarray(view.observations)[canary_participation]
    promised, share = promised_noise(ledger), NOISE_SHARE / 6
    squares, parameters = model_noise
    return [
        verification.check_noise_scale(
            idle.ravel(),
            noise_multiplier=promised,
            significance=share,
            claim_text=f"noise multiplier {promised:.4g} of the ledger",
        ),
        verification.check_noise_shape(idle.ravel(), noise_multiplier=promised, significance=share),
        verification.check_noise_reuse(idle, significance=share),
        verification.check_noise_rounds(
            np.square(idle).sum(axis=1), np.full(len(idle), idle.shape[1]), noise_multiplier=promised,
            significance=share,
        ),
        verification.check_noise_rounds(
            squares, np.full(len(squares), parameters), noise_multiplier=promised, significance=share,
            check="noise.model", where="the model's own coordinates",
        ),
        verification.check_contribution(present, noise_multiplier=promised, significance=share),
    ]  # fmt: skip


def check_canaries(
    config: RunConfig,
    *,
    eligible: NDArray[np.bool_],
    coins: NDArray[np.bool_],
    participation: NDArray[np.bool_],
) -> list[CheckResult]:
    """Test that canaries took part at the very rate of real units, and that absent ones never did."""
    strangers = int(np.count_nonzero(participation[:, ~coins]))
    absent = CheckResult(
        id="canary.absent",
        status=Status.FAIL if strangers else Status.PASS,
        statistic=float(strangers),
        threshold=0.0,
        detail=f"{strangers} participations of canaries whose coin says out",
        refuted="canaries take part only when their coin says in" if strangers else None,
        n=int(participation[:, ~coins].size),
    )
    inside = participation[:, coins]
    counts = verification.counts_given(eligible[:, coins], inside, np.arange(inside.shape[1]))
    rate = secret_sampling_rate(config)
    found = verification.check_counts(counts, sampling_rate=rate, significance=CANARY_SHARE, level="canary-")
    return [absent, *found]


def check_sampling(
    config: RunConfig,
    *,
    eligible: NDArray[np.bool_],
    participation: NDArray[np.bool_],
    client_of: NDArray[np.int64],
) -> list[CheckResult]:
    """Test the recorded participation against the sampler of the configuration, which the ledger's header repeats."""
    answering = config.training.client_sampling_rate * (1 - config.training.dropout_rate)
    if config.claim.unit == Unit.CLIENT:
        return verification.check_sampling(participation, sampling_rate=answering, significance=SAMPLING_SHARE)
    return verification.check_two_stage(
        eligible,
        participation,
        client_of,
        client_rate=answering,
        example_rate=config.training.example_sampling_rate,
        significance=SAMPLING_SHARE,
    )


def check_ledger(
    ledger: PrivacyLedger, *, planned_noise: float, rounds_run: int, noise_draws: int
) -> list[CheckResult]:
    """Compare the ledger with what ran: contiguous rounds, one event for each noise draw, the noise of the plan."""
    promised = promised_noise(ledger)
    same = math.isclose(promised, planned_noise, rel_tol=1e-6)
    planned = CheckResult(
        id="ledger.noise-planned",
        status=Status.PASS if same else Status.FAIL,
        statistic=promised,
        threshold=planned_noise,
        detail=f"the ledger promises noise multiplier {promised:.6g}, the server was given {planned_noise:.6g}",
        refuted=None if same else "the ledger states the noise that the server was given",
    )
    return [*verification.check_ledger(ledger, rounds_run=rounds_run, noise_draws=noise_draws), planned]


def check_model(run: TrainingRun) -> CheckResult:
    """Check that the released model holds the very weights that the last recorded round left, to float32."""
    released, recorded = released_weights(run.model), checkpoint_weights(run.out)
    same = released.shape == recorded.shape and np.array_equal(released, recorded.astype(np.float32))
    gap = float(np.max(np.abs(released - recorded))) if released.shape == recorded.shape and released.size else None
    return CheckResult(
        id="model.weights",
        status=Status.PASS if same else Status.FAIL,
        statistic=gap if gap is None or math.isfinite(gap) else None,
        threshold=0.0,
        detail="the released model's weights against those after the last recorded round",
        refuted=None if same else "nothing touched the model after the last recorded round",
        n=int(released.size),
    )
