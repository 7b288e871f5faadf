"""What the run ran on: versions and platform, for the evidence."""

import os
import platform
from typing import Any

from dpaudit import __version__
from dpaudit._packages import installed

PACKAGES = ("tensorflow", "keras", "tensorflow-privacy", "dp-accounting", "numpy", "scipy", "scikit-learn")


def describe() -> dict[str, Any]:
    """Return versions of Python, the platform and the packages that numbers depend on; None where not installed."""
    return {
        "dpaudit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: installed(name) for name in PACKAGES},
    }
