import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpaudit.federated.clipping import Block, clipped_sum, screen

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(1, 5)), elements=FINITE)


def slow_clipped_sum(rows, clip_norm):
    """One row at a time, in Python floats."""
    total = [0.0] * rows.shape[1]
    for row in rows.tolist():
        norm = math.hypot(*row)
        factor = 1.0 if norm <= clip_norm else clip_norm / norm
        total = [t + factor * v for t, v in zip(total, row, strict=True)]
    return np.array(total)


@given(ROWS, st.floats(1e-3, 1e3))
@settings(max_examples=200, deadline=None)
def test_the_clipped_sum_equals_the_slow_twin(rows, clip_norm):
    np.testing.assert_allclose(
        clipped_sum(rows, clip_norm=clip_norm), slow_clipped_sum(rows, clip_norm), rtol=1e-9, atol=1e-9 * clip_norm
    )


@given(ROWS, st.floats(1e-3, 1e3))
@settings(max_examples=200, deadline=None)
def test_no_row_moves_the_sum_by_more_than_the_clip_norm(rows, clip_norm):
    whole = clipped_sum(rows, clip_norm=clip_norm)
    for index in range(len(rows)):
        without = clipped_sum(np.delete(rows, index, axis=0), clip_norm=clip_norm)
        assert np.linalg.norm(whole - without) <= clip_norm * (1 + 1e-9)


def test_the_clip_is_over_all_coordinates_together():
    row = np.ones((1, 100), np.float32)
    np.testing.assert_allclose(np.linalg.norm(clipped_sum(row, clip_norm=1.0)), 1.0)


@pytest.mark.parametrize("value", [3e38, -3e38, 1e-45, 0.0])
def test_extreme_rows_are_clipped_not_lost(value):
    rows = np.array([[value, 0.0], [0.0, 0.25]], np.float32)
    total = clipped_sum(rows, clip_norm=1.0)
    np.testing.assert_allclose(total, [np.sign(value) * min(abs(float(rows[0, 0])), 1.0), 0.25])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_rejected_and_the_others_kept(bad):
    rows = np.array([[1.0, 2.0], [3.0, bad], [5.0, 6.0]], np.float32)
    kept, units, rejected = screen(Block(units=np.array([10, 11, 12]), rows=rows), width=2)
    np.testing.assert_array_equal(kept, rows[[0, 2]])
    assert units.tolist() == [10, 12]
    assert [(item.unit, item.reason) for item in rejected] == [(11, "NaN or infinity")]


def test_wrong_shapes_are_rejected_one_by_one():
    rows = [np.ones(2, np.float32), np.ones(3, np.float32), np.ones((2, 2), np.float32), np.full(2, np.nan, np.float32)]
    kept, units, rejected = screen(Block(units=np.arange(4), rows=rows), width=2)
    assert kept.shape == (1, 2)
    assert units.tolist() == [0]
    assert [item.unit for item in rejected] == [1, 2, 3]
    none, _, everybody = screen(Block(units=np.arange(3), rows=np.ones((3, 7), np.float32)), width=2)
    assert none.shape == (0, 2)
    assert len(everybody) == 3
