"""Clipped sums by book-keeping, against rows of per-example gradients that are clipped in float64."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from dpaudit.federated import clipping, models
from dpaudit.federated import engine as engines
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import NO_CANARIES
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import ClippedSum
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.sampling import Cohort, Population
from dpaudit.federated.server import Plan, Server
from dpaudit.ledger import PrivacyLedger

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
N = 12


def sequential(*middle, shape=(16,)):
    return keras.Sequential([keras.Input(shape), *middle, layers.Dense(3)])


def attention():
    tokens = keras.Input((6,))
    x = layers.Embedding(9, 8, mask_zero=True)(tokens)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)]))
    hidden = layers.Dense(8)(layers.Dense(10, activation="gelu")(x))
    x = layers.LayerNormalization(center=False)(layers.Add()([x, hidden]))
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def recurrent(*kinds, length=6, **options):
    """Tokens with padding (token 0) through recurrent layers; the last one returns its last state."""
    tokens = keras.Input((length,))
    x = layers.Embedding(9, 4, mask_zero=True)(tokens)
    for position, kind in enumerate(kinds):
        x = kind(5, return_sequences=position < len(kinds) - 1, bias_initializer="random_normal", **options)(x)
    return keras.Model(tokens, layers.Dense(3)(x))


def both_directions():
    tokens = keras.Input((6,))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Embedding(9, 4, mask_zero=True)(tokens))
    x = layers.Bidirectional(layers.GRU(4), merge_mode="sum")(x)
    return keras.Model(tokens, layers.Dense(3)(x))


def attends(make):
    def build():
        tokens = keras.Input((6,))
        x = layers.Embedding(9, 8)(tokens)
        return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(make(x))))

    return build


def nested():
    inner = keras.Sequential([keras.Input((16,)), layers.Dense(6, activation="tanh"), layers.Dense(5)])
    inputs = keras.Input((16,))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([inner(inputs), layers.Dense(4)(inputs)])))


def sums():
    inputs = keras.Input((16,))
    x = layers.Dense(16, activation="relu")(inputs) + inputs
    return keras.Model(inputs, layers.Dense(3)(x * 0.5 - inputs))


def partly_frozen():
    model = sequential(layers.Dense(5, activation="relu"), layers.Dense(4))
    model.layers[0].trainable = False
    return model


def unused():
    inputs = keras.Input((16,))
    x = layers.Dense(4, activation="relu", bias_initializer=keras.initializers.Constant(-1e6))(inputs)
    return keras.Model(inputs, layers.Dense(3, bias_initializer="ones")(x))


square = layers.Reshape((4, 4))
KNOWN = {
    "mlp": lambda: sequential(layers.Dense(7, activation="relu"), layers.Dense(5, use_bias=False)),
    "cnn": lambda: sequential(
        layers.Reshape((4, 4, 1)), layers.Conv2D(4, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
        layers.Conv2D(3, 2, strides=2, padding="same"), layers.Flatten(),
    ),
    "conv1d": lambda: sequential(
        layers.Reshape((8, 2)), layers.Conv1D(4, 3, padding="causal", activation="elu"), layers.GlobalMaxPooling1D()
    ),
    "depthwise": lambda: sequential(
        layers.Reshape((4, 4, 1)), layers.DepthwiseConv2D(2, depth_multiplier=3, activation="relu"),
        layers.GroupNormalization(3), layers.GlobalAveragePooling2D(),
    ),
    "normalisation": lambda: sequential(
        layers.Dense(6), layers.LayerNormalization(), layers.Activation("gelu"),
        layers.GroupNormalization(2, center=False),
    ),
    "dropout": lambda: sequential(layers.Dense(20, activation="relu"), layers.Dropout(0.5)),
    "attention": attention,
    "dot attention": attends(lambda x: layers.Attention()([x, x])),
    "additive attention": attends(lambda x: layers.AdditiveAttention(use_scale=False)([x, x])),
    "grouped attention": attends(lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x)),
    "simple rnn": lambda: recurrent(layers.SimpleRNN, activation="relu"),
    "lstm": lambda: recurrent(layers.LSTM, layers.LSTM, go_backwards=True),
    "gru": lambda: recurrent(layers.GRU),
    "older gru": lambda: recurrent(layers.GRU, reset_after=False),
    "both directions": both_directions,
    "nested": nested,
    "sums": sums,
    "frozen": partly_frozen,
    "zero gradients": unused,
}  # fmt: skip

BY_HAND = {"mlp", "zero gradients"}  # test_dense_chain.py compares these with book-keeping in TensorFlow


def data_for(model, blobs, *, scale=1.0):
    data = blobs(N, features=16)
    if getattr(model, "input_shape", ())[1:] == (6,):
        return dataclasses.replace(data, x=np.random.default_rng(0).integers(0, 9, (N, 6)).astype(np.float32))
    return dataclasses.replace(data, x=scale * data.x)


def functions_of(model, data):
    for variable in model.trainable_variables:
        if variable.name in {"gamma", "beta", "bias"}:
            variable.assign(variable + 0.1 * np.random.default_rng(1).standard_normal(variable.shape))
    return ClientFunctions(model, data.x.shape[1:])


def engines_of(functions, data, *, clip_norm):
    fast = engines.FedSgdEngine(functions, data, root=3, clip_norm=clip_norm)
    return fast, engines.FedSgdEngine(functions, data, root=3)


def both(model, data, *, clip_norm):
    """Engines on the two paths over the same functions, and the weights."""
    return *engines_of(functions_of(model, data), data, clip_norm=clip_norm), models.get_weights(model)


def cohort_of(units):
    everyone = np.ones(6, bool)
    return Cohort(number=0, sampled=everyone, answered=everyone, units=np.asarray(units, np.int64))


def eager_rows(model, data, units):
    """One gradient tape per example. Stands in for `vectorized_map` where TensorFlow 2.21 crashes (see below)."""
    rows = []
    for unit in units:
        with tf.GradientTape() as tape:
            logits = model(data.x[unit : unit + 1], training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=data.y[unit : unit + 1], logits=logits)
        parts = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        rows.append(np.concatenate([np.asarray(tf.convert_to_tensor(part)).ravel() for part in parts]))
    return np.stack(rows)


@pytest.fixture(scope="module", params=list(KNOWN))
def known(request, blobs):
    """A model, and the gradients of single examples by the slow path; TensorFlow traces it once for all clip norms."""
    keras.utils.set_random_seed(3)
    model = KNOWN[request.param]()
    data = data_for(model, blobs)
    functions, weights = functions_of(model, data), models.get_weights(model)
    cohort = cohort_of([3, 0, 7, 11, 4])
    _, slow = engines_of(functions, data, clip_norm=1.0)
    assert slow.clipping_path == "vectorized_map: the aggregator clips single rows"
    if model.input_shape[1:] == (6,):  # recurrent and attention: vectorized_map cannot be trusted with them
        rows = eager_rows(model, data, cohort.units)
    else:
        rows = next(iter(slow.run_cohort(weights, cohort))).rows
    return SimpleNamespace(
        name=request.param, functions=functions, data=data, weights=weights, cohort=cohort, rows=rows
    )  # fmt: skip


@pytest.mark.parametrize("clip_norm", [0.5, 50.0])
def test_both_paths_give_the_same_norms_and_the_same_clipped_sum(known, clip_norm):
    fast, _ = engines_of(known.functions, known.data, clip_norm=clip_norm)
    assert fast.clipping_path == ("book-keeping (dense chain)" if known.name in BY_HAND else "book-keeping")
    (block,) = fast.run_cohort(known.weights, known.cohort)
    assert isinstance(block, ClippedSum)
    np.testing.assert_allclose(block.norms, np.linalg.norm(known.rows, axis=1), rtol=1e-4, atol=1e-12)
    truth = clipping.clipped_sum(known.rows, clip_norm=clip_norm)
    np.testing.assert_allclose(block.total, truth, rtol=1e-3, atol=2e-5 * np.abs(truth).max())
    np.testing.assert_array_equal(block.total, next(iter(fast.run_cohort(known.weights, known.cohort))).total)


def test_the_model_is_left_as_it_was(blobs):
    model = attention()
    before = [(layer, dict(vars(layer))) for layer in model._flatten_layers()]
    fast, _, weights = both(model, data_for(model, blobs), clip_norm=1.0)
    list(fast.run_cohort(weights, cohort_of([1, 2])))
    for layer, state in before:
        assert vars(layer).keys() == state.keys()
        assert "call" not in state
        assert vars(layer).get("activation") is state.get("activation")


class Scaled(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) / tf.reduce_max(inputs)


class Tied(keras.Model):
    def __init__(self):
        super().__init__()
        self.one = layers.Dense(3)

    def call(self, inputs, training=None):
        return self.one(inputs)


def shared():
    inputs, one = keras.Input((16,)), layers.Dense(16, activation="relu")
    return keras.Model(inputs, layers.Dense(3)(one(one(inputs))))


def crosses_examples():
    """(batch, 16) + (batch, 1, 16) is (batch, batch, 16)."""
    inputs = keras.Input((16,))
    crossed = layers.Dense(16)(inputs) + layers.Reshape((1, 16))(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(crossed)))


def averages_the_batch():
    inputs = keras.Input((16,))
    return keras.Model(inputs, layers.Dense(3)(inputs - keras.ops.mean(inputs, axis=0, keepdims=True)))


UNKNOWN = {
    "ConvLSTM1D": lambda: sequential(layers.Reshape((2, 4, 2)), layers.ConvLSTM1D(2, 2), layers.Flatten()),
    "recurrent activation of its own": lambda: sequential(square, layers.GRU(3, recurrent_activation=lambda x: x / 2)),
    "drops inputs": lambda: sequential(square, layers.LSTM(3, dropout=0.5)),
    "(RNN) has no book-keeping rule": lambda: sequential(square, layers.RNN(layers.GRUCell(3))),
    "parameters without a book-keeping rule": attends(lambda x: layers.Attention(use_scale=True)([x, x])),
    "Lambda": lambda: sequential(layers.Lambda(abs)),
    "Scaled": lambda: sequential(Scaled(4)),
    "neither functional nor sequential": Tied,
    "used more than once": shared,
    "(Add) is not a layer": crosses_examples,
    "(Mean) is not a layer": averages_the_batch,
    "activation of its own": lambda: sequential(layers.Dense(4, activation=lambda x: x - tf.reduce_mean(x))),
    "grouped": lambda: sequential(layers.Reshape((4, 4)), layers.Conv1D(4, 2, groups=2), layers.Flatten()),
    "normalises along axis": lambda: sequential(square, layers.LayerNormalization(axis=1), layers.Flatten()),
    "works along axis": lambda: sequential(square, layers.Softmax(axis=-2), layers.Flatten()),
    "computes in": lambda: sequential(layers.Dense(4, dtype="mixed_bfloat16")),
    "GaussianNoise": lambda: sequential(layers.GaussianNoise(0.1)),
}


@pytest.mark.parametrize("reason", list(UNKNOWN))
def test_what_is_not_known_falls_back_and_says_why(reason, blobs):
    model = UNKNOWN[reason]()
    if not model.built:
        model(np.zeros((1, 16), np.float32))
    data = data_for(model, blobs)
    functions = ClientFunctions(model, data.x.shape[1:])
    engine = engines.FedSgdEngine(functions, data, root=3, clip_norm=1.0)
    assert engine.clipping_path.startswith("vectorized_map: ")
    assert reason in engine.clipping_path
    slow = {"ConvLSTM1D", "drops inputs", "(RNN) has no book-keeping rule", "parameters without a book-keeping rule"}
    slow |= {"recurrent activation of its own"}  # loops and batched products: see test_per_example.py
    if reason not in slow | {"(Add) is not a layer"}:  # Keras itself cannot add its (1, 16) and (1, 1, 16)
        (block,) = engine.run_cohort(models.get_weights(model), cohort_of([1, 2]))
        assert block.rows.shape == (2, functions.parameters)


def token_model():
    tokens = keras.Input((5,))
    x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(tokens))
    return keras.Model(tokens, layers.Dense(3)(x))


@pytest.mark.parametrize("path", ["book-keeping", "rows", "clients"])
def test_data_that_cannot_be_computed_with_fail_their_unit_and_not_the_round(make_config, blobs, path):
    """A token that the vocabulary lacks, or that is no number, makes TensorFlow refuse the whole batch."""
    model, clip_norm = token_model(), 0.2
    good = blobs(24, clients=6)
    x = np.random.default_rng(0).integers(0, 9, (24, 5)).astype(np.float32)
    broken = x.copy()
    broken[2, 1], broken[10, 0], broken[21, 4] = 9.0, -10.0, np.nan  # client 2, client 4, client 3
    config, weights = make_config(client_level=path == "clients"), models.get_weights(model)
    found = []
    for features in (x, broken):
        data = dataclasses.replace(good, x=features)
        functions = ClientFunctions(model, (5,))
        if path == "clients":
            engine = engines.FedAvgEngine(functions, data, config.training, root=3)
        else:
            engine = engines.FedSgdEngine(
                functions, data, root=3, clip_norm=clip_norm if path == "book-keeping" else None
            )
        units = np.arange(6 if path == "clients" else 24)
        found.append(list(engine.run_cohort(weights, cohort_of(units))))
    refused = [part for part in found[1] if isinstance(part, clipping.Rejected)]
    whose = [2, 3, 4] if path == "clients" else [2, 10, 21]
    assert sorted(part.unit for part in refused) == whose
    assert {part.reason for part in refused} == {"its data cannot be computed with"}, "no value of anybody's data"
    kept = [part for part in found[1] if not isinstance(part, clipping.Rejected)]
    rest = np.setdiff1d(units, whose)
    np.testing.assert_array_equal(np.sort(np.concatenate([part.units for part in kept])), rest)
    if path == "book-keeping":
        (clean,) = engines.FedSgdEngine(
            ClientFunctions(model, (5,)), dataclasses.replace(good, x=x), root=3, clip_norm=clip_norm
        ).run_cohort(weights, cohort_of(rest))
        np.testing.assert_allclose(sum(part.total for part in kept), clean.total, rtol=1e-4, atol=1e-6)
        return
    rows = {int(unit): row for part in kept for unit, row in zip(part.units, part.rows, strict=True)}
    truth = {int(unit): row for part in found[0] for unit, row in zip(part.units, part.rows, strict=True)}
    for unit, row in rows.items():
        np.testing.assert_allclose(row, truth[unit], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_trained_on_rows_near_those_of_full_precision(blobs, policy):
    data, rows = blobs(N, features=16), {}
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(4)
        model = keras.Sequential([
            keras.Input((16,)), layers.Dense(6, activation="relu", dtype=dtype), layers.Dense(3, dtype=dtype)
        ])  # fmt: skip
        functions = ClientFunctions(model, (16,))
        engine = engines.FedSgdEngine(functions, data, root=3)
        (block,) = engine.run_cohort(models.get_weights(model), cohort_of(range(N)))
        rows[dtype] = block.rows
    assert rows[policy].dtype == np.float32
    assert "computes in" in functions.no_bookkeeping
    np.testing.assert_allclose(rows[policy], rows["float32"], atol=0.05)


def test_low_rank_adapters_fall_back(blobs):
    model = sequential(layers.Dense(6))
    model.layers[0].enable_lora(2)
    functions = ClientFunctions(model, (16,))
    assert "without a book-keeping rule" in functions.no_bookkeeping


BAD = {"nan": np.nan, "inf": np.inf, "huge": 1e25, "large": 1e15}


def server_for(config, data, width):
    training = config.training
    population = Population(clients=6, client_of=data.client)
    plan = Plan(training=training, population=population, canaries=NO_CANARIES, root=1, direction=1.0)
    ledger = PrivacyLedger()
    server = Server(
        plan,
        aggregator=GaussianSum(clip_norm=training.clip_norm, noise_multiplier=1.0),
        optimizer=make_optimizer(training),
        weights=np.zeros(width),
        ledger=ledger,
    )
    return server, ledger


@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("positions", [[4], [0, 3, 4, 7, 11]])
def test_bad_examples_are_rejected_or_clipped_as_on_the_path_of_rows(make_config, blobs, bad, positions):
    model = sequential(layers.Dense(5))
    data = blobs(N, features=16)
    data.x[positions, 2] = BAD[bad]
    fast, slow, weights = both(model, data, clip_norm=1.0)
    cohort = cohort_of([3, 0, 7, 11, 4])
    seen = []
    for engine in (fast, slow):
        server, _ = server_for(make_config(), data, weights.size)
        server.weights = weights
        seen.append(server.collect(cohort, engine.run_cohort(weights, cohort)))
    left, right = seen
    assert left.accepted == right.accepted
    assert left.rejected == right.rejected
    assert len(left.rejected) == (len(positions) if bad in {"nan", "inf"} else 0)
    np.testing.assert_array_equal(left.arrived, right.arrived)
    np.testing.assert_allclose(left.total, right.total, rtol=1e-3, atol=1e-4)
    assert np.linalg.norm(left.total) <= left.accepted * (1 + 1e-6)


def test_chunks_do_not_change_the_sum(blobs, monkeypatch):
    model = KNOWN["cnn"]()
    fast, _, weights = both(model, data_for(model, blobs), clip_norm=1.0)
    (whole,) = fast.run_cohort(weights, cohort_of(range(10)))
    monkeypatch.setattr(engines, "CHUNK_BYTES", 4 * fast._functions.bookkeeping_bytes)
    parts = list(fast.run_cohort(weights, cohort_of(range(10))))
    assert [part.units.size for part in parts] == [4, 4, 2]
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-4, atol=1e-5)
    assert list(fast.run_cohort(weights, cohort_of([]))) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip_norm": 2.0}, "clipped to 2.0 by the engine, where the aggregator clips to 1.0"),
        ({"total": np.zeros(4)}, "shape (4,) instead of (3,)"),
        ({"total": np.array([0.0, np.nan, 0.0])}, "NaN or infinity"),
        ({"norms": np.array([1.0, np.inf], np.float32)}, "NaN or infinity"),
        ({"norms": np.ones(3, np.float32)}, "3 contributions for 2 units"),
        ({"total": np.full(3, 1.2)}, "norm 2.07846 of the sum of 2, each clipped to 1"),
        ({"units": np.array([0, 5000])}, "summed with unit 5000: not in this round's cohort"),
        ({"units": np.array([0, 0])}, "summed with unit 0: sent a second time"),
    ],
)
def test_a_sum_that_does_not_fit_is_left_out_whole(make_config, blobs, change, reason):
    server, _ = server_for(make_config(), blobs(N), 3)
    good = ClippedSum(units=np.array([0, 1]), total=np.ones(3), norms=np.ones(2, np.float32), clip_norm=1.0)
    collected = server.collect(cohort_of([0, 1]), [dataclasses.replace(good, **change)])
    assert collected.accepted == 0
    np.testing.assert_array_equal(collected.total, 0.0)
    assert {item.reason for item in collected.rejected} == {reason}
    fine = server.collect(cohort_of([0, 1]), [good])
    assert (fine.accepted, fine.rejected) == (2, ())
    np.testing.assert_array_equal(fine.total, 1.0)


def test_a_run_on_either_path_releases_the_same_up_to_rounding(make_config, data, tmp_path, monkeypatch):
    from dpaudit.federated import run_files
    from dpaudit.federated.trainer import train

    def run(name):
        out = tmp_path / name
        train(
            make_config(), data, root=9, out=out, noise_multiplier=1.1, resume=False,
            progress=lambda done, planned: None, ledger_facts={},
        )  # fmt: skip
        with np.load(out / run_files.CHECKPOINT) as archive:
            return archive["weights"], PrivacyLedger.open(out / run_files.LEDGER)

    fast, told = run("fast")
    monkeypatch.setattr(ClientFunctions, "no_bookkeeping", "switched off")
    slow, told_slow = run("slow")
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)
    assert told.facts["clipping_path"] == "book-keeping (dense chain)"
    assert told_slow.facts["clipping_path"] == "vectorized_map: switched off"
