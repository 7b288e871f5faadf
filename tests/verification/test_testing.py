"""The assertions and the pytest plugin for library authors."""

import subprocess
import sys

import pytest

from dpaudit.verification import Neighbours, subject_cohort, subject_mechanisms, subject_noise, subject_server
from dpaudit.verification.testing import assert_private, assert_private_step

PAIR = Neighbours(first=0.0, second=1.0)


def test_assert_private():
    honest, broken = (subject_mechanisms.laplace(scale).mechanism for scale in (1.0, 0.5))
    assert assert_private(honest, PAIR, epsilon=1.0, max_pairs=5000).n == 5000
    with pytest.raises(AssertionError, match=r"FAIL mechanism\.privacy.*\n.*probability 1e-06"):
        assert_private(broken, PAIR, epsilon=1.0)
    with pytest.raises(AssertionError, match="INCONCLUSIVE"):
        assert_private(honest, PAIR, epsilon=1.0, max_pairs=50)
    assert assert_private(honest, PAIR, epsilon=1.0, max_pairs=50, allow_inconclusive=True)


def test_assert_private_step():
    assert assert_private_step(subject_server.Server.step, 1.0)
    with pytest.raises(AssertionError, match=r"FAIL step\.sensitivity"):
        assert_private_step(subject_noise.HalfNoise.step, 1.0)
    with pytest.raises(AssertionError, match=r"INCONCLUSIVE step\.seeded"):
        assert_private_step(subject_cohort.NotSeeded.step, 1.0)


SUITE = """
from dpaudit.verification import Neighbours
from dpaudit.verification.subject_noise import HalfNoise
from dpaudit.verification.subject_server import Server

def laplace(d, n, rng):
    return d + rng.laplace(size=n)

def test_step(dp_step):
    dp_step(Server.step, 1.0)

def test_broken_step(dp_step):
    dp_step(HalfNoise.step, 1.0)

def test_mechanism(dp_mechanism):
    dp_mechanism(laplace, Neighbours(first=0.0, second=1.0), epsilon=1.0, max_pairs=3000)

def test_broken_mechanism(dp_mechanism):
    dp_mechanism(laplace, Neighbours(first=0.0, second=3.0), epsilon=1.0)

def test_seed(pytestconfig, dp_step):
    assert pytestconfig.getoption("--dpaudit-seed") == 7
    assert dp_step.keywords == {"seed": 7}
"""


def test_the_plugin_in_a_suite_of_its_own(tmp_path):
    (tmp_path / "test_library.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "--dpaudit-seed", "7"]
    done = subprocess.run(
        [*command, str(tmp_path)], check=False, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert "2 failed, 3 passed" in done.stdout, done.stdout
    assert "FAILED test_library.py::test_broken_step" in done.stdout
    assert "FAILED test_library.py::test_broken_mechanism" in done.stdout
