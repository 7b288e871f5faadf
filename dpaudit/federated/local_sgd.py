"""Local SGD of many clients in one graph: stacked, mapped, or one client after the other, as the model allows."""

import functools
from typing import Any

from dpaudit.federated import stacked
from dpaudit.federated.per_example import map_examples


def _shares(mask: Any, rate: Any) -> Any:
    """Return what each example's loss is multiplied by: the learning rate over the examples of its batch."""
    import tensorflow as tf

    return rate * mask / tf.maximum(tf.reduce_sum(mask, axis=2, keepdims=True), 1.0)


class LocalUpdates:
    """The part of `ClientFunctions` that traces local updates."""

    _model: Any
    _sizes: list[int]
    _shapes: list[tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(self._sizes)

    def _call(self, weights: Any, x: Any, seed: Any, *, training: bool) -> Any:
        raise NotImplementedError

    @functools.cached_property
    def unstacked(self) -> str | None:
        """Why the clients of this model are mapped and not stacked; None where they are stacked."""
        return stacked.not_stackable(self._model)

    @functools.cached_property
    def looped(self) -> bool:
        """Whether clients run one after the other: `vectorized_map` maps no convolution whose filters differ.

        Measured: two convolutions on 28x28 train at 1.1 times the examples per second of plain SGD with batches of
        1,000; the fallback inside `vectorized_map` at 0.4 times, patches as matrix products at 0.2 times.
        """
        layers = self._model._flatten_layers(include_self=False)
        return self.unstacked is not None and any("Conv" in type(layer).__name__ for layer in layers)

    def _trace_updates(self, weights: Any, x: Any, y: Any, *rest: Any) -> Any:
        """Local SGD of many clients; by `stacked` where the model allows it, else mapped over clients."""
        import tensorflow as tf

        index, mask, rate, seed = rest
        if self.looped:
            return self._looped_updates(weights, x, y, index, _shares(mask, rate), seed)
        clients = tf.shape(index)[0]
        parts = [tf.reshape(p, s) for p, s in zip(tf.split(weights, self._sizes), self._shapes, strict=True)]
        local = [
            tf.tile(part[None], [clients] + [1] * len(shape)) for part, shape in zip(parts, self._shapes, strict=True)
        ]
        gradients_of = self._mapped_gradients if self.unstacked else self._stacked_gradients
        # Everything is gathered before the steps, and laid out step by step: a third less time for small models.
        by_step = tf.transpose(index, [1, 0, 2])
        data, labels = tf.gather(x, by_step), tf.gather(y, by_step)
        shares = tf.transpose(_shares(mask, rate), [1, 0, 2])
        for step in tf.range(tf.shape(index)[1]):
            gradients = gradients_of(local, data[step], labels[step], shares[step], seed)
            local = [a - g for a, g in zip(local, gradients, strict=True)]
        ends = [tf.reshape(a, [clients, size]) for a, size in zip(local, self._sizes, strict=True)]
        return tf.concat(ends, axis=1) - weights[None]

    def _flat_gradient(self, flat: Any, x: Any, y: Any, share: Any, seed: Any) -> Any:
        """Return the gradient (parameters,) of the sum of losses times `share` (batch,)."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(flat)
            logits = self._call(flat, x, seed, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            loss = tf.reduce_sum(losses * share)
        return tape.gradient(loss, flat)

    def _looped_updates(self, weights: Any, x: Any, y: Any, index: Any, shares: Any, seed: Any) -> Any:
        """Local SGD of one client after the other, inside TensorFlow."""
        import tensorflow as tf

        def of_client(arguments: Any) -> Any:
            batches, weight = arguments

            def step(number: Any, flat: Any) -> Any:
                batch = batches[number]
                gradient = self._flat_gradient(flat, tf.gather(x, batch), tf.gather(y, batch), weight[number], seed)
                return number + 1, flat - gradient

            start = (tf.constant(0), weights)
            end = tf.while_loop(lambda number, _: number < tf.shape(batches)[0], step, start, parallel_iterations=1)[1]
            return end - weights

        return tf.map_fn(of_client, (index, shares), fn_output_signature=tf.TensorSpec([None]), parallel_iterations=1)

    def _mapped_gradients(self, local: list[Any], x: Any, y: Any, share: Any, seed: Any) -> list[Any]:
        """Return the gradients of each client's sum of losses times `share` (clients, batch), client by client."""
        import tensorflow as tf

        def of_client(arguments: Any) -> Any:
            *parts, batch, labels, weight = arguments
            flat = tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)
            return self._flat_gradient(flat, batch, labels, weight, seed)

        rows = tf.reshape(map_examples(of_client, (*local, x, y, share)), [-1, self.parameters])
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
