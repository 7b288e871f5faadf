"""The clients of a cohort in the LiteRT runtime: what runs on a device, on the server's machine, one after the other.

For tests of what is shipped to devices, and for simulations without a device: the same file, the same runtime.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import TrainingSection
from dpaudit.device.client import DeviceClient
from dpaudit.device.order import local_batches
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import Block
from dpaudit.federated.data import Dataset
from dpaudit.federated.device_export import check_algorithm, make_client
from dpaudit.federated.engine import Vector, chunks, example_table, round_seeds
from dpaudit.federated.sampling import Cohort

Floats = NDArray[np.float32]


class LiteRtEngine:
    """Local SGD of every client of the cohort by LiteRT (dp-fedavg, dp-ftrl); the server clips."""

    name, direction = "litert", -1.0
    clipping_path = "server: whole client updates; clients one after the other: LiteRT"

    def __init__(self, functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> None:
        """Convert the model; units are client ids 0..K-1 of `data.client`.

        Raises: UsageError for dp-fedsgd and for models that LiteRT cannot train; MissingDependency without it.
        """
        check_algorithm(training)
        self.parameters = functions.parameters
        self._training, self._root = training, root
        self._client = DeviceClient(make_client(functions.model, training, data, functions=functions))
        self._x, self._y = np.asarray(data.x, np.float32), np.asarray(data.y, np.int32)
        self._table, self._sizes = example_table(np.asarray(data.client))

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Block]:
        """Yield local updates; nothing for an empty cohort."""
        key = round_seeds(self._root, cohort.number).order
        flat = weights.astype(np.float32)
        for units in chunks(cohort.units, 4 * self.parameters):
            rows = np.empty((units.size, self.parameters), np.float32)
            for row, unit in zip(rows, units, strict=True):
                row[:] = self._update(flat, int(unit), key)
            yield Block(units=units, rows=rows)

    def _update(self, weights: Floats, unit: int, key: int) -> Floats:
        size, training = int(self._sizes[unit]), self._training
        mine = self._table[unit, :size]
        index, mask = local_batches(key, size, epochs=training.local_epochs, batch=training.local_batch_size)
        return self._client.train(weights, self._x[mine], self._y[mine], index=index, mask=mask, clip_norm=None)[0]
