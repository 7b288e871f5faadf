"""The quantiser: norms that are promised, no bias, coins that depend on the row alone, and mutants of each."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit.errors import UsageError
from dpaudit.federated import quantisation
from dpaudit.federated.quantisation import INFLATION, Quantiser, fits_field, levels_for, rounded, wrapped

KEY = b"key"


def norms(integers):
    return np.sqrt((integers.astype(np.float64) ** 2).sum(axis=1))


@pytest.mark.parametrize("width", [1, 2, 810, 4096, 4097, 100_000, 10**7])
def test_the_grid_is_fine_enough_for_the_promised_norm(width):
    """The bound of arXiv:2102.06387, Proposition 22, at beta = e^(-1/2), lies under 1 + 1/256 clip norms."""
    c = levels_for(width)
    assert c & (c - 1) == 0
    assert c >= max(1024, 16 * math.sqrt(width))
    assert math.sqrt(c**2 + width / 4 + c + math.sqrt(width) / 2) <= INFLATION * c


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 40),
    size=st.floats(0, 1e30, allow_subnormal=False),
    clip_norm=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_contributions_keep_their_bounds(width, size, clip_norm, seed):
    grid = Quantiser(clip_norm=clip_norm, width=width)
    rows = (np.random.default_rng(seed).standard_normal((3, width)) * size).astype(np.float32)
    integers = grid.quantised(rows, key=KEY)
    assert norms(integers).max() <= grid.l2_norm
    assert np.abs(integers).sum(axis=1).max() <= grid.l1_norm
    near = np.abs(integers - grid.scaled(rows)).max()
    assert near < 1
    assert np.array_equal(grid.steps(grid.floats(integers)), integers)


def test_rounding_has_no_bias():
    """Mean of 4000 roundings of 200 coordinates, each with variance at most 1/4: within 6 standard errors."""
    values = np.random.default_rng(0).uniform(-30, 30, 200)
    rng = np.random.default_rng(1)
    mean = np.mean([rounded(values, rng, l2_norm=1e6) for _ in range(4000)], axis=0)
    assert np.abs(mean - values).max() < 6 * 0.5 / math.sqrt(4000)


def test_rounding_is_repeated_until_the_norm_fits():
    """Half-way values of a long vector: without the condition most roundings exceed a tight bound (the mutant)."""
    values = np.full(400, 0.5)
    tight = math.sqrt(200)  # as many ones as zeros: half of all roundings
    rng = np.random.default_rng(2)
    once = [np.floor(values) + (rng.random(400) < 0.5) for _ in range(200)]
    assert sum(float((x**2).sum()) > tight**2 for x in once) > 50
    for _ in range(200):
        assert (rounded(values, rng, l2_norm=tight) ** 2).sum() <= 200


def test_what_never_fits_is_rounded_towards_zero():
    values = np.array([0.9, -2.9])
    assert rounded(values, np.random.default_rng(0), l2_norm=2.0).tolist() == [0, -2]


def test_the_coins_of_a_row_do_not_depend_on_the_others():
    grid = Quantiser(clip_norm=1.0, width=30)
    rows = np.random.default_rng(3).standard_normal((5, 30)).astype(np.float32)
    together = grid.quantised(rows, key=KEY)
    alone = np.stack([grid.quantised(rows[i : i + 1], key=KEY)[0] for i in (4, 3, 2, 1, 0)])[::-1]
    assert np.array_equal(together, alone)
    assert not np.array_equal(together, grid.quantised(rows, key=b"other"))


def test_short_rows_are_filled_up_and_nothing_is_a_sum():
    grid = Quantiser(clip_norm=2.0, width=4)
    assert grid.quantised(np.array([[2.0, 0.0]], np.float32), key=KEY).tolist() == [[1024, 0, 0, 0]]
    assert grid.quantised(np.zeros((0, 4), np.float32), key=KEY).shape == (0, 4)
    assert grid.granularity == 2.0 / 1024


def test_the_field_wraps_where_it_must():
    assert wrapped(np.array([2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 7 + 2**32])).tolist() == [
        2**31 - 1, -(2**31), -(2**31), 2**31 - 1, 7,
    ]  # fmt: skip
    assert fits_field(1000, l2_norm=16384 * INFLATION, noise_stddev=1e7)
    assert not fits_field(200_000, l2_norm=16384 * INFLATION, noise_stddev=1.0)


def test_sizes_out_of_range():
    for options in ({"clip_norm": 0.0, "width": 3}, {"clip_norm": 1.0, "width": 0}):
        with pytest.raises(UsageError):
            Quantiser(**options)
    assert quantisation.LEAST_LEVELS == 1024
