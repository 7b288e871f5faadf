"""Many models of one architecture at a time, in one graph: what shadow, reference and twin models are trained with.

Weights are a matrix (models, parameters), one flat vector per model. Where every parameter sits in a Dense layer the
models are stacked (`dpaudit.federated.stacked`): the examples of all models pass as one batch, and every Dense layer
multiplies each model's part by that model's kernel in one batched product. Other architectures are mapped over the
models with `tf.vectorized_map`, which gives the same numbers more slowly.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated import stacked
from dpaudit.federated.bookkeeping import ROUNDING, clip_factors, replaced
from dpaudit.federated.models import training_flag
from dpaudit.federated.per_example import map_examples

Matrix = NDArray[np.float32]
Ints = NDArray[np.int32]
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-7
_EXAMPLES = 1 << 16  # examples x models per query


class ManyModels:
    """Compiled functions of M models with one architecture; M is open, so that blocks of any size share them."""

    def __init__(self, model: Any, input_shape: tuple[int, ...]) -> None:
        """Declare the functions; each is traced at its first call."""
        import tensorflow as tf

        self._model = model
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self._fixed = [tf.constant(v.value) for v in model.non_trainable_variables]
        weights, x, y = (
            tf.TensorSpec([None, None]),
            tf.TensorSpec([None, *input_shape]),
            tf.TensorSpec([None], tf.int32),
        )
        steps, rows = tf.TensorSpec([None, None, None]), tf.TensorSpec([None, None])
        index3, index2 = tf.TensorSpec([None, None, None], tf.int32), tf.TensorSpec([None, None], tf.int32)
        number = tf.TensorSpec([])
        self._logits = tf.function(self._trace_logits, input_signature=[weights, x])
        signature = [weights, weights, weights, number, x, y, index3, steps, number]
        self._epoch = tf.function(self._trace_epoch, input_signature=signature)
        self._clipped = tf.function(self._trace_clipped, input_signature=[weights, x, y, index2, rows, number])

    @property
    def parameters(self) -> int:
        """Number of trainable parameters of one model."""
        return sum(self._sizes)

    @functools.cached_property
    def unstacked(self) -> str | None:
        """Why these models are mapped and not stacked; None where they are stacked."""
        return stacked.not_stackable(self._model)

    @functools.cached_property
    def unclipped(self) -> str | None:
        """Why `clipped_sums` cannot be had for this architecture; None where it can."""
        if self.unstacked is not None:
            return self.unstacked
        wide = [v.path for v in self._model.layers if v.weights and len(getattr(v, "input", v.output).shape) != 2]
        return f"layers whose inputs are not plain vectors: {', '.join(wide)}" if wide else None

    def _parts(self, weights: Any) -> list[Any]:
        import tensorflow as tf

        pieces = tf.split(weights, self._sizes, axis=1)
        return [tf.reshape(p, [tf.shape(weights)[0], *s]) for p, s in zip(pieces, self._shapes, strict=True)]

    def _call(self, parts: list[Any], x: Any, *, training: bool) -> Any:
        """Return logits (models, batch, classes) of inputs (models, batch, ...)."""
        import tensorflow as tf

        models, batch = tf.shape(x)[0], tf.shape(x)[1]
        flag = training_flag(self._model, training)
        if self.unstacked is None:
            with stacked.stacked(self._model, parts):
                flat = tf.reshape(x, tf.concat([[models * batch], tf.shape(x)[2:]], axis=0))
                flat.set_shape([None, *x.shape[2:]])
                out = self._model.stateless_call([p[0] for p in parts], self._fixed, flat, **flag)[0]
            return tf.reshape(out, [models, batch, out.shape[-1]])
        return map_examples(
            lambda a: self._model.stateless_call(list(a[1:]), self._fixed, a[0], **flag)[0], (x, *parts)
        )

    def _gradient(self, weights: Any, x: Any, y: Any, mask: Any) -> Any:
        """Return the gradient of each model's mean loss over its examples with mask 1."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = self._call(self._parts(weights), x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            share = mask / tf.maximum(tf.reduce_sum(mask, axis=1, keepdims=True), 1.0)
            loss = tf.reduce_sum(losses * share)
        return tape.gradient(loss, weights)

    def _trace_epoch(self, weights: Any, first: Any, second: Any, count: Any, x: Any, y: Any, *rest: Any) -> Any:
        """Take Adam steps (arXiv:1412.6980) over index (models, steps, batch); padded steps carry the momentum on."""
        import tensorflow as tf

        index, mask, rate = rest
        for step in tf.range(tf.shape(index)[1]):
            at = index[:, step]
            gradient = self._gradient(weights, tf.gather(x, at), tf.gather(y, at), mask[:, step])
            count += 1.0
            first = _BETA1 * first + (1 - _BETA1) * gradient
            second = _BETA2 * second + (1 - _BETA2) * gradient**2
            scale = tf.sqrt(second / (1 - _BETA2**count)) + _EPSILON
            weights -= rate * first / (1 - _BETA1**count) / scale
        return weights, first, second, count

    def _trace_logits(self, weights: Any, x: Any) -> Any:
        import tensorflow as tf

        everyone = tf.tile(x[None], [tf.shape(weights)[0]] + [1] * len(x.shape))
        return self._call(self._parts(weights), everyone, training=False)

    def _trace_clipped(self, weights: Any, x: Any, y: Any, index: Any, mask: Any, clip_norm: Any) -> Any:
        """Clip every example's gradient by book-keeping (arXiv:2210.00038) and sum per model."""
        import tensorflow as tf

        positions = tf.reshape(index, [-1])
        return self.trace_clipped_sums(weights, tf.gather(x, positions), tf.gather(y, positions), mask, clip_norm)

    def trace_clipped_sums(self, weights: Any, examples: Any, labels: Any, mask: Any, clip_norm: Any) -> Any:
        """Trace clipped sums and norms where `examples` (M x batch, ...) of all models have been gathered already."""
        import tensorflow as tf

        models, batch = tf.shape(mask)[0], tf.shape(mask)[1]
        parts = self._parts(weights)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with stacked.stacked(self._model, parts), _tapped(self._model, tape) as taps:
                flag = training_flag(self._model, True)
                logits = self._model.stateless_call([p[0] for p in parts], self._fixed, examples, **flag)[0]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            loss = tf.reduce_sum(losses * tf.reshape(mask, [-1]))
        gradients = tape.gradient(loss, [output for _, _, output in taps])
        return self._sums(list(zip(taps, gradients, strict=True)), clip_norm, models, batch)

    def _sums(self, found: list[tuple[Any, Any]], clip_norm: Any, models: Any, batch: Any) -> Any:
        """Return clipped sums and norms from what each Dense layer took in and the gradients of its outputs."""
        import tensorflow as tf

        squares = [
            tf.reduce_sum(g**2, axis=1) * (tf.reduce_sum(inputs**2, axis=1) + float(layer.use_bias))
            for (layer, inputs, _), g in found
        ]
        norms = tf.reshape(tf.sqrt(tf.add_n(squares)) * (1.0 + ROUNDING), [models, batch])
        factors = tf.reshape(clip_factors(norms, clip_norm), [-1, 1])
        sums: dict[int, Any] = {}
        for (layer, inputs, _), g in found:
            by_model = tf.reshape(g * factors, [models, batch, g.shape[1]])
            taken = tf.reshape(inputs, [models, batch, inputs.shape[1]])
            sums[id(layer.kernel)] = tf.matmul(taken, by_model, transpose_a=True)
            if layer.use_bias:
                sums[id(layer.bias)] = tf.reduce_sum(by_model, axis=1)
        flat = [tf.reshape(sums[id(v)], [models, -1]) for v in self._model.trainable_variables]
        return tf.concat(flat, axis=1), norms

    def clipped_sums(
        self, weights: NDArray[np.float64], x: Any, y: Any, *, index: Ints, mask: Matrix, clip_norm: float
    ) -> tuple[NDArray[np.float64], Matrix]:
        """Return each model's sum of clipped per-example gradients (M, parameters), and the norms (M, batch).

        Args:
            weights: (M, parameters).
            x: features of all examples, a tensor.
            y: labels of all examples, a tensor.
            index: (M, batch) positions of each model's examples.
            mask: (M, batch); 0 for padding, which adds nothing.
            clip_norm: the largest norm of one example's contribution.
        """
        import tensorflow as tf

        arguments = (tf.constant(weights, tf.float32), x, y, tf.constant(index, tf.int32), tf.constant(mask))
        total, norms = self._clipped(*arguments, tf.constant(clip_norm, tf.float32))
        return np.asarray(total, dtype=np.float64), np.asarray(norms)

    def logits(self, weights: NDArray[Any], x: Matrix) -> Matrix:
        """Return the outputs (M, n, classes) of every model on every example."""
        import tensorflow as tf

        flat = tf.constant(weights, tf.float32)
        step = max(1, _EXAMPLES // len(weights))
        blocks = [np.asarray(self._logits(flat, tf.constant(x[i : i + step]))) for i in range(0, len(x), step)]
        return np.concatenate(blocks, axis=1)

    def fit(
        self, weights: NDArray[Any], x: Matrix, y: Ints, *, epochs: Iterator[tuple[Ints, Matrix]], learning_rate: float
    ) -> Matrix:
        """Train without privacy by Adam and return the weights (M, parameters).

        Args:
            weights: initial weights (M, parameters).
            x: features of all examples (n, ...).
            y: labels (n,).
            epochs: yields index and mask, both (M, steps, batch), one pair per epoch.
            learning_rate: of Adam.
        """
        import tensorflow as tf

        data = tf.constant(x), tf.constant(y, tf.int32)
        now = tf.constant(weights, tf.float32)
        first, second, count = tf.zeros_like(now), tf.zeros_like(now), tf.constant(0.0)
        rate = tf.constant(learning_rate, tf.float32)
        for index, mask in epochs:
            steps = tf.constant(index, tf.int32), tf.constant(mask, tf.float32)
            now, first, second, count = self._epoch(now, first, second, count, *data, *steps, rate)
        return np.asarray(now)


@contextmanager
def _tapped(model: Any, tape: Any) -> Iterator[list[tuple[Any, Any, Any]]]:
    """Collect (layer, inputs, outputs before the activation) of every stacked Dense layer while the block runs."""
    taps: list[tuple[Any, Any, Any]] = []

    def tap(layer: Any) -> Any:
        inner, activation = layer.call, layer.activation

        def call(inputs: Any, training: bool | None = None) -> Any:
            del training
            with replaced(layer, activation=None):
                output = inner(inputs)
            tape.watch(output)
            taps.append((layer, inputs, output))
            return output if activation is None else activation(output)

        return call

    with ExitStack() as stack:
        for layer in model._flatten_layers(include_self=False):
            if type(layer).__name__ == "Dense":
                stack.enter_context(replaced(layer, call=tap(layer)))
        yield taps
