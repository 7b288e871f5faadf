"""Gives the tests of this folder the module that makes bundles."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_PATH = Path(__file__).parents[1] / "evidence" / "factory.py"


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    if "dpaudit_test_factory" not in sys.modules:
        spec = importlib.util.spec_from_file_location("dpaudit_test_factory", _PATH)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["dpaudit_test_factory"] = module
        spec.loader.exec_module(module)
    return sys.modules["dpaudit_test_factory"]


def _validators() -> ModuleType:
    path = Path(__file__).parents[1] / "gate" / "validators.py"
    spec = importlib.util.spec_from_file_location("dpaudit_test_validators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def validators() -> Path:
    """The folder of the npm validators; skips visibly where they are not installed."""
    found: Path = _validators().node_modules()
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; skips visibly where there is none."""
    found: str = _validators().chromium()
    return found
