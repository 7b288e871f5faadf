"""Statistics of outputs against slow, plain formulas in high precision, and at the ends where plain ones break."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpaudit.attacks import statistics

getcontext().prec = 80


def decimal_probabilities(logits):
    weights = [Decimal(float(value)).exp() for value in logits]
    return [weight / sum(weights) for weight in weights]


def naive(logits, label):
    p = decimal_probabilities(logits)
    others = [value for i, value in enumerate(p) if i != label]
    mentr = -(1 - p[label]) * p[label].ln() - sum(value * (1 - value).ln() for value in others)
    rest = sum(others)
    return {
        "log_probability": float(p[label].ln()),
        "logit_confidence": float((p[label] / rest).ln()),
        "modified_entropy": float(mentr),
        "margin": float(logits[label]) - max(float(v) for i, v in enumerate(logits) if i != label),
    }


@given(
    st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=6).flatmap(
        lambda z: st.tuples(st.just(z), st.integers(0, len(z) - 1))
    )
)
def test_against_high_precision(case):
    logits, label = case
    expected = naive(logits, label)
    for name, value in expected.items():
        got = getattr(statistics, name)(np.array([logits]), np.array([label]))[0]
        assert math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-13), name


@pytest.mark.parametrize("function", ["log_probability", "logit_confidence", "modified_entropy", "margin"])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_stays_finite_where_probabilities_round_to_0_and_1(function, label):
    logits = np.array([[1e4, 0.0, -1e4], [1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])
    assert np.isfinite(getattr(statistics, function)(logits, np.full(3, label))).all()


def test_logit_confidence_is_not_cut_off_by_float32_probabilities():
    confident = statistics.logit_confidence(np.array([[100.0, 0.0], [200.0, 0.0]]), np.array([0, 0]))
    np.testing.assert_allclose(confident, [100.0, 200.0])


def test_reference_models_are_one_model_at_a_time_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 40, 5)), rng.integers(0, 5, 40)
    whole = statistics.reference_logit_confidence(logits, labels)
    monkeypatch.setattr(statistics, "_BLOCK", 250)
    np.testing.assert_array_equal(whole, statistics.reference_logit_confidence(logits, labels))
    np.testing.assert_allclose(whole[3], statistics.logit_confidence(logits[3], labels))
