"""A finished training with everything that later stages need."""

from dataclasses import dataclass

from dpaudit.config import RunConfig
from dpaudit.federated.data import FederatedData
from dpaudit.federated.run_files import TrainingRun
from dpaudit.pipeline import engines
from dpaudit.pipeline.design import Design
from dpaudit.pipeline.workspace import Workspace
from dpaudit.records import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training with everything that later stages need."""

    config: RunConfig
    workspace: Workspace
    design: Design
    data: FederatedData
    run: TrainingRun
    seconds: float
    engine: str = engines.IN_PROCESS

    @property
    def units(self) -> int:
        """Number of protected units in training."""
        return protected_units(self.config, self.data)


def protected_units(config: RunConfig, data: FederatedData) -> int:
    """Return how many examples, or clients, the claim protects."""
    if config.claim.unit == Unit.CLIENT or data.train.client is None:
        return data.clients
    return len(data.train.client)  # labels may be with the clients alone
