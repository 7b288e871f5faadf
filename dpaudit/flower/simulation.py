"""Flower's simulation engine under our server: nodes as Ray actors of this machine.

Flower runs the ServerApp in a thread of its own and the simulation where it is called. Here the simulation is called in
a thread and the ServerApp only hands its grid over, so that the trainer stays in the main thread (with its Ctrl-C).
Everything lies in one private folder, and everything that was started is ended when the block is left.
"""

import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dpaudit.config import RunConfig, TrainingSection
from dpaudit.errors import DpauditError, UsageError
from dpaudit.federated import models
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.engine import Engine, MakeRunner
from dpaudit.flower import shards
from dpaudit.flower.client_app import make_client_app
from dpaudit.flower.engine import kind_of
from dpaudit.flower.fleet import Terms
from dpaudit.flower.local_nodes import engine_over
from dpaudit.flower.node import Node
from dpaudit.flower.packages import require_flower
from dpaudit.flower.processes import MARK, end_marked

NAME = "flower-simulation"
MOST_NODES = 10
_START, _END = 300.0, 120.0
_ATTEMPTS = 4


class SimulationFailed(DpauditError):
    """Flower's simulation ended by itself, or did not start; the run can be resumed."""


@contextmanager
def simulated(
    config: RunConfig, data: FederatedData, *, root: int, nodes: int | None = None, timeout: float = 300.0
) -> Iterator[MakeRunner]:
    """Yield what makes the engine over a simulation whose nodes hold the clients of `data`.

    Args:
        config: the run.
        data: its data; shards of them lie in a temporary folder meanwhile.
        root: root seed, for the model's initial weights; nodes do not get it.
        nodes: simulated SuperNodes; None: one per client, at most 10.
        timeout: seconds that a round may take.

    Raises: MissingDependency without Flower or Ray; UsageError for an algorithm that does not run on nodes, or more
        nodes than clients; SimulationFailed.
    """
    require_flower(simulation=True)
    kind_of(config.training)
    count = min(MOST_NODES, data.clients) if nodes is None else nodes
    if count > data.clients:
        raise UsageError(f"{count} nodes for {data.clients} clients: use at most {data.clients}.")
    with _private_folder() as folder:
        model = models.build_model(config.model, data.train.x.shape[1:], data.train.classes, root=root)
        shards.write_shards(folder / "shards", data, model, nodes=count)
        app = make_client_app(partial(_node, str(folder / "shards")))
        mark = uuid.uuid4().hex
        with _environment(_for_ray(folder, mark)), _quiet(), _simulation(app, count, folder, mark) as grid:

            def make(functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> Engine:
                terms = Terms(timeout=timeout, least=1.0, pause=0.02)
                return engine_over(grid, functions, data, training, root=root, name=NAME, terms=terms)

            yield make


def _node(folder: str, context: Any) -> Node:
    return shards.open_node(shards.folder_of(Path(folder), int(context.node_config["partition-id"])))


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder of our own with a short name: Ray's sockets lie in it, whose paths may have 107 characters."""
    place = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp makes it ours alone
    folder = Path(tempfile.mkdtemp(prefix="dpa-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _for_ray(folder: Path, mark: str) -> dict[str, str]:
    """Return what Flower and the actors need to know: a private home, and where this process finds its modules.

    The mark is what Ray's processes are found by: those of a start that failed are not Ray's to end.
    """
    path = os.pathsep.join(filter(None, [*sys.path, os.environ.get("PYTHONPATH", "")]))
    return {"FLWR_HOME": str(folder), "PYTHONPATH": path, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", MARK: mark}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs; then put all back, also what Flower and Ray changed."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's log to errors while the block runs."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _simulation(client_app: Any, nodes: int, folder: Path, mark: str) -> Iterator[Any]:
    """Yield the grid of a running simulation. Raises: SimulationFailed."""
    import ray
    from flwr.serverapp import ServerApp

    own = not ray.is_initialized()  # else it is the caller's, who ends it
    grids: queue.Queue[Any] = queue.Queue()
    done = threading.Event()
    ended: list[BaseException | None] = []

    def main(grid: Any, context: Any) -> None:
        del context
        grids.put(grid)
        done.wait()

    def run() -> None:
        why = None
        try:
            server_app = ServerApp()
            server_app.main()(main)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Flower's and Ray's own imports
                if own:
                    _start_ray(max(1, min(nodes, os.cpu_count() or 1)), folder, mark)
                _run(server_app, client_app, nodes)
        except BaseException as error:
            why = error
        ended.append(why)
        grids.put(None)

    thread = threading.Thread(target=run, name="flower-simulation", daemon=True)
    thread.start()
    try:
        yield _WatchedGrid(_started(grids), ended)
    finally:
        done.set()
        thread.join(_END)
        if own:
            ray.shutdown()
            end_marked(mark)


class _WatchedGrid:
    """A grid that raises SimulationFailed once its simulation has ended, so that nobody waits for it."""

    def __init__(self, grid: Any, ended: list[BaseException | None]) -> None:
        self._grid, self._ended = grid, ended

    def __getattr__(self, name: str) -> Any:
        if self._ended:
            raise SimulationFailed(f"Flower's simulation ended: {self._ended[0]}") from self._ended[0]
        return getattr(self._grid, name)


def _run(server_app: Any, client_app: Any, nodes: int) -> None:
    """Run Flower's simulation, on the Ray that runs, until its ServerApp ends."""
    from flwr.simulation import run_simulation

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=nodes, backend_config=backend)


def _start_ray(workers: int, folder: Path, mark: str) -> None:
    """Start Ray; again, if its own helpers were too slow for the 15 s that it gives them (a busy machine)."""
    import ray

    for attempt in range(_ATTEMPTS):
        try:
            ray.init(num_cpus=workers, include_dashboard=False, _temp_dir=str(folder), log_to_driver=False)
            return
        except Exception:
            ray.shutdown()
            end_marked(mark)
            if attempt == _ATTEMPTS - 1:
                raise


def _started(grids: "queue.Queue[Any]") -> Any:
    try:
        found = grids.get(timeout=_START)
    except queue.Empty:
        found = None
    if found is None:
        raise SimulationFailed(f"Flower's simulation did not start within {_START:g} s, or failed; see its log above.")
    return found
