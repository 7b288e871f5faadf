"""`Compute` in the LiteRT runtime: what runs on a device, without TensorFlow (`dpaudit export-device`)."""

from pathlib import Path

import numpy as np

from dpaudit.device.client import DeviceClient
from dpaudit.errors import DataError
from dpaudit.flower.messages import Job
from dpaudit.flower.node import Floats, Ints, NodeData

CLIENT = "client.tflite"


class LiteRtCompute:
    """Runs a device client on the data of a node: whole updates (dp-fedavg, dp-ftrl), nothing else."""

    def __init__(self, client: DeviceClient, data: NodeData) -> None:
        """Hold the data. Raises: DataError when they are of another shape than the client's."""
        if data.x.shape[1:] != client.description.input_shape:
            raise DataError(f"the data are {data.x.shape[1:]}, the client takes {client.description.input_shape}.")
        self._client, self._data = client, data

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._client.description.parameters

    def updates(self, weights: Floats, clients: Ints, job: Job) -> Floats:
        """Return local updates, (clients, parameters).

        A client whose training fails (NaN in its data, or it diverges) sends NaN: the server rejects it by name, and
        the other clients of the node are not concerned.

        Raises: DataError when the server asks for another local training than that of the file.
        """
        self._refuse_unfit(job)
        rows = np.full((clients.size, self.parameters), np.nan, np.float32)
        for row, client in zip(rows, clients.tolist(), strict=True):
            mine = self._data.positions(client)
            try:
                row[:] = self._client.update(weights, self._data.x[mine], self._data.y[mine], key=job.seeds.order).delta
            except DataError:
                continue
        return rows

    def _refuse_unfit(self, job: Job) -> None:
        about = self._client.description
        mine = (about.epochs, about.batch_size, about.learning_rate)
        asked = (job.local.epochs, job.local.batch_size, job.local.learning_rate)
        if mine != asked:
            raise DataError(f"the server asks for (epochs, batch, rate) {asked}; this client was made for {mine}.")
        if about.clip_norm is not None and about.clip_norm < job.clip_norm:
            raise DataError(f"the server clips to {job.clip_norm:g}; this client clips to {about.clip_norm:g} already.")

    def gradients(self, weights: Floats, positions: Ints, job: Job) -> Floats:
        """Raise DataError: a device client has no gradients of single examples."""
        del weights, positions
        raise DataError(f"a LiteRT client computes whole updates (dp-fedavg, dp-ftrl); asked for {job.kind}.")

    def clipped_sum(self, weights: Floats, positions: Ints, job: Job) -> tuple[Floats, Floats]:
        """Raise DataError: a device client has no gradients of single examples."""
        del weights, positions
        raise DataError(f"a LiteRT client computes whole updates (dp-fedavg, dp-ftrl); asked for {job.kind}.")


def litert_compute(folder: Path, data: NodeData) -> LiteRtCompute:
    """Return what computes on `data` with the client in a node's folder. Raises: DataError, MissingDependency."""
    return LiteRtCompute(DeviceClient(folder / CLIENT), data)
