"""Data for federated training: a bundled real data set, a generated IoT fleet, or a file; split by unit of privacy."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit._objects import is_object_name
from dpaudit.config import DataSection, RunConfig
from dpaudit.errors import DataError, MissingDependency, UsageError
from dpaudit.federated import canary_data, iot, partition, tables, tf_data
from dpaudit.records import Unit

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples: features `x` float32 (n, ...), labels `y` int32 (n,), and who holds each, `client` int32 (n,)."""

    x: Floats
    y: Ints
    client: Ints | None
    classes: int
    name: str

    def take(self, index: NDArray[np.int64]) -> "Dataset":
        """Return the examples at `index`."""
        held_by = None if self.client is None else self.client[index]
        return replace(self, x=self.x[index], y=self.y[index], client=held_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedData:
    """`train` with client ids 0..clients-1, and `holdout`, which nobody trains on.

    Example-level privacy: hold-out examples say which client holds them where the data do (partition by client), by
    the ids of `train`, or -1 for one that has no training example; else they have no client. Client-level: whole
    devices, with ids 0..H-1 of their own.

    `originals` are hold-out units that were set aside for mislabelled canaries; `client` is the canary's number.
    """

    train: Dataset
    holdout: Dataset
    clients: int
    originals: Dataset | None = None


def _digits(section: DataSection, root: int) -> Dataset:  # noqa: ARG001 - one signature for all sources
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependency(
            "data.source = 'digits' needs scikit-learn: pip install 'dpaudit[train]', or name a file."
        ) from error
    bunch = load_digits()
    x = (bunch.data / 16.0).astype(np.float32)
    return Dataset(x=x, y=bunch.target.astype(np.int32), client=None, classes=10, name="digits")


def _iot(section: DataSection, root: int) -> Dataset:
    x, y, device, classes = iot.generate(
        devices=section.iot.devices,
        windows_per_device=section.iot.windows_per_device,
        heterogeneity=section.iot.heterogeneity,
        root=root,
    )
    return Dataset(x=x, y=y, client=device, classes=classes, name="iot")


SOURCES: dict[str, Callable[[DataSection, int], Dataset]] = {"digits": _digits, "iot": _iot}


def load_dataset(section: DataSection, *, root: int) -> Dataset:
    """Load `digits`, generate `iot`, read an .npz, .csv or .parquet file, or call `module:function`.

    The function may return a `tf.data.Dataset` or arrays; see `dpaudit.federated.tf_data.read_object`.

    Args:
        section: the [data] table of a run configuration.
        root: root seed (only the generator uses it).

    Raises: DataError for a missing file or column, NaN or infinity, labels that are not the whole numbers 0..K-1,
        empty data, wrong shapes; MissingDependency where a reader is not installed.
    """
    if section.source in SOURCES:
        return SOURCES[section.source](section, root)
    if is_object_name(section.source):
        table, name = tf_data.read_object(section.source, client=section.client), section.source
    else:
        path = Path(section.source)
        table, name = tables.read(path, label=section.label, client=section.client), path.stem
    client = None if table.client is None else partition.renumber(table.client)[0]
    return Dataset(x=table.x, y=table.y, client=client, classes=table.classes, name=name)


def _by_client(config: RunConfig, data: Dataset) -> bool:
    wanted = config.partition
    return wanted.kind == "by-client" or (wanted.clients is None and data.client is not None)


def _assign(config: RunConfig, data: Dataset, root: int) -> tuple[Ints, int]:
    """Return the client of each example and the number of clients, by the [partition] table."""
    wanted = config.partition
    if _by_client(config, data):
        if data.client is None:
            raise UsageError(
                "partition.kind = 'by-client' needs data that says who holds each example; "
                "name the column with data.client, or use kind = 'iid' or 'dirichlet'."
            )
        return partition.renumber(data.client)
    if wanted.clients is None:
        raise UsageError(f"partition.kind = {wanted.kind!r} needs partition.clients.")
    rng = _rng.stream(root, "partition")
    if wanted.kind == "iid":
        return partition.iid(rng, n=data.y.size, clients=wanted.clients), wanted.clients
    return partition.dirichlet(rng, data.y, clients=wanted.clients, alpha=wanted.alpha), wanted.clients


def _held_out(rng: np.random.Generator, units: int, fraction: float, what: str) -> NDArray[np.bool_]:
    """Choose round(fraction x units) units at random, at least one, leaving at least one."""
    count = round(fraction * units)
    if not 0 < count < units:
        raise DataError(
            f"holding out {fraction:g} of {units} {what}s leaves {units - count} for training and {count} to test on; "
            f"each side needs at least one. Use more data or another data.holdout_fraction."
        )
    chosen = np.zeros(units, dtype=np.bool_)
    chosen[rng.permutation(units)[:count]] = True
    return chosen


def prepare(config: RunConfig, *, root: int) -> FederatedData:
    """Load the data, keep units out of training, and spread the rest over clients.

    Example-level privacy holds out examples at random and partitions the others. Client-level privacy partitions
    everything into devices first and holds out whole devices, so that members and non-members are alike. What canaries
    need is done here: features of their own for every example, and hold-out units for mislabelled ones.

    Raises: DataError or UsageError as `load_dataset`, and when a client would be empty.
    """
    data = load_dataset(config.data, root=root)
    if config.canaries.private_features:
        data = canary_data.with_private_features(data, config.canaries.private_features)
    found = _split(config, data, root)
    wanted = sum(family.count for family in config.canaries.family if family.kind == canary_data.MISLABELLED)
    if not wanted:
        return found
    by_client = config.claim.unit == Unit.CLIENT
    originals, rest = canary_data.set_aside(found.holdout, wanted, by_client=by_client, root=root)
    return replace(found, holdout=rest, originals=originals)


def _split(config: RunConfig, data: Dataset, root: int) -> FederatedData:
    rng = _rng.stream(root, "holdout")
    if config.claim.unit == Unit.EXAMPLE:
        out = _held_out(rng, data.y.size, config.data.holdout_fraction, "example")
        train, holdout = data.take(np.flatnonzero(~out)), data.take(np.flatnonzero(out))
        owner, clients = _assign(config, train, root)
        holdout = replace(holdout, client=_holders(train, holdout) if _by_client(config, data) else None)
        train = _bounded(config, replace(train, client=owner), root)
        return FederatedData(train=train, holdout=holdout, clients=clients)
    owner, devices = _assign(config, data, root)
    out = _held_out(rng, devices, config.data.holdout_fraction, "device")
    owned = _bounded(config, replace(data, client=owner), root)
    owner = np.asarray(owned.client)
    train, holdout = owned.take(np.flatnonzero(~out[owner])), owned.take(np.flatnonzero(out[owner]))
    return FederatedData(train=_renumbered(train), holdout=_renumbered(holdout), clients=int(np.count_nonzero(~out)))


def _holders(train: Dataset, holdout: Dataset) -> Ints | None:
    """Return who holds each hold-out example, by the ids that `partition.renumber` gives the training clients."""
    if train.client is None or holdout.client is None:
        return None
    known = np.unique(train.client)
    at = np.minimum(np.searchsorted(known, holdout.client), known.size - 1)
    return np.where(known[at] == holdout.client, at, -1).astype(np.int32)


def _bounded(config: RunConfig, data: Dataset, root: int) -> Dataset:
    """Keep at most `partition.max_examples_per_client` of each client's examples, chosen at random."""
    limit = config.partition.max_examples_per_client
    if limit is None or data.client is None:
        return data
    return data.take(partition.bounded(_rng.stream(root, "contribution-bound"), data.client, limit=limit))


def _renumbered(data: Dataset) -> Dataset:
    if data.client is None:
        raise UsageError("client-level data must say who holds each example.")
    return replace(data, client=partition.renumber(data.client)[0])
