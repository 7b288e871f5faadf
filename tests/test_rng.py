"""Named streams are Philox under the key that the hash gives, whatever way the key is handed over."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit import _rng


@settings(max_examples=50, deadline=None)
@given(root=st.integers(0, 2**128 - 1), purpose=st.sampled_from(["noise", "cohort"]), index=st.integers(0, 10**6))
def test_a_stream_is_philox_with_its_key(root, purpose, index):
    direct = np.random.Generator(np.random.Philox(key=_rng._key(root, purpose, (index, 1))))
    stream = _rng.stream(root, purpose, index, 1)
    np.testing.assert_array_equal(stream.standard_normal(9), direct.standard_normal(9))
    np.testing.assert_array_equal(stream.integers(10**9, size=9), direct.integers(10**9, size=9))


def test_a_stream_survives_pickling_in_the_middle():
    stream = _rng.stream(5, "noise", 1)
    stream.random(3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stream)).random(4), stream.random(4))


def test_a_key_serves_philox_and_nothing_else():
    with pytest.raises(TypeError, match="two words of 64 bits"):
        np.random.PCG64(_rng._Key(3))
