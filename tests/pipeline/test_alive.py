"""The control: working attacks are alive, broken ones are not, and a control that cannot run says so."""

import numpy as np
import pytest

from dpaudit.attacks import registry
from dpaudit.attacks.base import OUTPUTS
from dpaudit.config import ModelSection
from dpaudit.pipeline import alive
from dpaudit.records import Status

pytest.importorskip("tensorflow")
SECTION = ModelSection(hidden=(32,))


def data(n=600, seed=0, per_unit=1):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 10)) + 1.5 * np.eye(3)[y] @ np.ones((3, 10))
    return x, y, None if per_unit == 1 else np.arange(n) // per_unit


class Broken:
    name, threat_model, needs = "broken", "none", frozenset({OUTPUTS})

    def score(self, seen):
        return -registry.make("loss").score(seen)  # the sign is wrong


class Blind(Broken):
    name = "blind"

    def score(self, seen):
        return np.random.default_rng(0).normal(size=seen.units)


def check(attacks, **changes):
    x, y, unit = data(**changes)
    return alive.check_alive(SECTION, x, y, unit, attacks, classes=3, root=1)


@pytest.mark.parametrize("per_unit", [1, 4])
def test_working_attacks_are_alive(per_unit):
    names = ("loss", "lira", "rmia", "population", "gradient-norm", "label-robustness")
    result = check(names, per_unit=per_unit)
    assert (result.id, result.status) == ("attack.alive", Status.PASS)
    assert result.statistic > result.threshold == 0.5
    assert result.p_value is None
    assert all(name in result.detail for name in names)


@pytest.mark.parametrize("broken", [Broken, Blind])
def test_a_broken_attack_is_not_alive_whatever_stands_beside_it(monkeypatch, broken):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    registry.register(broken.name, broken)
    result = check(("loss", broken.name))
    assert result.status == Status.INCONCLUSIVE
    assert f"not alive on the control: {broken.name}" in result.detail
    assert result.statistic <= 0.5


def test_an_attack_that_crashes_on_the_control_is_not_alive(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    nan = type("Nan", (Broken,), {"name": "nan", "score": lambda self, seen: np.full(seen.units, np.nan)})
    registry.register("nan", nan)
    result = check(("nan",))
    assert result.status == Status.INCONCLUSIVE
    assert "NaN" in result.detail


def test_a_control_that_cannot_run_says_why():
    assert "no attack" in check(()).detail
    few = check(("loss",), n=30)
    assert (few.status, few.statistic) == (Status.INCONCLUSIVE, None)
    assert "at least 40 units" in few.detail
    x, y, _ = data()
    text = np.full(x.shape, "red")
    words = alive.check_alive(SECTION, text, y, None, ("loss",), classes=3, root=1)
    assert (words.status, "numbers" in words.detail) == (Status.INCONCLUSIVE, True)
    x[0, 0] = np.nan
    assert "NaN" in alive.check_alive(SECTION, x, y, None, ("loss",), classes=3, root=1).detail


def test_attacks_on_the_control_do_not_see_who_was_in():
    x, y, _ = data()
    control = alive.make_control(SECTION, x, y, None, ("loss", "lira", "population"), classes=3, root=1)
    assert control.observed.units == control.is_member.size
    assert control.observed.population.units + control.observed.units == 600
    assert not control.observed.population.reference_in.any()
    assert abs(control.is_member[control.canary].mean() - 0.5) < 0.02
    assert not any((row == control.is_member).all() for row in control.observed.reference_in)
