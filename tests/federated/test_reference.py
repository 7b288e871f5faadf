import numpy as np
import pytest

from dpaudit.errors import UsageError
from dpaudit.federated.reference import balanced_masks, make_pool, reference_logits

pytest.importorskip("tensorflow")


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_every_unit_is_in_half_of_the_models(count):
    masks = balanced_masks(np.random.default_rng(0), models_count=count, units=1000)
    inside = masks.sum(axis=0)
    assert set(inside.tolist()) <= {count // 2, (count + 1) // 2}
    sizes = masks.sum(axis=1)
    assert np.abs(sizes - 500).max() < 100
    assert len({row.tobytes() for row in masks}) == count


@pytest.mark.parametrize("client_level", [False, True])
def test_models_are_trained_on_their_half_and_queried_on_the_whole_pool(make_config, data, client_level):
    config = make_config(client_level=client_level, training={"rounds": 15, "server_learning_rate": 2.0})
    logits, inside = reference_logits(config, data, root=1, noise_multiplier=0.2, count=3)
    assert logits.shape == (3, 120, 3)
    assert logits.dtype == np.float32
    assert inside.shape == (3, 9 if client_level else 120)
    labels = np.concatenate([data.train.y, data.holdout.y])
    assert ((logits.argmax(axis=2) == labels).mean(axis=1) > 0.8).all()
    again, _ = reference_logits(config, data, root=1, noise_multiplier=0.2, count=3)
    np.testing.assert_array_equal(again, logits)
    other, _ = reference_logits(config, data, root=2, noise_multiplier=0.2, count=3)
    assert (other != logits).any()


def test_a_model_depends_on_the_units_it_was_trained_on(make_config, data):
    """Without noise and with one memorable label, being in shows: the mask is the one that was used."""
    import dataclasses

    flipped = data.train.y.copy()
    flipped[:10] = (flipped[:10] + 1) % 3
    wrong = dataclasses.replace(data, train=dataclasses.replace(data.train, y=flipped))
    config = make_config(
        model={"hidden": [64]},
        training={"rounds": 150, "server_learning_rate": 5.0, "client_sampling_rate": 1.0, "clip_norm": 5.0},
    )
    logits, inside = reference_logits(config, wrong, root=1, noise_multiplier=1e-6, count=4)
    shifted = logits - logits.max(axis=2, keepdims=True)
    confidence = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    of_label = confidence[:, np.arange(10), flipped[:10]]
    assert of_label[inside[:, :10]].mean() > of_label[~inside[:, :10]].mean() + 1.0


def test_the_pool_is_train_then_holdout(make_config, data):
    pool, unit, units = make_pool(make_config(), data, root=1)
    np.testing.assert_array_equal(pool.x, np.concatenate([data.train.x, data.holdout.x]))
    np.testing.assert_array_equal(unit, np.arange(120))
    assert units == 120
    assert pool.client.max() < 6
    _, unit, units = make_pool(make_config(client_level=True), data, root=1)
    assert units == 9
    np.testing.assert_array_equal(unit, np.concatenate([data.train.client, data.holdout.client + 6]))


def test_at_least_one_model(make_config, data):
    with pytest.raises(UsageError):
        reference_logits(make_config(), data, root=1, noise_multiplier=1.0, count=0)
