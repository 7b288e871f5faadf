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
from dpaudit.pipeline.slot_checks import check_canary_slots, check_slots
from dpaudit.records import CheckResult, Status, Unit

SIGNIFICANCE = 0.01
"""False-alarm probability of all statistical checks of a run together; each group gets its declared share."""

NOISE_SHARE = SIGNIFICANCE * 0.4
SAMPLING_SHARE = SIGNIFICANCE * 0.2
CANARY_SHARE = SIGNIFICANCE * 0.2
STEP_SHARE = SIGNIFICANCE * 0.2


def promised_noise(ledger: PrivacyLedger) -> float:
    """Return the noise multiplier of the sum that the header promises; that, not the plan in memory, is under test.

    It is larger than `noise_multiplier`, that of the whole round, where a part of the budget goes elsewhere (adaptive
    clipping).
    """
    return _promise(ledger, "sum_noise_multiplier" if "sum_noise_multiplier" in ledger.facts else "noise_multiplier")


def _promise(ledger: PrivacyLedger, fact: str) -> float:
    value = ledger.facts.get(fact)
    if not isinstance(value, int | float) or not value > 0:
        raise DataError(f"the ledger's header must state a {fact} above 0; it says {value!r}.")
    return float(value)


def check_noise(
    ledger: PrivacyLedger,
    view: CanaryView,
    coins: NDArray[np.bool_],
    canary_participation: NDArray[np.bool_],
    model_noise: tuple[NDArray[np.float64], int],
    inflation: NDArray[np.float64] | None = None,
) -> list[CheckResult]:
    """Test scale, shape and reuse of the noise where no canary is, the noise on the model, and the clip on canaries.

    The rows of all arguments are releases with independent noise; `model_noise` may have fewer rows. Where a release
    had `inflation` times the promised noise by the ledger (more shares of it came), that much is expected of it: noise
    is divided by it first.
    """
    more = np.ones(len(view.observations)) if inflation is None else inflation
    idle = np.asarray(view.observations, dtype=np.float64)[:, ~coins] / more[:, None]
    present = 1 + ((np.asarray(view.observations) - 1) / more[:, None])[canary_participation]
    promised, share = promised_noise(ledger), NOISE_SHARE / 7
    squares, parameters = model_noise
    squares = squares if inflation is None else squares / inflation**2
    return [
        verification.check_noise_scale(
            idle.ravel(),
            noise_multiplier=promised,
            significance=share,
            claim_text=f"noise multiplier {promised:.4g} of the ledger",
        ),
        verification.check_noise_shape(idle.ravel(), noise_multiplier=promised, significance=share),
        verification.check_noise_reuse(idle, significance=share),
        verification.check_noise_overlap(view.observations, used=~coins, significance=share),
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
    chosen: NDArray[np.bool_] | None = None,
) -> list[CheckResult]:
    """Test that canaries took part at the very rate of real units, and that absent ones never did.

    `chosen` (rounds, m): whom a sampler of slots chose; then they must have taken part exactly, coins permitting.
    """
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
    if chosen is not None:
        exact = check_canary_slots(coins=coins, participation=participation, chosen=chosen, eligible=eligible)
        return [absent, exact]
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
    slots: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    root: int = 0,
) -> list[CheckResult]:
    """Test the recorded participation against the sampler of the configuration, which the ledger's header repeats.

    `slots`: whom a sampler of slots drew and chose, (rounds, slots) each; required for those samplers.
    """
    if config.training.sampler != "poisson":
        if slots is None:
            raise DataError(f"the run has no record of the slots that {config.training.sampler!r} chose.")
        drawn, chosen = slots
        return check_slots(
            config, drawn=drawn, chosen=chosen, participation=participation, significance=SAMPLING_SHARE, root=root
        )
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
    promised = _promise(ledger, "noise_multiplier")
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
