"""The writing side of the files of a dp-local run: a line for each local step instead of one for each round."""

import numpy as np

from dpaudit.errors import UsageError
from dpaudit.federated import run_files as files
from dpaudit.federated.journal import Journal
from dpaudit.federated.rounds import Collected, Release
from dpaudit.federated.silo_server import LocalCollected


class SiloJournal(Journal):
    """The open files of a dp-local run."""

    def describe(self, *, clients: int, units: int, rounds: int, slots: int = 0, steps: int = 1) -> None:
        """Write what does not change, as `Journal` does."""
        super().describe(clients=clients, units=units, rounds=rounds, slots=slots, steps=steps)
        self._sizes[files.CLIENT_NOISE] = 8 * clients

    def observe(self, collected: Collected, release: Release) -> None:
        """Append what the local steps of one round showed and who took part in them."""
        del release
        if not isinstance(collected, LocalCollected):
            raise UsageError("the journal of dp-local takes down rounds of the server of dp-local only.")
        audit = collected.audit
        self._append(files.OBSERVATIONS, audit.observed.astype("<f4").tobytes())
        self._append(files.MODEL_NOISE, np.array([audit.noise_of_sum], dtype="<f8").tobytes())
        self._append(files.CLIENT_NOISE, audit.noise.astype("<f8").tobytes())
        self._append(files.ELIGIBLE, np.packbits(audit.clients).tobytes())
        self._append(files.PARTICIPATION, np.packbits(audit.members, axis=1).tobytes())
        self._append(files.CANARY_PARTICIPATION, np.packbits(audit.canaries, axis=1).tobytes())
