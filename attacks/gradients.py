"""What a white-box attacker computes of a Keras model: gradients of the loss on every record."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError, MissingDependency

_NUMBERS = 1 << 24  # gradient entries held at a time


def gradient_facts(
    model: Any, x: NDArray[Any], y: NDArray[np.integer], *, earlier: Any | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return the fields `gradient_norm`, and with an earlier snapshot `gradient_alignment`, of `Observed`.

    Args:
        model: the released Keras model; its outputs are logits or probabilities.
        x: records (n, ...).
        y: labels (n,).
        earlier: the same architecture at an earlier time, or None.

    The alignment is the cosine of minus the gradient at the earlier snapshot and the way from there to the released
    weights: training on a record moves the model down that record's gradient.

    Raises: DataError when the models do not fit together or the gradients are not finite; MissingDependency without
        TensorFlow.
    """
    norm, _ = _gradients(model, x, y, None)
    facts = {"gradient_norm": norm}
    if earlier is not None:
        ends = [np.concatenate([np.asarray(v.value).ravel() for v in m.trainable_variables]) for m in (earlier, model)]
        if ends[0].shape != ends[1].shape:
            raise DataError(f"the earlier model has {ends[0].size} parameters, the released one {ends[1].size}.")
        way = ends[1] - ends[0]
        length = float(np.linalg.norm(way))
        if length == 0:
            raise DataError("the earlier model equals the released one; give a snapshot from before the training.")
        before, inner = _gradients(earlier, x, y, way / length)
        facts["gradient_alignment"] = -inner / np.maximum(before, 1e-12)
    for name, values in facts.items():
        if not np.isfinite(values).all():
            raise DataError(f"{name}: {int((~np.isfinite(values)).sum())} gradients are NaN or infinite.")
    return facts


def _gradients(
    model: Any, x: NDArray[Any], y: NDArray[np.integer], direction: NDArray[np.float32] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the norm of each record's gradient, and its inner product with a direction (0 without one)."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency("white-box attacks need TensorFlow: pip install 'dpaudit[train]'.") from error
    variables = model.trainable_variables
    sizes = [int(np.prod(v.shape, dtype=np.int64)) for v in variables]
    way = tf.zeros([sum(sizes)]) if direction is None else tf.constant(direction, tf.float32)
    probable = _outputs_probabilities(model, x)

    def loss(inputs: Any, label: Any) -> Any:
        out = model(inputs[None], training=False)
        if probable:
            out = tf.math.log(tf.maximum(out, 1e-30))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label[None], logits=out)[0]

    def of_one(pair: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(*pair)
        parts = tape.gradient(value, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO)
        flat = tf.concat([tf.reshape(p, [-1]) for p in parts], axis=0)
        return tf.stack([tf.norm(flat), tf.tensordot(flat, way, 1)])

    mapped = tf.function(lambda a, b: tf.vectorized_map(of_one, (a, b)), reduce_retracing=True)
    step = max(1, _NUMBERS // sum(sizes))
    rows = [
        np.asarray(mapped(tf.constant(x[i : i + step]), tf.constant(y[i : i + step], tf.int32)))
        for i in range(0, len(x), step)
    ]
    found = np.concatenate(rows).astype(np.float64)
    return found[:, 0], found[:, 1]


def _outputs_probabilities(model: Any, x: NDArray[Any]) -> bool:
    """Say whether a model ends in a softmax: rows of the first records lie in [0, 1] and sum to 1."""
    rows = np.asarray(model(x[:64], training=False), dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise DataError(f"white-box attacks need a model with one output per class; got shape {rows.shape}.")
    return bool(rows.min() >= 0 and rows.max() <= 1 and np.abs(rows.sum(axis=1) - 1).max() < 1e-3)
