"""Shared set-up: quiet TensorFlow, one thread per test process, no network needed; modules that several folders use."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# As many workers as cores, so one thread in each: with two of each, threads that waited for each other doubled the
# processor time of a training run. Read when NumPy or TensorFlow starts, so by xdist's workers and by the commands that
# tests run in processes of their own.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
for _name in THREADS:
    os.environ.setdefault(_name, "1")
sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]  # without it, importorskip would skip what is there


def pytest_configure(config: pytest.Config) -> None:
    """Let files start in their order: xdist would start those with few tests last, and one of them takes minutes."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def _shared(name: str, path: str) -> ModuleType:
    """Return the module at `path` below tests/, loaded once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    """The module that makes evidence bundles."""
    return _shared("dpaudit_test_factory", "evidence/factory.py")


@pytest.fixture(scope="session")
def validators() -> Path:
    """The folder of the npm validators; skips visibly where they are not installed."""
    found: Path = _shared("dpaudit_test_validators", "gate/validators.py").node_modules()
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; skips visibly where there is none."""
    found: str = _shared("dpaudit_test_validators", "gate/validators.py").chromium()
    return found
