"""A connection to Ray: a Ray of our own on this machine that ends with us, or somebody's cluster that does not."""

import contextlib
import functools
import gc
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dpaudit.errors import MissingDependency, UsageError
from dpaudit.fanout.cache import versions
from dpaudit.fanout.workers import environment

INSTALL = "pip install 'dpaudit[ray]'"
_QUIET: Mapping[str, str] = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

_STARTS = 3  # tries to start a Ray of our own


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySession:
    """An open connection: the module `ray`, options that its tasks need, and whether Ray is our own."""

    ray: Any
    options: Mapping[str, Any]
    own: bool

    @property
    def cores(self) -> int:
        """Cores that the cluster has now."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def put(self, value: Any) -> Any:
        """Place a value in the object store once, for all workers.

        Raises: UsageError for a value that cannot be sent.
        """
        try:
            return self.ray.put(value)
        except Exception as error:  # whatever the pickler meets
            raise UsageError(f"what the tasks share cannot be sent to Ray: {error}. Use plain data.") from error


@contextmanager
def ray_session(address: str | None = None, *, processes: int | None = None) -> Iterator[RaySession]:
    """Connect to Ray while the block runs.

    Args:
        address: of an existing cluster; None for RAY_ADDRESS, or a Ray of our own on this machine, without dashboard
            and without usage statistics, which is ended when the block is left, also by a failure. Where this process
            is connected to Ray already, that connection is used and left open.
        processes: cores that our own Ray offers; None for all.

    Raises: MissingDependency without ray; UsageError when the cluster cannot be reached.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with _warnings_of_ray():
            import ray
    except ImportError as error:
        raise MissingDependency(f"the executor ray needs ray: {INSTALL}.") from error
    given = address or os.environ.get("RAY_ADDRESS") or None
    if ray.is_initialized():
        yield RaySession(ray=ray, options={"runtime_env": {"env_vars": environment()}}, own=False)
        return
    own = given in (None, "local")
    try:
        _connect(ray, "local" if own else str(given), processes)
        yield RaySession(ray=ray, options={}, own=own)
    finally:
        with _warnings_of_ray():
            ray.shutdown()
            gc.collect()


def _connect(ray: Any, address: str, processes: int | None) -> None:
    variables, options = environment(), dict[str, Any]()
    if address == "local":  # workers find what this process finds
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*filter(None, sys.path), os.getcwd()]))
        options = {"include_dashboard": False, "num_cpus": processes}
    options |= {"log_to_driver": False, "configure_logging": False, "logging_level": "ERROR"}
    for attempt in range(_STARTS):
        try:
            with _warnings_of_ray():
                ray.init(address=address, runtime_env={"env_vars": variables}, **options)
                gc.collect()
            return
        except Exception as error:  # Ray raises a bare Exception when its start takes longer than 30 s
            with _warnings_of_ray():
                ray.shutdown()
                _end_half_started(error)
                gc.collect()
            if address != "local" or attempt == _STARTS - 1:
                hint = "Is it running (`ray status`)?" if address != "local" else "Is the machine overloaded?"
                raise UsageError(f"cannot connect to Ray at {address}: {error} {hint}") from error


def _end_half_started(error: Exception) -> None:
    """End the processes of a Ray whose start failed: only the frames of the failure still know its node."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node: Any = frame.f_locals.get("self")
        if hasattr(node, "kill_all_processes"):
            with contextlib.suppress(Exception):  # some may be gone already
                node.kill_all_processes(check_alive=False, allow_graceful=False)


@contextmanager
def _warnings_of_ray() -> Iterator[None]:
    """Hold back what Ray warns of itself: files and processes that it leaves to the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def check_versions(expected: tuple[tuple[str, str | None], ...]) -> None:
    """Raise UsageError in a worker whose packages are not those of the machine that sent the task."""
    own = versions()
    wrong = [f"{name} {own[name]} (there {value})" for name, value in expected if own[name] != value]
    if wrong:
        raise UsageError(
            f"the worker on {socket.gethostname()} has {', '.join(wrong)}: results would not be the same everywhere. "
            "Install the same environment on all machines of the cluster."
        )
