"""A module that workers can import, and one Ray for all tests of a module."""

import importlib
import sys
from pathlib import Path

import pytest

from dpaudit.fanout import JoblibExecutor, RayExecutor, SerialExecutor
from dpaudit.fanout.workers import THREADS


@pytest.fixture(scope="module")
def work():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        for name in THREADS:  # set for the tests too; workers must get them from the executor
            patch.delenv(name, raising=False)
        yield importlib.import_module("fanout_work")
        sys.modules.pop("fanout_work", None)


@pytest.fixture(scope="module")
def joblib_executor(work):
    pytest.importorskip("joblib")
    with JoblibExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def ray_executor(work):
    pytest.importorskip("ray")
    with RayExecutor(2) as executor:
        yield executor


@pytest.fixture(params=["serial", "joblib", "ray"])
def executor(request):
    if request.param == "serial":
        return SerialExecutor()
    return request.getfixturevalue(f"{request.param}_executor")


@pytest.fixture(params=["joblib", "ray"])
def pool(request):
    return request.getfixturevalue(f"{request.param}_executor")
