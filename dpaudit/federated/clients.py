"""What a client computes: pure functions of (weights, data, order), compiled once, for many clients at a time.

`ClientFunctions` turns a Keras 3 model into functions of one flat weight vector by `stateless_call`, so nothing is
kept between clients. A plain chain of Dense layers is computed by hand on the CPU (`dpaudit.federated.dense_chain`).
Else examples (dp-fedsgd) are clipped by book-keeping and clients (dp-fedavg) are stacked in one batch where the
layers of the model are known; else both are vectorised with `tf.vectorized_map`; an op
that it cannot map (a convolution whose filters differ per client) falls back to a loop inside TensorFlow by itself,
which gives the same numbers more slowly. Leading dimensions are left open, so random cohort sizes do not retrace;
callers must not pass an empty cohort.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated import bookkeeping
from dpaudit.federated.dense_chain import DenseChain
from dpaudit.federated.dense_local import DenseLocal, Examples
from dpaudit.federated.layer_rules import Unsupported
from dpaudit.federated.local_sgd import LocalUpdates
from dpaudit.federated.models import training_flag
from dpaudit.federated.per_example import map_examples

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Placed = Examples | tuple[Any, Any]


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


class ClientFunctions(LocalUpdates):
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
    def model(self) -> Any:
        """The Keras model, for engines that compile it in their own way."""
        return self._model

    def _call(self, weights: Any, x: Any, seed: Any, *, training: bool) -> Any:
        """Return the logits of a batch under a flat weight vector; `seed` (2,) drives dropout."""
        import tensorflow as tf

        parts = tf.split(weights, self._sizes)
        trainable = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = zip(self._fixed, self._is_seed, strict=True)
        fixed = [tf.cast(seed, value.dtype) if is_seed else value for value, is_seed in pairs]
        logits = self._model.stateless_call(trainable, fixed, x, **training_flag(self._model, training))[0]
        return logits if logits.dtype == tf.float32 else tf.cast(logits, tf.float32)  # mixed precision

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

        return map_examples(of_example, index)

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
    def chain(self) -> DenseChain | None:
        """The model as a chain of Dense layers that is computed by hand; None where it is not one (see `no_chain`)."""
        return DenseChain.of(self._model) if self.no_chain is None else None

    @functools.cached_property
    def by_hand(self) -> DenseLocal | None:
        """Local training of the chain; None where the model is not one."""
        return None if self.chain is None else DenseLocal(self.chain)

    def place(self, x: NDArray[Any], y: NDArray[Any]) -> Placed:
        """Return all examples, (N, ...) and (N,), and behind them one of zeros to pad with, for local training.

        Prepared for NumPy, or as tensors.

        Raises: DataError for a label that is no class, where clients are computed in NumPy.
        """
        if self.by_hand is not None:
            return self.by_hand.place(x, y)
        import tensorflow as tf

        nothing = np.zeros((1, *x.shape[1:]), x.dtype)
        return tf.constant(np.concatenate([x, nothing])), tf.constant(np.append(y, np.zeros(1, y.dtype)))

    @functools.cached_property
    def no_chain(self) -> str | None:
        """Why this model is not computed by hand; None where it is. A GPU is left to TensorFlow."""
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU"):
            return "TensorFlow has a GPU"
        try:
            DenseChain.of(self._model)
        except Unsupported as reason:
            return str(reason)
        return self.unstacked

    @functools.cached_property
    def no_bookkeeping(self) -> str | None:
        """Why clipped sums by book-keeping cannot be had for this model; None where they can."""
        if self.chain is not None:
            return None
        try:
            bookkeeping.check_layers(self._model)
            self._clipped.get_concrete_function()
        except Unsupported as reason:
            return str(reason)
        return None

    @property
    def bookkeeping_bytes(self) -> int:
        """About how much memory one example takes in `clipped_sum`; call only where `no_bookkeeping` is None."""
        return 4 * (self.chain.floats if self.chain is not None else self._floats or 0)

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

        The arguments are those of `per_example_gradients`; norms are up to 2^-18 too large (a little more where a
        layer of a chain is wider than 120), never too small. Where a norm is NaN or infinite (also: beyond about 1e19,
        where its square is) the sum is of no use.
        """
        import tensorflow as tf

        if self.chain is not None:
            own, labels = np.asarray(x).take(index, axis=0), np.asarray(y).take(index)
            stack = np.asarray(weights, np.float32)[None]
            sums, rows = self.chain.clipped_sums(stack, own[None], labels[None], clip_norm=clip_norm)
            return sums[0].astype(np.float64), rows[0]
        flat, positions = tf.constant(weights, tf.float32), tf.constant(index, tf.int32)
        clip = tf.constant(clip_norm, tf.float32)
        total, norms = self._clipped(flat, x, y, positions, clip, tf.constant(seed, tf.int32))
        return np.asarray(total, dtype=np.float64), np.asarray(norms)

    def local_updates(
        self,
        weights: NDArray[np.float64],
        examples: Placed,
        *,
        index: Ints,
        mask: Floats,
        learning_rate: float,
        seed: tuple[int, int],
    ) -> Floats:
        """Return local weights minus global weights, (clients, parameters), after local SGD; clients >= 1.

        Args:
            weights: global weights (parameters,).
            examples: what `place` returned.
            index: (clients, steps, batch) positions of examples, in the order in which they are used.
            mask: the same shape; 1 for an example, 0 for padding. A step without examples changes nothing.
            learning_rate: of the local SGD.
            seed: of dropout in this round.
        """
        import tensorflow as tf

        if isinstance(examples, Examples):
            counts = np.maximum(mask @ np.ones((mask.shape[2], 1), np.float32), np.float32(1.0))
            shares = np.asarray(mask * (np.float32(learning_rate) / counts), np.float32)
            start = np.asarray(weights, np.float32)
            return cast(DenseLocal, self.by_hand).descend(start, examples, index=index, shares=shares)
        updates = self._update_call(
            tf.constant(weights, tf.float32),
            *examples,
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
