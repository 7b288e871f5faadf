"""What an attack can see, what the registry returns, and that nothing of membership leaks through."""

import ast
import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from dpaudit import attacks
from dpaudit.attacks import registry
from dpaudit.attacks.base import OUTPUTS, REFERENCE_MODELS, Attack, Observed
from dpaudit.attacks.membership import scores_of, split
from dpaudit.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(6, 3)), np.array([0, 1, 2, 0, 1, 2])
REFERENCE, INSIDE = RNG.normal(size=(4, 6, 3)), np.array([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]] * 2, dtype=bool)


def observed(**changes):
    values = {"logits": LOGITS, "labels": LABELS, "reference_logits": REFERENCE, "reference_in": INSIDE}
    return Observed(**{**values, **changes})


def test_an_attack_cannot_see_who_was_a_member():
    names = {field.name for field in dataclasses.fields(Observed)}
    assert names == {"logits", "labels", "unit", "reference_logits", "reference_in"}
    with pytest.raises(TypeError, match="is_member"):
        observed(is_member=np.ones(6, bool))
    with pytest.raises(dataclasses.FrozenInstanceError):
        observed().is_member = np.ones(6, bool)


def test_attack_files_do_not_import_the_join():
    for path in (ROOT / "attacks").glob("*.py"):
        if path.stem in ("membership", "__init__"):
            continue
        imported = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert "dpaudit.attacks.membership" not in imported, path


@pytest.mark.parametrize("name", registry.names())
def test_every_attack_keeps_the_protocol(name):
    attack = registry.make(name)
    assert isinstance(attack, Attack)
    assert attack.name == name
    assert attack.threat_model
    assert attack.needs <= {OUTPUTS, REFERENCE_MODELS}
    scores = attack.score(observed())
    assert scores.shape == (6,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    if REFERENCE_MODELS in attack.needs:
        with pytest.raises(DataError, match="reference models"):
            attack.score(observed(reference_logits=None, reference_in=None))


@pytest.mark.parametrize("name", registry.names())
def test_units_are_means_of_examples_and_order_does_not_matter(name):
    unit = np.array([0, 1, 1, 0, 2, 2])
    inside = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    whole = observed(unit=unit, reference_in=inside)
    assert whole.units == 3
    scores = registry.make(name).score(whole)
    assert scores.shape == (3,)
    order = np.array([5, 3, 1, 0, 2, 4])
    shuffled = observed(
        logits=LOGITS[order],
        labels=LABELS[order],
        unit=unit[order],
        reference_logits=REFERENCE[:, order],
        reference_in=inside,
    )
    np.testing.assert_allclose(registry.make(name).score(shuffled), scores)


def test_loss_of_a_unit_is_the_mean_of_its_examples():
    unit = np.array([0, 1, 1, 0, 2, 2])
    single = registry.make("loss").score(observed())
    grouped = registry.make("loss").score(observed(unit=unit, reference_logits=None, reference_in=None))
    np.testing.assert_allclose(grouped, [single[unit == u].mean() for u in range(3)])


@pytest.mark.parametrize("name", registry.names())
def test_a_better_fit_scores_higher(name):
    better = LOGITS.copy()
    better[0, LABELS[0]] += 2.0
    before, after = registry.make(name).score(observed()), registry.make(name).score(observed(logits=better))
    if name == "lira":  # two Gaussians of different widths cross twice: only near the "in" mean is more fit more member
        return
    assert after[0] > before[0]
    np.testing.assert_array_equal(after[1:], before[1:])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"logits": LOGITS[:, 0]}, "at least 2 classes"),
        ({"logits": LOGITS[:0], "labels": LABELS[:0], "reference_logits": None, "reference_in": None}, "no example"),
        ({"labels": LABELS[:5]}, r"shape \(6,\)"),
        ({"labels": np.array([0, 1, 3, 0, 1, 2])}, "3 at index 2"),
        ({"labels": LABELS.astype(float)}, "whole numbers"),
        ({"logits": np.where(LOGITS > 1, np.nan, LOGITS)}, "NaN"),
        ({"unit": np.array([0, 1, 1, 0, 3, 3])}, "without gaps"),
        ({"unit": np.zeros(5, int)}, "unit"),
        ({"reference_in": None}, "belong together"),
        ({"reference_in": INSIDE[:, :5]}, r"\(4, 6\)"),
        ({"reference_in": INSIDE.astype(int)}, "bool"),
        ({"reference_logits": REFERENCE[:, :5]}, "reference_logits"),
        ({"reference_logits": REFERENCE * np.inf}, "NaN or infinite"),
    ],
)
def test_observed_refuses_what_does_not_fit(changes, what):
    with pytest.raises(DataError, match=what):
        observed(**changes)


def test_unknown_names_get_a_hint():
    with pytest.raises(UsageError, match="Did you mean 'lira'"):
        registry.make("lyra")
    with pytest.raises(UsageError, match=r"Known: .*loss"):
        registry.make("zzzzz")


class Constant:
    name, threat_model, needs = "constant", "none", frozenset({OUTPUTS})

    def score(self, seen):
        return np.zeros(seen.units)


def test_third_parties_register_by_call_and_by_entry_point(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    attacks.register("constant", Constant)
    assert scores_of("constant", observed()).tolist() == [0.0] * 6
    with pytest.raises(UsageError, match="exists already"):
        attacks.register("loss", Constant)

    points = {
        "plugin": EntryPoint("plugin", "collections:OrderedDict", registry.GROUP),
        "broken": EntryPoint("broken", "no_such_module_anywhere:x", registry.GROUP),
    }
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name=None: [p for p in points.values() if name in (None, p.name)]
    )
    assert {"plugin", "loss"} <= set(registry.names())
    with pytest.raises(UsageError, match="must have name, threat_model"):
        registry.make("plugin")
    with pytest.raises(UsageError, match="cannot be loaded"):
        registry.make("broken")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Constant)
    assert registry.make("plugin").name == "constant"


def test_scores_of_refuses_wrong_scores(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))

    def wrong(values):
        return type("Wrong", (Constant,), {"score": lambda self, seen: values})

    attacks.register("short", wrong(np.zeros(5)))
    attacks.register("nan", wrong(np.full(6, np.nan)))
    with pytest.raises(DataError, match="6 scores"):
        scores_of("short", observed())
    with pytest.raises(DataError, match="NaN"):
        scores_of("nan", observed())


def test_split_joins_and_refuses():
    scores = np.arange(4.0)
    sides = split(scores, np.array([True, False, True, False]))
    assert sides.member.tolist() == [0.0, 2.0]
    assert sides.non_member.tolist() == [1.0, 3.0]
    with pytest.raises(DataError, match="bool of shape"):
        split(scores, np.array([1, 0, 1, 0]))
    with pytest.raises(DataError, match="members and non-members"):
        split(scores, np.ones(4, bool))
