"""What docs/secure-aggregation.md says of Flower 1.41's SecAgg+, run against the installed package."""

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen


def test_its_quantiser_passes_whole_numbers_where_a_step_is_one():
    """clipping_range = quantization_range / 2 makes a step of 1; beyond the range noise would be cut off."""
    numbers = np.arange(-512, 513, dtype=np.float64)
    (passed,) = quantize([numbers], 512.0, 1024)
    np.testing.assert_array_equal(passed, numbers + 512)
    np.testing.assert_array_equal(dequantize([passed], 512.0, 1024)[0], numbers)
    assert quantize([np.array([600.0])], 512.0, 1024)[0][0] == 1024


def test_its_masks_have_32_bits_of_seed_and_never_the_top_value():
    same = [pseudo_rand_gen(seed, 16, [(9,)])[0] for seed in (bytes(32), bytes(range(4)) * 2 + bytes(24))]
    np.testing.assert_array_equal(*same)
    assert pseudo_rand_gen(bytes(32), 16, [(100_000,)])[0].max() == 14


def test_its_client_answers_a_server_that_asks_for_both_shares_of_one_device():
    from types import SimpleNamespace

    from flwr.client.mod.secure_aggregation.secaggplus_mod import _unmask
    from flwr.common.secure_aggregation.secaggplus_constants import Key

    held = {1: b"seed 1", 2: b"seed 2"}, {1: b"key 1", 2: b"key 2"}
    state = SimpleNamespace(nid=1, threshold=2, rd_seed_share_dict=held[0], sk1_share_dict=held[1])
    answer = _unmask(state, {Key.ACTIVE_NODE_ID_LIST: [1, 2], Key.DEAD_NODE_ID_LIST: [2]})
    assert {b"seed 2", b"key 2"} <= set(answer[Key.SHARE_LIST])
