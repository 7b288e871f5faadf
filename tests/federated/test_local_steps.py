"""Local DP-SGD of a chain of Dense layers, laid out for the cache, beside `DenseChain`, one step after the other."""

import numpy as np
import pytest

from dpaudit.errors import DataError
from dpaudit.federated import dense_layout
from dpaudit.federated.aligned import aligned
from dpaudit.federated.dense_chain import DenseChain
from dpaudit.federated.dense_links import Link
from dpaudit.federated.dense_local import DenseLocal

CLIP, STEP = 0.7, 0.1


def link(inputs, units, activation="linear", *, bias=True):
    return Link(inputs=inputs, units=units, bias=bias, activation=activation)


CHAINS = {
    "one layer": DenseChain((link(5, 3),)),
    "relu": DenseChain((link(5, 4, "relu"), link(4, 3))),
    "three layers": DenseChain((link(5, 7, "tanh"), link(7, 4, "sigmoid"), link(4, 3))),
    "elu, no biases, rescaled": DenseChain((link(5, 6, "elu", bias=False), link(6, 3, bias=False)), scale=2, offset=-1),
    "a bias in the middle": DenseChain((link(5, 6, "relu", bias=False), link(6, 4, "linear"), link(4, 3, bias=False))),
}


def job(chain, *, seed=0, clients=6, steps=4, batch=9, examples=40):
    """Return start, x, y, index, mask and noise; some batches are empty, masks have holes, padding is row 0 or 40."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((examples, 5)).astype(np.float32), rng.integers(3, size=examples).astype(np.int32)
    mask = (rng.random((clients, steps, batch)) < 0.6).astype(np.float32)
    mask[1, 2] = mask[:, 1] = 0.0
    padding = np.where(np.arange(clients)[:, None, None] % 2, 0, examples)
    index = np.where(mask > 0, rng.integers(examples, size=mask.shape), padding).astype(np.int32)
    noise = rng.standard_normal((clients, steps, chain.parameters + 2)).astype(np.float32)
    start = rng.standard_normal(chain.parameters).astype(np.float32)
    return start, x, y, index, mask, noise


def step_by_step(chain, start, x, y, index, mask, noise):
    """The same by `clipped_sums`, which has a slow twin of its own: all clients, laid out anew in every step."""
    updates = np.zeros((len(index), start.size), np.float32)
    sums, norms = np.zeros_like(updates), np.zeros(index.shape, np.float32)
    for step in range(index.shape[1]):
        at = np.where(mask[:, step] > 0, index[:, step], 0)
        total, norms[:, step] = chain.clipped_sums(start + updates, x[at], y[at], clip_norm=CLIP, mask=mask[:, step])
        sums += total
        updates -= np.float32(STEP) * (total + noise[:, step, : start.size])
    return updates, sums, norms


def found_by(chain, start, x, y, index, mask, noise):
    local = DenseLocal(chain)
    return local.train(start, local.place(x, y), index=index, mask=mask, noise=noise, clip_norm=CLIP, step_size=STEP)


@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_the_steps_are_those_of_the_chain(name, rows, monkeypatch):
    chain = CHAINS[name]
    if rows is not None:  # batches of nine are cut into three pieces
        monkeypatch.setattr(chain, "_rows", rows)
    work = job(chain)
    wanted, found = step_by_step(chain, *work), found_by(chain, *work)
    present = work[4] > 0
    assert (wanted[2][present] > CLIP).any()
    for one, other in zip(wanted[:2], found[:2], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(found[2][present], wanted[2][present], rtol=2e-5)


def test_norms_are_rounded_upwards_and_no_contribution_exceeds_the_clip_norm():
    chain = CHAINS["three layers"]
    start, x, y, *_ = job(chain)
    everyone, x = np.arange(40, dtype=np.int32)[:, None, None], 30 * x
    _, sums, norms = found_by(chain, start, x, y, everyone, np.ones((40, 1, 1), np.float32), np.zeros((40, 1, 99)))
    exact = in_float64(chain, start, x.astype(np.float64), y)
    true = np.sqrt((exact**2).sum(axis=1))
    assert (norms[:, 0, 0] >= true * (1 - 1e-7)).all()
    np.testing.assert_allclose(norms[:, 0, 0], true, rtol=2e-5)
    assert (np.sqrt((sums.astype(np.float64) ** 2).sum(axis=1)) <= CLIP).all()
    np.testing.assert_allclose(sums, exact * np.minimum(1.0, CLIP / true)[:, None], rtol=1e-4, atol=1e-6)


def in_float64(chain, start, x, y):
    """Return the gradient of every example of the three layers, (n, parameters), by the text book in float64."""
    kernels, first, layers = [], 0, []
    for each in chain.links:
        end = first + each.parameters
        kernels.append(start[first:end].astype(np.float64).reshape(each.inputs + 1, each.units))
        first = end
    for kernel, apply in zip(kernels, (np.tanh, lambda z: 1 / (1 + np.exp(-z)), lambda z: z), strict=True):
        layers.append(np.concatenate([x, np.ones((len(x), 1))], axis=1))
        x = apply(layers[-1] @ kernel)
    d = np.exp(x - x.max(axis=1, keepdims=True))
    d = d / d.sum(axis=1, keepdims=True) - np.eye(3)[y]
    slopes = (lambda h: 1 - h**2, lambda h: h * (1 - h))
    parts = [np.einsum("ni,nu->niu", layers[2], d)]
    for at in (1, 0):
        d = (d @ kernels[at + 1][:-1].T) * slopes[at](layers[at + 1][:, :-1])
        parts.insert(0, np.einsum("ni,nu->niu", layers[at], d))
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def test_a_client_does_not_depend_on_its_group_and_comes_out_the_same_again():
    chain = CHAINS["relu"]
    start, x, y, index, mask, noise = job(chain, clients=12)
    whole = found_by(chain, start, x, y, index, mask, noise)
    for one, other in zip(whole, found_by(chain, start, x, y, index, mask, noise), strict=True):
        np.testing.assert_array_equal(one, other)
    part = found_by(chain, start, x, y, index[5:7], mask[5:7], noise[5:7])
    np.testing.assert_allclose(part[0], whole[0][5:7], rtol=1e-6, atol=1e-7)


def test_a_broken_example_breaks_its_client_alone():
    chain = CHAINS["relu"]
    start, x, y, index, mask, noise = job(chain)
    clean = found_by(chain, start, x, y, index, mask, noise)
    alone = np.setdiff1d(np.arange(40), index)[:1]
    assert alone.size
    x[alone] = np.nan
    index[2, 0, 3], mask[2, 0, 3] = alone[0], 1.0
    updates, _, norms = found_by(chain, start, x, y, index, mask, noise)
    assert np.isnan(norms[2, 0, 3])
    assert not np.isfinite(updates[2]).all()
    others = np.arange(6) != 2
    np.testing.assert_allclose(updates[others], clean[0][others], rtol=1e-6, atol=1e-7)


def test_what_is_out_of_range_is_refused():
    chain = CHAINS["relu"]
    start, x, y, index, mask, noise = job(chain)
    for wrong in (-1, 41):
        with pytest.raises(DataError, match=r"positions must lie in 0\.\.40"):
            found_by(chain, start, x, y, np.full_like(index, wrong), mask, noise)
    for wrong in (-1, 3):
        with pytest.raises(DataError, match=r"labels must lie in 0\.\.2"):
            found_by(chain, start, x, np.full_like(y, wrong), index, mask, noise)


@pytest.mark.parametrize("limit", ["_HELD", "_LAYOUTS"])
def test_layouts_are_held_as_far_as_there_is_room(limit, monkeypatch):
    chain = CHAINS["relu"]
    work = job(chain)
    wanted = found_by(chain, *work)
    monkeypatch.setattr(dense_layout, limit, 1)
    for one, other in zip(wanted, found_by(chain, *work), strict=True):
        np.testing.assert_array_equal(one, other)
    layouts = dense_layout.Layouts(chain.links, 64)
    assert (layouts.of(3, 10) is layouts.of(3, 9)) == (limit == "_LAYOUTS")


@pytest.mark.parametrize("clients", [1, 7])
def test_as_much_memory_as_a_layout_takes(clients):
    for chain in CHAINS.values():
        lead = (clients, 2, 5)
        room = dense_layout._Memory(aligned(2 * clients * chain.parameters + 16))
        weights = dense_layout.Weights(chain.links, room, clients)
        memory = dense_layout._Memory(aligned(dense_layout._numbers(chain.links, lead)))
        dense_layout.Layout(chain.links, weights, memory, lead)
        assert memory.take(1).size == 1, "there is room behind it"


def test_aligned_arrays_begin_at_a_cache_line():
    for shape in ((3,), (0, 4), (5, 7)):
        array = aligned(*shape)
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert array.ctypes.data % 64 == 0 or array.size == 0
