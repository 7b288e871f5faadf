"""Gradient inversion: rebuild a client's records from its update, and measure it against what anybody could guess.

Two attacks. `invert_dense` reads a record off the gradient of a first dense layer with bias (Phong et al. 2018: dW/db).
`invert` searches for records whose gradient points the way of the update (Geiping et al., arXiv:2003.14053). A rebuilt
record is worth something only if it is nearer to the truth than the best guess without the update, so that every result
carries two baselines on the same records: the mean record, and the nearest record of a public population.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError, MissingDependency

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionResult:
    """Mean squared errors per feature after the best matching of rebuilt to true records.

    `better` is the share of records that are rebuilt more closely than by both baselines.
    """

    error: float
    mean_baseline: float
    population_baseline: float
    better: float
    records: int


def invert_dense(kernel: NDArray[np.floating], bias: NDArray[np.floating]) -> Floats:
    """Return one guess of the input for each unit of a first dense layer whose bias gradient is not 0, (guesses, d).

    Each is dW[:, j] / db[j]: for the gradient of one record exactly that record, for a sum of records a mixture.

    Args:
        kernel: gradient of the layer's kernel (d, units).
        bias: gradient of its bias (units,).

    Raises: DataError when shapes do not fit, or no unit was active.
    """
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
        raise DataError(f"kernel must be (d, units) and bias (units,); got {kernel.shape} and {bias.shape}.")
    size = np.abs(bias)
    active = np.flatnonzero(size > 1e-6 * size.max(initial=0.0))
    if active.size == 0:
        raise DataError("no unit of the layer was active: the gradient of its bias is zero.")
    order = active[np.argsort(-size[active])]
    return np.asarray((kernel[:, order] / bias[order]).T, dtype=np.float64)


def invert(
    model: Any,
    gradient: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    low: float,
    high: float,
    steps: int = 400,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return records (len(labels), ...) whose gradient has the largest cosine with an observed one.

    Args:
        model: a Keras model that returns logits, at the weights of the round.
        gradient: the observed update as a gradient, flat (p,), any scale.
        labels: classes of the records (they can be read off an update; they are given to the attacker here).
        low: smallest value of a feature.
        high: largest value of a feature.
        steps: of Adam on the records.
        learning_rate: of Adam, in units of high - low.
        seed: of the start.

    Raises: DataError for a gradient of another width; MissingDependency without TensorFlow.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency("gradient inversion needs TensorFlow: pip install 'dpaudit[train]'.") from error
    variables = [v.value for v in model.trainable_variables]
    width = sum(int(np.prod(v.shape)) for v in variables)
    if gradient.shape != (width,):
        raise DataError(f"the gradient must have one entry per parameter, ({width},); got {gradient.shape}.")
    goal = tf.constant(gradient / max(float(np.linalg.norm(gradient)), 1e-30), tf.float32)
    y = tf.constant(labels, tf.int32)
    shape = (len(labels), *model.input_shape[1:])
    start = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)

    def slope(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=model(x, training=False))
                loss = tf.reduce_mean(losses)
            parts = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            flat = tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)
            distance = 1.0 - tf.tensordot(flat, goal, 1) / tf.maximum(tf.norm(flat), 1e-12)
        return outer.gradient(distance, x)

    return _adam(tf.function(slope), start, low=low, high=high, steps=steps, rate=learning_rate * (high - low))


def _adam(
    slope: Any, x: NDArray[np.float32], *, low: float, high: float, steps: int, rate: float
) -> NDArray[np.float32]:
    """Walk down the slope inside [low, high]; the rate falls to a tenth over the last half."""
    first, second = np.zeros(x.shape), np.zeros(x.shape)
    for step in range(1, steps + 1):
        now = np.asarray(slope(_tensor(x)))
        first, second = 0.9 * first + 0.1 * now, 0.999 * second + 0.001 * now**2
        size = rate * min(1.0, 0.1 + 1.8 * (1 - step / steps))
        moved = x - size * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-12)
        x = np.clip(moved, low, high).astype(np.float32)
    return x


def _tensor(x: NDArray[np.float32]) -> Any:
    import tensorflow as tf

    return tf.constant(x)


def judge_inversion(
    rebuilt: NDArray[np.floating], truth: NDArray[np.floating], population: NDArray[np.floating]
) -> InversionResult:
    """Compare rebuilt with true records, each true record with the rebuilt one that the best matching gives it.

    Args:
        rebuilt: guesses (g, ...), g >= the number of records.
        truth: the records (b, ...).
        population: public records (z, ...), without the truth.

    Raises: DataError for fewer guesses than records, or shapes that do not fit.
    """
    from scipy.optimize import linear_sum_assignment

    guess, real, public = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (rebuilt, truth, population))
    if len(guess) < len(real) or guess.shape[1:] != real.shape[1:] or public.shape[1:] != real.shape[1:]:
        raise DataError(f"shapes must fit, guesses no fewer than records; got {guess.shape}, {real.shape}.")
    errors = _errors(real, guess)
    row, column = linear_sum_assignment(errors)
    own = errors[row, column]
    mean = _errors(real, public.mean(axis=0, keepdims=True))[:, 0]
    nearest = _errors(real, public).min(axis=1)
    return InversionResult(
        error=float(own.mean()),
        mean_baseline=float(mean.mean()),
        population_baseline=float(nearest.mean()),
        better=float(np.mean(own < np.minimum(mean, nearest))),
        records=len(real),
    )


def _errors(one: Floats, many: Floats) -> Floats:
    return np.stack([np.square(many - row).mean(axis=1) for row in one])
