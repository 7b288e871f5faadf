"""Training whose clients hold their data themselves, on a real network: what runs inside Flower's ServerApp.

`dpaudit federation server` writes a job file and starts Flower; Flower starts the `app` of this module in a process of
its own; that trains as `dpaudit train` does, with the nodes of Flower's grid as the engine, and leaves a result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpaudit import config as configuration
from dpaudit import serialize
from dpaudit.config import TrainingSection
from dpaudit.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, DpauditError, UsageError
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.engine import Engine, MakeRunner
from dpaudit.pipeline.run import train

NAME = "flower-network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the ServerApp is to do. `timeout`, `least` and `patience` are those of `dpaudit.flower.fleet.Terms`."""

    config: Path
    out: Path
    resume: bool
    federation: Path
    keys: Path
    timeout: float
    least: float
    patience: float

    def written(self) -> dict[str, Any]:
        """Return the job as `read_job` wants it."""
        return {
            "config": str(self.config.resolve()),
            "out": str(self.out.resolve()),
            "resume": self.resume,
            "federation": str(self.federation.resolve()),
            "keys": str(self.keys.resolve()),
            "timeout": self.timeout,
            "least": self.least,
            "patience": self.patience,
        }


def read_job(path: Path) -> tuple[Job, Path, Path]:
    """Return a job, and where its progress and its result go."""
    body = serialize.loads(path.read_bytes())
    config, out, federation, keys = (Path(body[name]) for name in ("config", "out", "federation", "keys"))
    timeout, least, patience = (float(body[name]) for name in ("timeout", "least", "patience"))
    job = Job(
        config=config, out=out, resume=bool(body["resume"]), federation=federation, keys=keys, timeout=timeout,
        least=least, patience=patience,
    )  # fmt: skip
    return job, Path(body["progress"]), Path(body["result"])


class Lines:
    """A reporter that appends lines to a file which the command in front of Flower shows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def stage(self, text: str) -> None:
        """Say what is done now."""
        self._say(text)

    def rounds(self, done: int, total: int, epsilon: float | None) -> None:
        """Say how far training is."""
        spent = "" if epsilon is None else f", epsilon {epsilon:.3f}"
        self._say(f"round {done} of {total}{spent}")

    def close(self) -> None:
        """Do nothing: every line is written at once."""

    def _say(self, text: str) -> None:
        with self._path.open("a") as stream:
            stream.write(text + "\n")


class NetworkFederation:
    """The clients behind a grid: `dpaudit.pipeline.run.Federation`."""

    def __init__(self, grid: Any, job: Job) -> None:
        """Read what the server knows of the federation. Raises: DataError."""
        from dpaudit.flower.deployment import register_of
        from dpaudit.flower.shards import open_federation

        self._grid, self._job, self._known = grid, job, open_federation(job.federation)
        self._register = register_of(job.keys, self._known.nodes)

    @property
    def data(self) -> FederatedData:
        """The hold-out, and who holds how many examples."""
        return self._known.data

    @contextmanager
    def engine(self) -> Iterator[MakeRunner]:
        """Yield what makes the engine; Flower owns the grid."""
        yield self._make

    def _make(self, functions: ClientFunctions, data: Dataset, training: TrainingSection, *, root: int) -> Engine:
        from dpaudit.federated.models import frozen_digest
        from dpaudit.flower.fleet import Terms
        from dpaudit.flower.local_nodes import engine_over

        if frozen_digest(functions.model) != self._known.frozen:
            raise UsageError(
                "the model has frozen variables that differ from those of the nodes: their builder draws them at "
                "random. Load them from a file, or make the shards with the same run.seed."
            )
        job = self._job
        terms = Terms(timeout=job.timeout, least=job.least, patience=job.patience, pause=0.2)
        return engine_over(
            self._grid, functions, data, training, root=root, name=NAME, terms=terms, register=self._register
        )


def serve(grid: Any, path: Path) -> None:
    """Do the job of a file over a grid; leave a result, also of a failure."""
    job, said, result = read_job(path)
    try:
        settings = configuration.load(job.config)
        trained = train(
            settings, job.out, resume=job.resume, reporter=Lines(said), federation=NetworkFederation(grid, job)
        )
        body: dict[str, Any] = {"rounds": trained.run.rounds_done, "holdout_accuracy": trained.run.holdout_accuracy}
    except DpauditError as error:
        body = _failure(error, error.exit_code)
    except KeyboardInterrupt as error:
        body = _failure(error, EXIT_INTERRUPTED)
    except Exception as error:
        serialize.write_atomic(result, serialize.dumps(_failure(error, EXIT_INTERNAL)))
        raise
    serialize.write_atomic(result, serialize.dumps(body))


def _failure(error: BaseException, code: int) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": str(error), "exit_code": code}}


def make_server_app() -> Any:
    """Return Flower's ServerApp."""
    from flwr.serverapp import ServerApp

    from dpaudit.flower.deployment import job_file

    def main(grid: Any, context: Any) -> None:
        del context
        serve(grid, job_file())

    app = ServerApp()
    app.main()(main)
    return app


def __getattr__(name: str) -> Any:
    """Make `app` when Flower asks for it, so that importing this module needs no Flower."""
    if name == "app":
        return make_server_app()
    raise AttributeError(name)
