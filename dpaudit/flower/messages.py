"""What server and nodes say to each other, as records that are checked when they are read, and their Flower form.

Two exchanges: `query` (which clients does this node hold, and how many examples each: public) and `train` (weights and
the round's seeds out, contributions back). The root seed, the noise and the canaries never appear here. A `token`,
fresh for every message, binds an answer to the very question that it answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.federated.engine import RoundSeeds

Kind = Literal["updates", "sums", "gradients"]
"""One update per client; per client the sum of its clipped gradients, with the norms; or every example's gradient."""
Ints = NDArray[np.int64]
SCHEMA = "dpaudit.federation/v1"
_ARRAYS, _CONFIG = "arrays", "config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a node holds: client ids, how many examples each has, and the width of its model."""

    clients: tuple[int, ...]
    sizes: tuple[int, ...]
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    """How a client trains on its own data (dp-fedavg, dp-ftrl)."""

    epochs: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a node is asked to compute in a round.

    `weights` float32 (parameters,). `clients` (k,) are those that are asked. For gradients `counts` (k,) says how many
    examples of each are wanted and `positions` (sum of counts,) which, as positions among the client's own.
    """

    token: str
    number: int
    kind: Kind
    weights: NDArray[np.float32]
    seeds: RoundSeeds
    clients: Ints
    counts: Ints
    positions: Ints
    clip_norm: float
    local: LocalTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node computed, for the clients it was asked for, in that order.

    `rows` float32: one per client (updates, sums) or one per example (gradients). `norms` float32 (sum of counts,) are
    those of the single gradients before the clip, for sums only; NaN marks one that is NaN or infinite and left out.
    """

    token: str
    clients: Ints
    rows: NDArray[np.float32]
    norms: NDArray[np.float32] | None


def write(numbers: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return Flower's record of some numbers, texts or lists, and arrays."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    held = {name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()}
    return RecordDict({_CONFIG: ConfigRecord({"schema": SCHEMA, **numbers}), _ARRAYS: ArrayRecord(held)})


def read(content: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the numbers and the arrays of a record. Raises: DataError when it is none of ours, or unreadable."""
    try:
        numbers = dict(content[_CONFIG])
        arrays = {str(name): np.asarray(value.numpy()) for name, value in content[_ARRAYS].items()}
    except Exception as error:
        raise DataError(f"unreadable message: {type(error).__name__}: {error}") from error
    if numbers.pop("schema", None) != SCHEMA:
        raise DataError(f"the message is not of schema {SCHEMA}: server and nodes run different versions.")
    return numbers, arrays


def write_holdings(holdings: Holdings) -> Any:
    """Return the answer to a query."""
    numbers = {"clients": list(holdings.clients), "sizes": list(holdings.sizes), "parameters": holdings.parameters}
    return write(numbers, {})


def read_holdings(content: Any) -> Holdings:
    """Read the answer to a query. Raises: DataError."""
    numbers, _ = read(content)
    try:
        clients, sizes = (tuple(int(value) for value in numbers[name]) for name in ("clients", "sizes"))
        found = Holdings(clients=clients, sizes=sizes, parameters=int(numbers["parameters"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not the holdings of a node: {type(error).__name__}: {error}") from error
    if len(clients) != len(sizes) or len(set(clients)) != len(clients):
        raise DataError("the holdings of a node must name each client once, with one size.")
    return found


def write_job(job: Job) -> Any:
    """Return a job as Flower's record."""
    numbers = {
        "token": job.token,
        "number": job.number,
        "kind": job.kind,
        "dropout": list(job.seeds.dropout),
        "order": job.seeds.order,
        "clip_norm": job.clip_norm,
        "epochs": job.local.epochs,
        "batch_size": job.local.batch_size,
        "learning_rate": job.local.learning_rate,
    }
    arrays = {name: getattr(job, name) for name in ("weights", "clients", "counts", "positions")}
    return write(numbers, arrays)


def read_job(content: Any) -> Job:
    """Read a job. Raises: DataError."""
    numbers, arrays = read(content)
    try:
        local = LocalTraining(
            epochs=int(numbers["epochs"]),
            batch_size=int(numbers["batch_size"]),
            learning_rate=float(numbers["learning_rate"]),
        )
        first, second = (int(value) for value in numbers["dropout"])
        kind = numbers["kind"]
        whole = {name: np.asarray(arrays[name], dtype=np.int64) for name in ("clients", "counts", "positions")}
        job = Job(
            token=str(numbers["token"]),
            number=int(numbers["number"]),
            kind=kind,
            weights=np.asarray(arrays["weights"], dtype=np.float32),
            seeds=RoundSeeds(dropout=(first, second), order=int(numbers["order"])),
            clip_norm=float(numbers["clip_norm"]),
            local=local,
            **whole,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a job: {type(error).__name__}: {error}") from error
    if kind not in get_args(Kind) or job.weights.ndim != 1 or job.clients.shape != job.counts.shape:
        raise DataError(f"a job of kind {kind!r} with arrays of these shapes cannot be done.")
    return job


def write_answer(answer: Answer) -> Any:
    """Return an answer as Flower's record."""
    arrays: dict[str, NDArray[Any]] = {"clients": answer.clients, "rows": answer.rows}
    if answer.norms is not None:
        arrays["norms"] = answer.norms
    return write({"token": answer.token}, arrays)


def read_answer(content: Any) -> Answer:
    """Read an answer; the caller checks it against what was asked. Raises: DataError."""
    numbers, arrays = read(content)
    missing = {"clients", "rows"} - set(arrays)
    if missing or "token" not in numbers:
        raise DataError(f"the answer lacks {', '.join(sorted(missing)) or 'its token'}.")
    norms = arrays.get("norms")
    clients = arrays["clients"]
    if clients.ndim != 1 or not np.issubdtype(clients.dtype, np.integer):
        raise DataError("the answer's clients are not a list of whole numbers.")
    return Answer(
        token=str(numbers["token"]),
        clients=clients.astype(np.int64),
        rows=_floats(arrays["rows"], "rows", 2),
        norms=None if norms is None else _floats(norms, "norms", 1),
    )


def _floats(array: NDArray[Any], name: str, dimensions: int) -> NDArray[np.float32]:
    if array.ndim != dimensions or not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"the answer's {name} are {array.dtype} of shape {array.shape}, not {dimensions}-d floats.")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
