"""From a Keras model and a configuration to the file of a device client, checked before it is written."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import __version__, serialize
from dpaudit.config import RunConfig, TrainingSection
from dpaudit.device.client import DeviceClient
from dpaudit.device.container import Description, LocalDp, pack
from dpaudit.device.order import local_batches
from dpaudit.errors import DataError, DpauditError, MissingDependency, UsageError
from dpaudit.federated import bookkeeping, models
from dpaudit.federated.clients import ClientFunctions
from dpaudit.federated.clipping import clipped_sum
from dpaudit.federated.data import Dataset, prepare
from dpaudit.federated.device_graph import DeviceGraph, Signatures
from dpaudit.federated.device_layers import check_trainable, vocabulary
from dpaudit.federated.layer_rules import Unsupported
from dpaudit.federated.run_files import MODEL

Vector = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
TOLERANCE = 1e-5
"""How far a converted function may be from TensorFlow's, relative to the largest number (at least 1)."""
_CUSTOM = 32
_STEPS = 8


def make_client(
    model: Any,
    training: TrainingSection,
    check_on: Dataset,
    *,
    local_dp: LocalDp | None = None,
    functions: ClientFunctions | None = None,
) -> bytes:
    """Return the file of a device client, after it gave TensorFlow's numbers on examples of `check_on`.

    Args:
        model: a built Keras model.
        training: local epochs, batch size, learning rate, and the clip norm (left to the server with tfp-adaptive-clip,
            which needs to see how large updates are).
        check_on: data of the run; a few examples are used to compare, and none is stored.
        local_dp: make every local step private.
        functions: the compiled functions of `model`, if there are some, to compare with.

    Raises: UsageError, with the layers' names, for a model that LiteRT cannot train; DpauditError when the converted
        functions give other numbers; MissingDependency without ai-edge-litert.
    """
    _needs_litert()
    check_trainable(model)
    if local_dp is not None:
        _check_local_dp(model)
    input_shape = tuple(check_on.x.shape[1:])
    graph = DeviceGraph(model, input_shape, classes=check_on.classes, batch_size=training.local_batch_size)
    flatbuffer = _convert(graph.signatures(private=local_dp is not None))
    about = Description(
        parameters=graph.parameters,
        input_shape=input_shape,
        vocabulary=vocabulary(model),
        classes=check_on.classes,
        batch_size=training.local_batch_size,
        epochs=training.local_epochs,
        learning_rate=training.local_learning_rate,
        clip_norm=None if training.aggregator == "tfp-adaptive-clip" else training.clip_norm,
        local_dp=local_dp,
        identity=identity(model, training, input_shape, local_dp=local_dp),
        made_by=_made_by(),
    )
    data = pack(flatbuffer, about)
    _compare(DeviceClient(data), functions or ClientFunctions(model, input_shape), model, check_on)
    return data


def export_client(config: RunConfig, out: Path, *, local_dp: LocalDp | None = None) -> Description:
    """Write the device client of a configuration to `out`, whole or not at all; return what it says of itself.

    Raises: UsageError for dp-fedsgd, and for a model with frozen weights that are drawn at random (the run would have
        others); what `make_client` raises.
    """
    check_algorithm(config.training)
    data = prepare(config, root=0).train
    model, other = (models.build_model(config.model, data.x.shape[1:], data.classes, root=root) for root in (0, 1))
    if models.frozen_digest(model) != models.frozen_digest(other):
        raise UsageError(
            "the model has weights that are not trained and are drawn at random, so that the run's server has others "
            "than this file would: load them from a file in model.builder, or train them."
        )
    packed = make_client(model, config.training, data, local_dp=local_dp)
    serialize.write_atomic(out, packed)
    return DeviceClient(packed).description


def export_model(config: RunConfig, run: Path, out: Path) -> None:
    """Write the trained model of the run in folder `run` (or a .keras file) to `out`, for inference.

    Raises: DataError without a readable model there; UsageError for one that LiteRT's built-in operators cannot run,
        or that takes other data than those of `config`; DpauditError when its outputs differ from TensorFlow's.
    """
    import tensorflow as tf

    _needs_litert()
    path = run / MODEL if run.is_dir() else run
    if not path.is_file():
        raise DataError(f"there is no trained model {path}; finish the run, or name a .keras file.")
    model, x = models.load_model(path), prepare(config, root=0).train.x[:64]
    if tuple(model.input_shape[1:]) != x.shape[1:]:
        raise UsageError(
            f"{path} takes examples of shape {model.input_shape[1:]}; those of the data are {x.shape[1:]}."
        )
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        flatbuffer = _converted(tf.lite.TFLiteConverter.from_saved_model(folder))
    _check_builtin(flatbuffer)
    _same("the trained model", _outputs(flatbuffer, x), models.logits_of(model, x))
    serialize.write_atomic(out, flatbuffer)


def _outputs(flatbuffer: bytes, x: Floats) -> Floats:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=flatbuffer, num_threads=1).get_signature_runner()
    (given,) = runner.get_input_details()
    return np.asarray(next(iter(runner(**{given: np.ascontiguousarray(x)}).values())))


def check_algorithm(training: TrainingSection) -> None:
    """Raise UsageError unless clients send whole updates."""
    if training.algorithm == "dp-local":
        raise UsageError(
            "training.algorithm = 'dp-local' draws local batches by coins that its server checks; a LiteRT client does "
            "not. Use dp-fedavg or dp-ftrl; for noise in every local step of a device: export-device --local-dp."
        )
    if not training.protects_clients:
        raise UsageError(
            f"training.algorithm = {training.algorithm!r} sums a clipped gradient of every example on the server; a "
            "device sends one update. Use dp-fedavg or dp-ftrl."
        )


def identity(
    model: Any, training: TrainingSection, input_shape: tuple[int, ...], *, local_dp: LocalDp | None = None
) -> str:
    """Return a digest of the layers, the shapes and the local training: what server and device must agree on.

    Names are left out: Keras counts them up within a process. So are trained weights, which travel with every round;
    weights that are not trained are in the file, and in the digest.
    """
    layers = [
        [type(layer).__name__, getattr(getattr(layer, "activation", None), "__name__", None)]
        for layer in model._flatten_layers(include_self=False)
    ]
    facts = {
        "input_shape": input_shape,
        "layers": layers,
        "frozen": models.frozen_digest(model),
        "variables": [tuple(int(size) for size in v.shape) for v in model.trainable_variables],
        "epochs": training.local_epochs,
        "batch_size": training.local_batch_size,
        "learning_rate": training.local_learning_rate,
        "local_dp": local_dp,
    }
    return hashlib.sha256(serialize.dumps(facts, indent=None).encode()).hexdigest()


def _needs_litert() -> None:
    try:
        import ai_edge_litert.interpreter  # noqa: F401 - every exported file is run before it is written
    except ImportError as error:
        raise MissingDependency(f"a device client needs LiteRT: pip install 'dpaudit[litert]' ({error}).") from error


def _made_by() -> str:
    import tensorflow as tf

    return f"dpaudit {__version__}, tensorflow {tf.__version__}"


def _check_local_dp(model: Any) -> None:
    try:
        bookkeeping.check_layers(model)
    except Unsupported as reason:
        raise UsageError(
            f"local DP-SGD needs the norm of every example's gradient in closed form, and {reason}. Use other layers, "
            "or leave local DP out."
        ) from reason


def _convert(signatures: Signatures) -> bytes:
    """Return the flatbuffer of traced functions; only built-in operators.

    Raises: UsageError naming the operations for which LiteRT has none.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures=signatures)
        flatbuffer = _converted(tf.lite.TFLiteConverter.from_saved_model(folder))
    _check_builtin(flatbuffer)
    return flatbuffer


def _converted(converter: Any) -> bytes:
    import tensorflow as tf

    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return bytes(converter.convert())
    except Exception as error:
        told = [line for line in str(error).splitlines() if "ops: " in line]
        raise UsageError(
            "TensorFlow cannot convert this model to LiteRT's built-in operators: "
            f"{'; '.join(told) or str(error)[:500]}. Use Dense, Embedding, LayerNormalization or MultiHeadAttention."
        ) from error


def _check_builtin(flatbuffer: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(flatbuffer)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    custom = [str(code.CustomCode()) for code in codes if code.BuiltinCode() == _CUSTOM]
    if custom:
        raise UsageError(f"the converted model needs operators that devices do not have: {', '.join(custom)}.")


def _compare(client: DeviceClient, functions: ClientFunctions, model: Any, data: Dataset) -> None:
    """Raise DpauditError unless the file gives the numbers of the in-process engine on a few examples and steps."""
    about = client.description
    size = about.batch_size
    x, y = np.asarray(data.x[: 3 * size], np.float32), np.asarray(data.y[: 3 * size], np.int32)
    index, mask = local_batches(1, len(y), epochs=about.epochs, batch=size)
    index, mask = index[:_STEPS], mask[:_STEPS]
    initial = models.get_weights(model)
    moved = initial + 0.05 * np.random.default_rng(0).standard_normal(initial.size)
    for weights in (initial, moved):
        _same("logits", client.logits(weights, x), functions.logits(weights, x))
        flat = weights.astype(np.float32)
        if about.local_dp is None:
            delta, _ = client.train(flat, x, y, index=index, mask=mask, clip_norm=None)
            _same("local SGD", delta, _sgd(functions, weights, x, y, index, mask, about.learning_rate))
        else:
            first, present, none = index[0], mask[0], np.zeros_like(flat)
            found = client.private_step(flat, x[first], y[first], mask=present, noise=none) - flat
            _same("a private step", found, _private_step(functions, weights, x, y, first[present > 0], about))


def _same(what: str, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if not np.isfinite(expected).all():
        raise UsageError(f"{what} diverges on the data of the run: scale the features, or lower the learning rate.")
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(np.asarray(found, np.float64) - expected).max())
    if not difference <= allowed:
        raise DpauditError(
            f"{what} in LiteRT is {difference:g} away from TensorFlow's, where {allowed:g} is allowed, so that no file "
            "was written. Please report the model; training in process is not concerned."
        )


def _sgd(
    functions: ClientFunctions, weights: Vector, x: Floats, y: Ints, index: Ints, mask: Floats, rate: float
) -> Floats:
    examples = functions.place(x, y)
    rows = functions.local_updates(
        weights, examples, index=index[None], mask=mask[None], learning_rate=rate, seed=(0, 0)
    )
    return np.asarray(rows[0])


def _private_step(
    functions: ClientFunctions, weights: Vector, x: Floats, y: Ints, batch: Ints, about: Description
) -> Vector:
    """Return the change of one step of DP-SGD without noise, from single gradients, clipped in float64."""
    import tensorflow as tf

    if about.local_dp is None:
        raise UsageError("there is no private step without local DP.")
    rows = functions.per_example_gradients(weights, tf.constant(x), tf.constant(y), batch.astype(np.int64), seed=(0, 0))
    total = clipped_sum(rows, clip_norm=about.local_dp.clip_norm)
    return np.asarray(-about.learning_rate / about.batch_size * total)
