"""The functions that a device runs, as TensorFlow graphs of operations that LiteRT has."""

from typing import Any

import numpy as np

from dpaudit.federated import bookkeeping
from dpaudit.federated.device_layers import trainable_activations
from dpaudit.federated.layer_rules import TINY
from dpaudit.federated.models import training_flag

Signatures = dict[str, Any]
_LARGEST = 1e6
"""Sums of squares of products of two such numbers stay below the largest float32 with room for 10^13 terms."""


class DeviceGraph:
    """The training of one client as pure functions of one flat weight vector; nothing is kept between calls.

    Batches have a fixed size: with an open one TensorFlow inserts shape arithmetic into the gradient that LiteRT does
    not have. How many examples and how many steps there are stays open.
    """

    def __init__(self, model: Any, input_shape: tuple[int, ...], *, classes: int, batch_size: int) -> None:
        """Describe the training of `model`, of which `device_layers.check_trainable` must know every layer."""
        self._model, self._input_shape = model, input_shape
        self._classes, self._batch = classes, batch_size
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self._fixed = [np.asarray(v.value) for v in model.non_trainable_variables]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(self._sizes)

    def signatures(self, *, private: bool) -> Signatures:
        """Return the traced functions by name: `logits` and `update`, or `private_step` instead of the latter."""
        import tensorflow as tf

        vector, number = tf.TensorSpec([self.parameters]), tf.TensorSpec([])
        examples, batch = ([size, *self._input_shape] for size in (None, self._batch))
        logits = [("weights", vector), ("x", tf.TensorSpec(batch))]
        update = [
            ("weights", vector), ("x", tf.TensorSpec(examples)), ("y", tf.TensorSpec([None], tf.int32)),
            ("index", tf.TensorSpec([None, self._batch], tf.int32)), ("mask", tf.TensorSpec([None, self._batch])),
            ("learning_rate", number), ("clip_norm", number),
        ]  # fmt: skip
        step = [
            ("weights", vector), ("x", tf.TensorSpec(batch)), ("y", tf.TensorSpec([self._batch], tf.int32)),
            ("mask", tf.TensorSpec([self._batch])), ("noise", vector), ("learning_rate", number), ("clip_norm", number),
        ]  # fmt: skip
        found = {"logits": _traced(self._logits, logits)}
        if private:
            return found | {"private_step": _traced(self._private_step, step)}
        return found | {"update": _traced(self._update, update)}

    def _parts(self, weights: Any) -> list[Any]:
        import tensorflow as tf

        return [tf.reshape(p, s) for p, s in zip(tf.split(weights, self._sizes), self._shapes, strict=True)]

    def _call(self, parts: list[Any], x: Any, *, training: bool) -> Any:
        flag = training_flag(self._model, training)
        return self._model.stateless_call(parts, self._fixed, x, **flag)[0]

    def _slope(self, logits: Any, y: Any) -> Any:
        """Return the gradient of every example's cross-entropy with respect to its logits."""
        import tensorflow as tf

        return tf.nn.softmax(logits) - tf.one_hot(y, self._classes)

    def _logits(self, weights: Any, x: Any) -> Any:
        return {"logits": self._call(self._parts(weights), x, training=False)}

    def _update(self, weights: Any, x: Any, y: Any, *rest: Any) -> Any:
        """Local SGD over the steps of `index` (steps, batch), as `LocalUpdates` does it, and the clip of its delta."""
        import tensorflow as tf

        index, mask, rate, clip_norm = rest
        steps = tf.shape(index)[0]

        def step(number: Any, *parts: Any) -> Any:
            batch, present = tf.gather(index, number), tf.gather(mask, number)
            share = rate * present / tf.maximum(tf.reduce_sum(present), 1.0)
            with trainable_activations(self._model), tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(parts)
                logits = self._call(list(parts), tf.gather(x, batch), training=True)
            slope = share[:, None] * self._slope(logits, tf.gather(y, batch))
            gradients = tape.gradient(logits, parts, slope, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return number + 1, *(part - gradient for part, gradient in zip(parts, gradients, strict=True))

        start = (tf.constant(0), *self._parts(weights))
        _, *ends = tf.while_loop(lambda number, *_: number < steps, step, start, parallel_iterations=1)
        delta = tf.concat([tf.reshape(end, [-1]) for end in ends], axis=0) - weights
        clipped, norm = _clipped(delta, clip_norm)
        return {"delta": clipped, "norm": norm}

    def _private_step(self, weights: Any, x: Any, y: Any, *rest: Any) -> Any:
        """One step of DP-SGD (Abadi et al., arXiv:1607.00133): clip every example's gradient, sum, add `noise`.

        The divisor is the size of the batch, padding included: it is public, and does not depend on who is there.
        An example with numbers beyond `_LARGEST` on its way counts as zero. Arithmetic in LiteRT saturates where IEEE
        754 overflows to infinity, so that a large gradient would pass for a small one, and a device that fell silent
        instead would tell the server about it, as the server chose the weights.
        """
        import tensorflow as tf

        mask, noise, rate, clip_norm = rest
        parts = self._parts(weights)
        with trainable_activations(self._model), tf.GradientTape(watch_accessed_variables=False) as tape:
            trace = bookkeeping.Trace(self._model, tape)
            with trace.tapped():
                logits = self._call(parts, x, training=True)
            # Linear in the logits with the slope of the loss: its gradient is that of the summed loss.
            loss = tf.reduce_sum(logits * tf.stop_gradient(self._slope(logits, y)))
        total, _ = bookkeeping.clipped_sum(trace.parts(loss, largest=_LARGEST), clip_norm=clip_norm, mask=mask)
        return {"weights": weights - rate / float(self._batch) * (total + noise)}


def _clipped(vector: Any, clip_norm: Any) -> tuple[Any, Any]:
    """Return a vector of L2 norm at most `clip_norm` (infinity: as it is), and its norm before, rounded up.

    In units of the largest entry, so that no square overflows. What is not finite stays so, for the server to reject.
    """
    import tensorflow as tf

    largest = tf.maximum(tf.reduce_max(tf.abs(vector)), TINY)
    norm = (1.0 + bookkeeping.ROUNDING) * tf.sqrt(tf.reduce_sum(tf.square(vector / largest)))
    return vector * tf.minimum(1.0, clip_norm / largest / norm), norm * largest


def _traced(function: Any, arguments: list[tuple[str, Any]]) -> Any:
    import tensorflow as tf

    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in arguments]

    def call(*tensors: Any) -> Any:
        return function(*tensors)

    return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
