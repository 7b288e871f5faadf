"""What a client computes: pure functions of (weights, data, order), compiled once, for many clients at a time.

`ClientFunctions` turns a Keras 3 model into functions of one flat weight vector by `stateless_call`, so nothing is
kept between clients. Examples (dp-fedsgd) are clipped by book-keeping and clients (dp-fedavg) are stacked in one
batch where the layers of the model are known; else both are vectorised with `tf.vectorized_map`; an op
that it cannot map (a convolution whose filters differ per client) falls back to a loop inside TensorFlow by itself,
which gives the same numbers more slowly. Leading dimensions are left open, so random cohort sizes do not retrace;
callers must not pass an empty cohort.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated import bookkeeping, stacked
from dpaudit.federated.layer_rules import Unsupported

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def deterministic_tensorflow() -> None:
    """Make TensorFlow's ops give the same bits for the same inputs, which replaying a round relies on."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def flat_call(function: Any) -> Callable[..., Any]:
    """Return a call of a traced function that takes tensors of the right types and shapes, and checks nothing.

    Binding and checking arguments costs TensorFlow 0.3 ms a call, a tenth of a round of small models.
    """
    concrete = function.get_concrete_function()
    inner = getattr(concrete, "_call_flat", None)
    if inner is None:
        return cast(Callable[..., Any], concrete)
    captured = concrete.captured_inputs
    return lambda *tensors: inner(list(tensors), captured)


class ClientFunctions:
    """The compiled client-side functions of one model."""

    def __init__(self, model: Any, input_shape: tuple[int, ...]) -> None:
        """Declare the functions with open leading dimensions; each is traced once, at its first call."""
        import tensorflow as tf

        self._model = model
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self._fixed = [tf.constant(v.value) for v in model.non_trainable_variables]
        self._is_seed = ["seed_generator_state" in v.path for v in model.non_trainable_variables]
        vector, rate, seed = tf.TensorSpec([None]), tf.TensorSpec([]), tf.TensorSpec([2], tf.int32)
        x, y = tf.TensorSpec([None, *input_shape]), tf.TensorSpec([None], tf.int32)
        steps, mask = tf.TensorSpec([None, None, None], tf.int32), tf.TensorSpec([None, None, None])
        self._gradients = tf.function(self._trace_gradients, input_signature=[vector, x, y, y, seed])
        self._updates = tf.function(self._trace_updates, input_signature=[vector, x, y, steps, mask, rate, seed])
        self._logits = tf.function(self._trace_logits, input_signature=[vector, x])
        signature = [vector, x, y, y, rate, seed]
        self._clipped = tf.function(self._trace_clipped, input_signature=signature, autograph=False)
        self._floats: int | None = None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(self._sizes)

    def _call(self, weights: Any, x: Any, seed: Any, *, training: bool) -> Any:
        """Return the logits of a batch under a flat weight vector; `seed` (2,) drives dropout."""
        import tensorflow as tf

        parts = tf.split(weights, self._sizes)
        trainable = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = zip(self._fixed, self._is_seed, strict=True)
        fixed = [tf.cast(seed, value.dtype) if is_seed else value for value, is_seed in pairs]
        return self._model.stateless_call(trainable, fixed, x, training=training)[0]

    def _gradient(self, weights: Any, x: Any, y: Any, mask: Any, seed: Any) -> Any:
        """Return the gradient of the mean loss over the examples of a batch whose mask is 1 (zero if none is)."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = self._call(weights, x, seed, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            loss = tf.reduce_sum(losses * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)
        return tape.gradient(loss, weights)

    def _trace_gradients(self, weights: Any, x: Any, y: Any, index: Any, seed: Any) -> Any:
        import tensorflow as tf

        one = tf.ones([1])

        def of_example(position: Any) -> Any:
            example = tf.gather(x, position)[None]
            return self._gradient(weights, example, tf.gather(y, position)[None], one, seed)

        return tf.vectorized_map(of_example, index)

    def _trace_clipped(self, weights: Any, x: Any, y: Any, *rest: Any) -> Any:
        import tensorflow as tf

        index, clip_norm, seed = rest
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            trace = bookkeeping.Trace(self._model, tape)
            with trace.tapped():
                logits = self._call(weights, tf.gather(x, index), seed, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.gather(y, index), logits=logits)
            loss = tf.reduce_sum(losses)
        parts = trace.parts(loss)
        self._floats = trace.floats + sum(part.floats for part in parts)
        return bookkeeping.clipped_sum(parts, clip_norm=clip_norm)

    def _trace_updates(self, weights: Any, x: Any, y: Any, *rest: Any) -> Any:
        """Local SGD of many clients; by `stacked` where the model allows it, else mapped over clients."""
        import tensorflow as tf

        index, mask, rate, seed = rest
        clients = tf.shape(index)[0]
        parts = [tf.reshape(p, s) for p, s in zip(tf.split(weights, self._sizes), self._shapes, strict=True)]
        local = [
            tf.tile(part[None], [clients] + [1] * len(shape)) for part, shape in zip(parts, self._shapes, strict=True)
        ]
        gradients_of = self._mapped_gradients if self.unstacked else self._stacked_gradients
        # Everything is gathered before the steps, and laid out step by step: a third less time for small models.
        by_step = tf.transpose(index, [1, 0, 2])
        data, labels, masks = tf.gather(x, by_step), tf.gather(y, by_step), tf.transpose(mask, [1, 0, 2])
        shares = rate * masks / tf.maximum(tf.reduce_sum(masks, axis=2, keepdims=True), 1.0)
        for step in tf.range(tf.shape(index)[1]):
            gradients = gradients_of(local, data[step], labels[step], shares[step], seed)
            local = [a - g for a, g in zip(local, gradients, strict=True)]
        ends = [tf.reshape(a, [clients, size]) for a, size in zip(local, self._sizes, strict=True)]
        return tf.concat(ends, axis=1) - weights[None]

    def _mapped_gradients(self, local: list[Any], x: Any, y: Any, share: Any, seed: Any) -> list[Any]:
        """Return the gradients of each client's sum of losses times `share` (clients, batch), client by client."""
        import tensorflow as tf

        def of_client(arguments: Any) -> Any:
            *parts, batch, labels, weight = arguments
            flat = tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)
            with tf.GradientTape() as tape:
                tape.watch(flat)
                logits = self._call(flat, batch, seed, training=True)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
                loss = tf.reduce_sum(losses * weight)
            return tape.gradient(loss, flat)

        rows = tf.reshape(tf.vectorized_map(of_client, (*local, x, y, share)), [-1, self.parameters])
        parts = tf.split(rows, self._sizes, axis=1)
        return [tf.reshape(part, tf.shape(a)) for part, a in zip(parts, local, strict=True)]

    def _stacked_gradients(self, local: list[Any], x: Any, y: Any, share: Any, seed: Any) -> list[Any]:
        """The same with the examples of all clients in one batch."""
        import tensorflow as tf

        inputs = tf.reshape(x, [-1, *x.shape[2:]])
        with tf.GradientTape() as tape:
            tape.watch(local)
            with stacked.stacked(self._model, local):
                logits = self._call(tf.zeros([self.parameters]), inputs, seed, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.reshape(y, [-1]), logits=logits)
            loss = tf.reduce_sum(losses * tf.reshape(share, [-1]))
        return list(tape.gradient(loss, local, unconnected_gradients=tf.UnconnectedGradients.ZERO))

    def _trace_logits(self, weights: Any, x: Any) -> Any:
        return self._call(weights, x, (0, 0), training=False)

    def per_example_gradients(
        self, weights: NDArray[np.float64], x: Any, y: Any, index: NDArray[np.int64], *, seed: tuple[int, int]
    ) -> Floats:
        """Return one gradient of the loss per example, (n, parameters), n >= 1.

        Args:
            weights: (parameters,).
            x: features of all examples, a tensor (N, ...), placed once by the caller.
            y: labels of all examples, a tensor (N,).
            index: (n,) positions of the wanted examples.
            seed: of dropout in this round.
        """
        import tensorflow as tf

        rows = self._gradients(
            tf.constant(weights, tf.float32), x, y, tf.constant(index, tf.int32), tf.constant(seed, tf.int32)
        )
        return np.asarray(rows)

    @functools.cached_property
    def unstacked(self) -> str | None:
        """Why the clients of this model are mapped and not stacked; None where they are stacked."""
        try:
            stacked.check_stackable(self._model)
        except Unsupported as reason:
            return str(reason)
        return None

    @functools.cached_property
    def no_bookkeeping(self) -> str | None:
        """Why clipped sums by book-keeping cannot be had for this model; None where they can."""
        try:
            bookkeeping.check_layers(self._model)
            self._clipped.get_concrete_function()
        except Unsupported as reason:
            return str(reason)
        return None

    @property
    def bookkeeping_bytes(self) -> int:
        """About how much memory one example takes in `clipped_sum`; call only where `no_bookkeeping` is None."""
        return 4 * (self._floats or 0)

    def clipped_sum(
        self,
        weights: NDArray[np.float64],
        x: Any,
        y: Any,
        index: NDArray[np.int64],
        *,
        clip_norm: float,
        seed: tuple[int, int],
    ) -> tuple[NDArray[np.float64], Floats]:
        """Return the sum of the clipped per-example gradients, (parameters,), and their norms (n,), by book-keeping.

        The arguments are those of `per_example_gradients`; norms are up to 2^-18 too large, never too small. Where a
        norm is NaN or infinite (also: beyond about 1e19, where its square is) the sum is of no use.
        """
        import tensorflow as tf

        flat, positions = tf.constant(weights, tf.float32), tf.constant(index, tf.int32)
        clip = tf.constant(clip_norm, tf.float32)
        total, norms = self._clipped(flat, x, y, positions, clip, tf.constant(seed, tf.int32))
        return np.asarray(total, dtype=np.float64), np.asarray(norms)

    def local_updates(
        self,
        weights: NDArray[np.float64],
        x: Any,
        y: Any,
        *,
        index: Ints,
        mask: Floats,
        learning_rate: float,
        seed: tuple[int, int],
    ) -> Floats:
        """Return local weights minus global weights, (clients, parameters), after local SGD; clients >= 1.

        Args:
            weights: global weights (parameters,).
            x: features of all examples, a tensor (N, ...).
            y: labels of all examples, a tensor (N,).
            index: (clients, steps, batch) positions of examples, in the order in which they are used.
            mask: the same shape; 1 for an example, 0 for padding. A step without examples changes nothing.
            learning_rate: of the local SGD.
            seed: of dropout in this round.
        """
        import tensorflow as tf

        updates = self._update_call(
            tf.constant(weights, tf.float32),
            x,
            y,
            tf.constant(index, tf.int32),
            tf.constant(mask, tf.float32),
            tf.constant(learning_rate, tf.float32),
            tf.constant(seed, tf.int32),
        )
        return np.asarray(updates)

    @functools.cached_property
    def _update_call(self) -> Callable[..., Any]:
        return flat_call(self._updates)

    def logits(self, weights: NDArray[np.float64], x: Floats, *, batch: int = 4096) -> Floats:
        """Return (n, classes) logits under a weight vector."""
        import tensorflow as tf

        flat = tf.constant(weights, tf.float32)
        return np.concatenate(
            [np.asarray(self._logits(flat, tf.constant(x[i : i + batch]))) for i in range(0, len(x), batch)]
        )
