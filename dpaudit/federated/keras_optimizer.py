"""The optimizer of a compiled Keras model on the server's side of the noise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.federated import models

Vector = NDArray[np.float64]


class KerasOptimizer:
    """The optimizer of a compiled model as a server optimizer: a step on the noised mean, after the privacy."""

    def __init__(self, model: Any) -> None:
        """Build the optimizer's variables, so that its state has its final shape."""
        self._model, self._optimizer = model, model.optimizer
        if not self._optimizer.built:
            self._optimizer.build(model.trainable_variables)

    @property
    def state(self) -> dict[str, Vector]:
        """Everything that a checkpoint must hold."""
        return {f"v{i}": np.asarray(v.value, np.float64) for i, v in enumerate(self._optimizer.variables)}

    @state.setter
    def state(self, values: dict[str, Vector]) -> None:
        for i, variable in enumerate(self._optimizer.variables):
            variable.assign(values[f"v{i}"].astype(str(variable.dtype)))

    def step(self, weights: Vector, gradient: Vector) -> Vector:
        """Let the optimizer change the model's variables, and return them."""
        import tensorflow as tf

        variables = self._model.trainable_variables
        models.set_weights(self._model, weights)
        cuts = np.cumsum([int(np.prod(v.shape, dtype=np.int64)) for v in variables])[:-1]
        parts = np.split(gradient.astype(np.float32), cuts)
        shaped = [tf.constant(part.reshape(v.shape)) for part, v in zip(parts, variables, strict=True)]
        self._optimizer.apply(shaped, variables)
        return models.get_weights(self._model)
