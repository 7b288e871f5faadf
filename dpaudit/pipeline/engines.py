"""The engines by name: where the clients of a run are computed. The server and its noise are the same for all.

A name may carry options: `flower:nodes=4,timeout=30`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dpaudit.config import RunConfig
from dpaudit.errors import UsageError
from dpaudit.federated.data import FederatedData
from dpaudit.federated.engine import MakeRunner, make_engine

IN_PROCESS, LITERT, FLOWER, LOOPBACK, RAY = "in-process", "litert", "flower", "flower-loopback", "ray"
NAMES = (IN_PROCESS, LITERT, FLOWER, LOOPBACK, RAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """An engine and its options: simulated nodes (None: one per client, at most 10), seconds that a round may take."""

    name: str
    nodes: int | None = None
    timeout: float = 300.0


def parse_engine(text: str) -> EngineChoice:
    """Read `NAME` or `NAME:option=value,...`. Raises: UsageError."""
    name, _, rest = text.partition(":")
    if name not in NAMES:
        raise UsageError(f"engine must be one of {', '.join(NAMES)}; got {name!r}.")
    pairs = [part.partition("=") for part in rest.split(",") if part]
    options = {key: value for key, _, value in pairs}
    if (options and name != FLOWER) or set(options) - {"nodes", "timeout"}:
        raise UsageError(f"options of an engine are flower:nodes=N,timeout=SECONDS; got {text!r}.")
    try:
        nodes, timeout = int(options["nodes"]) if "nodes" in options else None, float(options.get("timeout", 300))
    except ValueError as error:
        raise UsageError(f"options of an engine are numbers; got {text!r}.") from error
    if (nodes is not None and nodes < 1) or not 0 < timeout < 3600:
        raise UsageError(f"nodes must be at least 1 and timeout between 0 and 3600 seconds; got {text!r}.")
    return EngineChoice(name=name, nodes=nodes, timeout=timeout)


@contextmanager
def open_engine(text: str, config: RunConfig, data: FederatedData, *, root: int) -> Iterator[MakeRunner]:
    """Yield what makes the engine; what it started is ended when the block is left, also by a failure.

    Args:
        text: `in-process`, `litert` (what a device computes, one client after the other), `flower` (Flower's
            simulation; with options), `flower-loopback` (Flower's messages and our apps in this process), or `ray`
            (actors on this machine, or of the cluster at RAY_ADDRESS).
        config: the run.
        data: its data.
        root: root seed; it stays in this process.

    Raises: UsageError for an unknown name, MissingDependency when its package is not installed.
    """
    choice = parse_engine(text)
    if choice.name == RAY:
        from dpaudit.federated.ray_engine import open_ray_engine

        with open_ray_engine(config) as make_runner:
            yield make_runner
        return
    if choice.name != FLOWER:
        yield step_engine(text)
        return
    from dpaudit.flower.simulation import simulated

    with simulated(config, data, root=root, nodes=choice.nodes, timeout=choice.timeout) as make_runner:
        yield make_runner


def step_engine(text: str) -> MakeRunner:
    """Return what makes the engine of the step test, which runs single rounds on data of its own.

    For `flower` that is Flower's messages and our apps without a network, which no round of a few units needs; for
    `ray` the engine that its actors hold.
    """
    name = parse_engine(text).name
    if name in (IN_PROCESS, RAY):
        return make_engine
    if name == LITERT:
        from dpaudit.federated.litert_engine import LiteRtEngine

        return LiteRtEngine
    from dpaudit.flower.local_nodes import loopback_engine

    return loopback_engine
