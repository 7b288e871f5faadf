"""Clipped sums of per-example gradients for a Keras model with a loss of the user's choice.

The counterpart of `dpaudit.federated.clients.ClientFunctions` (whose engine runs these too) for `PrivateTrainer`:
any loss, labels of any shape, integer or floating features. Book-keeping is used where the model's layers and the loss
are known to keep examples apart; anything else is mapped one example at a time, and `no_bookkeeping` says why.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import UsageError
from dpaudit.federated import bookkeeping, per_example
from dpaudit.federated.layer_rules import Unsupported
from dpaudit.federated.models import training_flag

Vector = NDArray[np.float64]
Floats = NDArray[np.float32]
_KNOWN_LOSSES = frozenset({
    "sparsecategoricalcrossentropy", "categoricalcrossentropy", "binarycrossentropy", "binaryfocalcrossentropy",
    "categoricalfocalcrossentropy", "meansquarederror", "meanabsoluteerror", "meansquaredlogarithmicerror",
    "meanabsolutepercentageerror", "huber", "logcosh", "hinge", "squaredhinge", "categoricalhinge", "kldivergence",
    "poisson",
})  # fmt: skip
"""Keras losses of one example each. Others (CTC, Dice, Circle, a user's) are computed one example at a time."""


class LossFunctions:
    """The compiled functions of one model and one loss; the weights come in as one flat vector."""

    no_chain = "the loss is the user's"
    """Why no model is computed as a chain of Dense layers by hand, as `ClientFunctions` does."""

    def __init__(self, model: Any, loss: Any, *, x: Any, y: Any) -> None:
        """Declare the functions with an open number of examples; each is traced at its first call.

        Args:
            model: a built Keras 3 model with one input and one output.
            loss: a Keras loss, its name, or a function (y_true, y_pred) -> one value or more per example.
            x: the features of all examples, an array (N, ...); only shape and type are looked at.
            y: the labels, an array (N, ...).

        Raises: UsageError for a loss that Keras does not know.
        """
        import keras
        import tensorflow as tf

        try:
            self._loss = keras.losses.get(loss)
        except (ValueError, TypeError) as error:
            raise UsageError(f"the loss {loss!r} is not known to Keras: {error}") from error
        if self._loss is None:
            raise UsageError("the model has no loss: pass one to model.compile(loss=...).")
        self._model = model
        self._shapes = [tuple(v.shape) for v in model.trainable_variables]
        self._sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self._fixed = [tf.constant(v.value) for v in model.non_trainable_variables]
        self._is_seed = ["seed_generator_state" in v.path for v in model.non_trainable_variables]
        features, labels = (tf.TensorSpec([None, *a.shape[1:]], tf.as_dtype(a.dtype)) for a in (x, y))
        vector, index, seed = tf.TensorSpec([None]), tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int32)
        rows = [vector, features, labels, index, seed]
        self._rows = tf.function(self._trace_rows, input_signature=rows, autograph=False)
        clipped = [vector, features, labels, index, tf.TensorSpec([]), seed]
        self._clipped = tf.function(self._trace_clipped, input_signature=clipped, autograph=False)
        self._floats: int | None = None

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(self._sizes)

    def losses(self, y: Any, outputs: Any) -> Any:
        """Return the loss of each example, (batch,): the mean over what the loss has for one example."""
        import tensorflow as tf

        wide, narrow = sorted([y.shape, outputs.shape], key=len, reverse=True)
        sparse = "sparse" in (getattr(self._loss, "__name__", "") + type(self._loss).__name__).lower()
        if len(wide) - len(narrow) > 1 or (len(wide) > len(narrow) and wide[-1] != 1 and not sparse):
            raise UsageError(
                f"labels {tuple(y.shape)} and outputs {tuple(outputs.shape)} would be broadcast against each other, "
                "over examples too. Give the labels the shape of the outputs."
            )
        values = self._loss.call(y, outputs) if hasattr(self._loss, "call") else self._loss(y, outputs)
        if values.shape.rank == 0:
            raise UsageError(
                "the loss returns one number for a batch; the loss of each example is needed. "
                "Use reduction=None, or a function that returns (batch,)."
            )
        return tf.reduce_mean(tf.reshape(values, [tf.shape(values)[0], -1]), axis=1)

    def outputs(self, weights: Any, x: Any, seed: Any) -> Any:
        """Return the outputs of the model in training, under a flat weight vector; `seed` (2,) drives dropout."""
        import tensorflow as tf

        parts = tf.split(weights, self._sizes)
        trainable = [tf.reshape(part, shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = zip(self._fixed, self._is_seed, strict=True)
        fixed = [tf.cast(seed, value.dtype) if is_seed else value for value, is_seed in pairs]
        return self._model.stateless_call(trainable, fixed, x, **training_flag(self._model, True))[0]

    def gradient(self, weights: Any, x: Any, y: Any, seed: Any) -> Any:
        """Return the gradient of the sum of the losses of a batch, not clipped: what plain training computes."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(self.losses(y, self.outputs(weights, x, seed)))
        return tape.gradient(loss, weights)

    def clipped_gradient(self, weights: Any, x: Any, y: Any, clip_norm: Any, seed: Any) -> tuple[Any, Any]:
        """Return the clipped sum and the norms of a batch by book-keeping, for use inside a graph.

        Raises: Unsupported for a model that book-keeping does not know.
        """
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            trace = bookkeeping.Trace(self._model, tape)
            with trace.tapped():
                outputs = self.outputs(weights, x, seed)
            loss = tf.reduce_sum(self.losses(y, outputs))
        parts = trace.parts(loss)
        self._floats = trace.floats + sum(part.floats for part in parts)
        return bookkeeping.clipped_sum(parts, clip_norm=clip_norm)

    def _trace_clipped(self, weights: Any, x: Any, y: Any, *rest: Any) -> Any:
        import tensorflow as tf

        index, clip_norm, seed = rest
        return self.clipped_gradient(weights, tf.gather(x, index), tf.gather(y, index), clip_norm, seed)

    def _trace_rows(self, weights: Any, x: Any, y: Any, index: Any, seed: Any) -> Any:
        import tensorflow as tf

        def of_example(position: Any) -> Any:
            return self.gradient(weights, tf.gather(x, position)[None], tf.gather(y, position)[None], seed)

        return per_example.map_examples(of_example, index)

    @functools.cached_property
    def no_bookkeeping(self) -> str | None:
        """Why clipped sums by book-keeping cannot be had for this model and loss; None where they can."""
        what = type(self._loss) if hasattr(self._loss, "call") else self._loss
        kind, origin = getattr(what, "__name__", "?"), str(getattr(what, "__module__", ""))
        axis = getattr(self._loss, "_fn_kwargs", {}).get("axis", -1)
        known = kind.replace("_", "").lower() in _KNOWN_LOSSES and origin.startswith("keras.src.losses")
        if not known or axis != -1:
            return self._and_how(f"the loss {kind} is not known to keep examples apart")
        try:
            bookkeeping.check_layers(self._model)
            self._clipped.get_concrete_function()
        except Unsupported as reason:
            return self._and_how(str(reason))
        return None

    def _and_how(self, reason: str) -> str:
        """Add to the reason for the other path whether that goes one example at a time."""
        import tensorflow as tf

        def of_example(arguments: Any) -> Any:
            weights, x, y, seed = arguments
            return self.gradient(weights, x[None], y[None], seed)

        _, features, labels, _, seed = self._rows.input_signature
        one = [tf.TensorSpec(spec.shape[1:], spec.dtype) for spec in (features, labels)]
        how = per_example.not_vectorised(of_example, (tf.TensorSpec([self.parameters]), *one, seed))
        return reason if how is None else f"{reason}; {how}"

    @property
    def bookkeeping_bytes(self) -> int:
        """About how much memory one example takes in `clipped_sum`; call only where `no_bookkeeping` is None."""
        return 4 * (self._floats or 0)

    def clipped_sum(
        self, weights: Vector, x: Any, y: Any, index: NDArray[np.int64], *, clip_norm: float, seed: tuple[int, int]
    ) -> tuple[Vector, Floats]:
        """Return the clipped sum (parameters,) and the norms (n,) of the examples at `index`, n >= 1."""
        import tensorflow as tf

        flat, positions = tf.constant(weights, tf.float32), tf.constant(index, tf.int32)
        clip, drop = tf.constant(clip_norm, tf.float32), tf.constant(seed, tf.int32)
        total, norms = self._clipped(flat, x, y, positions, clip, drop)
        return np.asarray(total, dtype=np.float64), np.asarray(norms)

    def per_example_gradients(
        self, weights: Vector, x: Any, y: Any, index: NDArray[np.int64], *, seed: tuple[int, int]
    ) -> Floats:
        """Return one gradient per example at `index`, (n, parameters), n >= 1."""
        import tensorflow as tf

        flat, positions = tf.constant(weights, tf.float32), tf.constant(index, tf.int32)
        return np.asarray(self._rows(flat, x, y, positions, tf.constant(seed, tf.int32)))
