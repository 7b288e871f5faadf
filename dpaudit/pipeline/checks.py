"""The statistical checks of a run: is the noise that was added, the clip, the sampling what the ledger says?"""

import numpy as np
from numpy.typing import NDArray

from dpaudit import verification
from dpaudit.config import RunConfig
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline.canary_audit import CanaryView
from dpaudit.pipeline.design import Design
from dpaudit.records import CheckResult, Unit

SIGNIFICANCE = 0.01
"""False-alarm probability of all statistical checks of a run together; each gets its declared share."""


def check_noise(
    design: Design, view: CanaryView, coins: NDArray[np.bool_], canary_participation: NDArray[np.bool_]
) -> list[CheckResult]:
    """Test scale, shape and reuse of the noise on the coordinates of absent canaries, and the clip on present ones."""
    idle = np.asarray(view.observations)[:, ~coins]
    present = np.asarray(view.observations)[canary_participation]
    share = SIGNIFICANCE / 6
    claim = f"noise multiplier {design.noise_multiplier:.4g} of the ledger"
    return [
        verification.check_noise_scale(
            idle.ravel(), noise_multiplier=design.noise_multiplier, significance=share, claim_text=claim
        ),
        verification.check_noise_shape(idle.ravel(), noise_multiplier=design.noise_multiplier, significance=share),
        verification.check_noise_reuse(idle, significance=share),
        verification.check_contribution(present, noise_multiplier=design.noise_multiplier, significance=share),
    ]


def check_sampling(
    config: RunConfig,
    *,
    eligible: NDArray[np.bool_],
    participation: NDArray[np.bool_],
    client_of: NDArray[np.int64],
) -> list[CheckResult]:
    """Test the recorded participation against the sampler of the ledger."""
    share = SIGNIFICANCE / 3
    answering = config.training.client_sampling_rate * (1 - config.training.dropout_rate)
    if config.claim.unit == Unit.CLIENT:
        return verification.check_sampling(participation, sampling_rate=answering, significance=share)
    return verification.check_two_stage(
        eligible,
        participation,
        client_of,
        client_rate=answering,
        example_rate=config.training.example_sampling_rate,
        significance=share,
    )


def check_ledger(ledger: PrivacyLedger, *, rounds_run: int, noise_draws: int) -> list[CheckResult]:
    """Compare the ledger with what ran: contiguous rounds, one event for each noise draw, constant noise."""
    return verification.check_ledger(ledger, rounds_run=rounds_run, noise_draws=noise_draws)
