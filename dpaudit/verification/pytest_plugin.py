"""pytest plugin: the fixtures `dp_step` and `dp_mechanism`, and the option --dpaudit-seed.

Load it with `-p dpaudit.verification.pytest_plugin`, or name that module in `pytest_plugins` of the top conftest.

    def test_my_training_step(dp_step):
        dp_step(make_step, noise_multiplier)

    def test_my_mechanism(dp_mechanism):
        dp_mechanism(mechanism, pairs, epsilon=1.0)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --dpaudit-seed: another seed gives another, equally valid test."""
    group = parser.getgroup("dpaudit")
    group.addoption("--dpaudit-seed", type=int, default=0, help="Seed of the statistical privacy tests (default 0).")


@pytest.fixture
def dp_step(pytestconfig: pytest.Config) -> Callable[..., Any]:
    """Return `assert_private_step` with the seed of the session."""
    from dpaudit.verification.testing import assert_private_step

    return partial(assert_private_step, seed=pytestconfig.getoption("--dpaudit-seed"))


@pytest.fixture
def dp_mechanism(pytestconfig: pytest.Config) -> Callable[..., Any]:
    """Return `assert_private` with the seed of the session."""
    from dpaudit.verification.testing import assert_private

    return partial(assert_private, seed=pytestconfig.getoption("--dpaudit-seed"))
