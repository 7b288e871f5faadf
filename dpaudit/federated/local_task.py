"""What the server asks of clients in a round of dp-local, and what comes back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import Canaries
from dpaudit.federated.clipping import Block, Matrix
from dpaudit.federated.local_noise import SOURCE
from dpaudit.federated.local_sampling import LocalBatches
from dpaudit.federated.sampling import Cohort

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


class DeviceGaussian(GaussianSum):
    """The Gaussian mechanism as devices run it in every local step: clip norm, noise on the sum, planted fault.

    The server holds it because it sets them; it adds no noise itself.
    """

    __slots__ = ()

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""
        return SOURCE


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask(Cohort):
    """A cohort with what its clients are told: local steps, sampling rate, clip and noise, and the step's divisor.

    `attempt` counts how often the round was begun before; noise and local batches are fresh in each. `divisor` is the
    fixed, public number that every noised sum is divided by. `canaries` are audit data that clients hold.
    """

    attempt: int
    steps: int
    rate: float
    learning_rate: float
    divisor: float
    mechanism: DeviceGaussian
    canaries: Canaries


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBlock(Block):
    """What clients `units` (n,) did together. Only `rows` (n, parameters), their updates, leave the devices.

    The rest is for the auditor: `sums` (n, parameters) the clipped sums of all steps before noise; `seen`
    (n, steps, most) the noised sums on the client's own canaries, in clip norms; `members` says which examples, by
    (step, position), were in a local batch, (k, 2); `batches` who was drawn.
    """

    rows: Matrix
    sums: Matrix
    seen: Matrix
    members: Indices
    batches: LocalBatches
