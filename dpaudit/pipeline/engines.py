"""The engines by name: where the clients of a run are computed. The server and its noise are the same for all."""

from collections.abc import Iterator
from contextlib import contextmanager

from dpaudit.config import RunConfig
from dpaudit.errors import UsageError
from dpaudit.federated.data import FederatedData
from dpaudit.federated.engine import MakeRunner, make_engine

IN_PROCESS = "in-process"
LITERT = "litert"


@contextmanager
def open_engine(name: str, config: RunConfig, data: FederatedData, *, root: int) -> Iterator[MakeRunner]:
    """Yield what makes the engine `name`; what it started is ended when the block is left, also by a failure.

    Args:
        name: `in-process`, or `litert` (what a device computes, one client after the other).
        config: the run.
        data: its data.
        root: root seed.

    Raises: UsageError for an unknown name, MissingDependency when its package is not installed.
    """
    del config, data, root
    if name == LITERT:
        from dpaudit.federated.litert_engine import LiteRtEngine

        yield LiteRtEngine
    elif name == IN_PROCESS:
        yield make_engine
    else:
        raise UsageError(f"engine must be {IN_PROCESS} or {LITERT}; got {name!r}.")
