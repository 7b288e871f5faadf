"""Flower, imported when it is needed, in the tested window, and told to stay offline."""

import os
from pathlib import Path

from dpaudit._packages import installed
from dpaudit.errors import MissingDependency

WINDOW = ((1, 41), (1, 42))
INSTALL = "pip install 'dpaudit[flower]'"
INSTALL_SIMULATION = "pip install 'dpaudit[flower,ray]'"
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What keeps Flower and Ray from talking to anybody but the nodes: no telemetry, update check or installation."""


def require_flower(*, simulation: bool = False) -> None:
    """Set Flower's offline switches in this process, and check that it can be used; call it before importing flwr.

    Raises: MissingDependency when flwr is missing or outside the tested window, or Ray is missing for a simulation.
    """
    found = installed("flwr")
    low, high = (".".join(map(str, bound)) for bound in WINDOW)
    if found is None:
        raise MissingDependency(f"this needs Flower: {INSTALL}")
    if not WINDOW[0] <= tuple(int(part) for part in found.split(".")[:2]) < WINDOW[1]:
        raise MissingDependency(
            f"flwr {found} is installed; tested are >= {low}, < {high} (its interfaces change between minor versions): "
            f"pip install 'flwr>={low},<{high}'"
        )
    if simulation and installed("ray") is None:
        raise MissingDependency(f"Flower's simulation needs Ray: {INSTALL_SIMULATION}")
    os.environ.update(OFFLINE)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower's processes: this one's, offline, with Flower's files in `home`."""
    return {**os.environ, **OFFLINE, "FLWR_HOME": str(home)}
