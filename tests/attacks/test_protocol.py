"""What an attack can see, what the registry returns, and that nothing of membership leaks through."""

import ast
import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from dpaudit import attacks
from dpaudit.attacks import registry
from dpaudit.attacks.base import (
    EARLIER_MODEL,
    GRADIENTS,
    LABEL_QUERIES,
    NEEDS,
    OUT_MODELS,
    OUTPUTS,
    POPULATION,
    POPULATION_RECORDS,
    RECORDS,
    REFERENCE_MODELS,
    Attack,
    Observed,
)
from dpaudit.attacks.membership import scores_of, split
from dpaudit.attacks.subset import only, with_population
from dpaudit.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[2]
N, CLASSES, MODELS = 60, 3, 8
RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(N, CLASSES)), np.tile(np.arange(CLASSES), N // CLASSES)
REFERENCE = RNG.normal(size=(MODELS, N, CLASSES))
INSIDE = np.argsort(RNG.random((MODELS, N)), axis=0) < MODELS // 2
X = RNG.normal(size=(N, 5)).astype(np.float32)
KNOWN = Observed(
    logits=RNG.normal(size=(80, CLASSES)), labels=np.arange(80) % CLASSES, x=RNG.normal(size=(80, 5)).astype("f4"),
    reference_logits=RNG.normal(size=(MODELS, 80, CLASSES)), reference_in=np.zeros((MODELS, 80), bool),
)  # fmt: skip


def oracle(x):
    return (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5)


def observed(**changes):
    values = {
        "logits": LOGITS, "labels": LABELS, "reference_logits": REFERENCE, "reference_in": INSIDE, "x": X,
        "population": KNOWN, "label_oracle": oracle, "gradient_norm": np.abs(LOGITS[:, 0]) + 0.1,
        "gradient_alignment": LOGITS[:, 1],
    }  # fmt: skip
    return Observed(**{**values, **changes})


def without(need):
    """Return observations that lack one need, and what the error then names."""
    table = {
        REFERENCE_MODELS: ({"reference_logits": None, "reference_in": None}, "reference models"),
        OUT_MODELS: ({"reference_in": np.ones_like(INSIDE)}, "out model"),
        POPULATION: ({"population": None}, "population"),
        POPULATION_RECORDS: ({"x": None}, "records"),
        RECORDS: ({"x": None}, "records"),
        LABEL_QUERIES: ({"label_oracle": None}, "model to query"),
        GRADIENTS: ({"gradient_norm": None}, "gradients"),
        EARLIER_MODEL: ({"gradient_alignment": None}, "earlier snapshot"),
    }
    return table[need]


def test_an_attack_cannot_see_who_was_a_member():
    names = {field.name for field in dataclasses.fields(Observed)}
    assert not {name for name in names if "member" in name}
    assert {name for name in names if name.endswith("_in")} == {"reference_in"}  # the attacker's own models
    with pytest.raises(TypeError, match="is_member"):
        observed(is_member=np.ones(N, bool))
    with pytest.raises(dataclasses.FrozenInstanceError):
        observed().is_member = np.ones(N, bool)


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
    assert attack.needs <= NEEDS
    assert attack.needs <= observed().has
    scores = attack.score(observed())
    assert scores.shape == (N,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 2
    np.testing.assert_array_equal(scores, registry.make(name).score(observed()))
    for need in attack.needs - {OUTPUTS}:
        changes, words = without(need)
        with pytest.raises(DataError, match=words):
            attack.score(observed(**changes))
        assert need not in observed(**changes).has


@pytest.mark.parametrize("name", sorted(set(registry.names()) - {"boundary-distance", "label-robustness"}))
def test_units_are_means_of_examples_and_order_does_not_matter(name):
    unit = np.arange(N) // 2
    inside = INSIDE[:, ::2]
    whole = observed(unit=unit, reference_in=inside)
    assert whole.units == N // 2
    scores = registry.make(name).score(whole)
    assert scores.shape == (N // 2,)
    order = np.random.default_rng(3).permutation(N)
    shuffled = observed(
        logits=LOGITS[order], labels=LABELS[order], unit=unit[order], reference_logits=REFERENCE[:, order],
        reference_in=inside, x=X[order], gradient_norm=whole.gradient_norm[order],
        gradient_alignment=whole.gradient_alignment[order],
    )  # fmt: skip
    tolerance = 0.05 if name.startswith("trained") else 1e-7  # a solver stops elsewhere when its rows are shuffled
    np.testing.assert_allclose(registry.make(name).score(shuffled), scores, atol=tolerance)


@pytest.mark.parametrize("name", registry.names())
def test_a_part_is_scored_as_in_the_whole(name):
    """Leaving units out changes nobody else's score, but for attacks that compare units with each other."""
    keep = np.random.default_rng(4).random(N) < 0.7
    part = only(observed(), keep)
    assert part.units == keep.sum()
    scores = registry.make(name).score(part)
    if name in {
        "lira",
        "lira-offline",
        "trained-boosting",
        "trained-logistic",
        "boundary-distance",
        "label-robustness",
    }:
        assert np.isfinite(scores).all()  # pooled variances, classifiers, and random numbers differ
    else:
        np.testing.assert_allclose(scores, registry.make(name).score(observed())[keep], rtol=1e-9)


def test_a_population_is_taken_out():
    known = np.arange(N) < 10
    seen = with_population(observed(population=None), known)
    assert (seen.units, seen.population.units) == (N - 10, 10)
    np.testing.assert_array_equal(seen.population.logits, LOGITS[:10])
    with pytest.raises(DataError, match="some chosen"):
        only(observed(), np.zeros(N, bool))


def test_loss_of_a_unit_is_the_mean_of_its_examples():
    unit = np.random.default_rng(5).permutation(np.arange(N) % 7)
    single = registry.make("loss").score(observed())
    grouped = registry.make("loss").score(observed(unit=unit, reference_logits=None, reference_in=None))
    np.testing.assert_allclose(grouped, [single[unit == u].mean() for u in range(7)])


@pytest.mark.parametrize("name", [n for n in registry.names() if OUTPUTS in registry.make(n).needs])
def test_a_better_fit_never_scores_lower(name):
    """lira: two Gaussians of different widths cross twice; trained: a classifier of noise may go any way."""
    if name == "lira" or name.startswith(("trained", "gradient")):
        return
    better = LOGITS.copy()
    better[0] = [0.2, 0.0, -0.2]
    worse = better.copy()
    worse[0, LABELS[0]] -= 2.0
    if name == "entropy":
        better[0, LABELS[0]] += 3.0
    scores = [registry.make(name).score(observed(logits=z)) for z in (worse, better)]
    assert scores[1][0] > scores[0][0]
    np.testing.assert_allclose(scores[1][1:], scores[0][1:], atol=1.01 / N)  # RMIA: one rank of the others


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"logits": LOGITS[:, 0]}, "at least 2 classes"),
        ({"logits": LOGITS[:0], "labels": LABELS[:0], "reference_logits": None, "reference_in": None}, "no example"),
        ({"labels": LABELS[:5]}, r"shape \(60,\)"),
        ({"labels": np.where(np.arange(N) == 2, 3, LABELS)}, "3 at index 2"),
        ({"labels": LABELS.astype(float)}, "whole numbers"),
        ({"logits": np.where(LOGITS > 1, np.nan, LOGITS)}, "NaN"),
        ({"unit": 2 * np.arange(N)}, "without gaps"),
        ({"unit": np.zeros(5, int)}, "unit"),
        ({"reference_in": None}, "belong together"),
        ({"reference_in": INSIDE[:, :5]}, r"\(8, 60\)"),
        ({"reference_in": INSIDE.astype(int)}, "bool"),
        ({"reference_logits": REFERENCE[:, :5]}, "reference_logits"),
        ({"reference_logits": REFERENCE * np.inf}, "NaN or infinite"),
        ({"augmented_logits": LOGITS}, "augmented_logits"),
        ({"augmented_logits": LOGITS[None]}, "reference_augmented"),
        ({"augmented_logits": LOGITS[None], "reference_augmented": REFERENCE[:, None, :5]}, "reference_augmented"),
        ({"reference_augmented": REFERENCE[:, None]}, "augmented_logits"),
        ({"x": X[:5]}, "one record per label"),
        ({"gradient_norm": np.zeros(5)}, "gradient_norm"),
        ({"gradient_alignment": np.full(N, np.nan)}, "NaN"),
        (
            {
                "population": dataclasses.replace(
                    KNOWN, logits=np.zeros((80, 4)), reference_logits=None, reference_in=None
                )
            },
            "3 classes",
        ),
        ({"reference_logits": REFERENCE[:4], "reference_in": INSIDE[:4]}, "same reference models"),
        ({"population": dataclasses.replace(KNOWN, x=np.zeros((80, 6)))}, "population records"),
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
    assert scores_of("constant", observed()).tolist() == [0.0] * N
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
    attacks.register("nan", wrong(np.full(N, np.nan)))
    with pytest.raises(DataError, match="60 scores"):
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
