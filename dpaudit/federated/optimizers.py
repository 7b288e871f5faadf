"""Server optimizers on the noised mean: post-processing, so their choice costs no privacy."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import TrainingSection

Vector = NDArray[np.float64]


class ServerOptimizer(Protocol):
    """Turns a descent gradient into a step; `state` is everything that a checkpoint must hold."""

    state: dict[str, Vector]

    def step(self, weights: Vector, gradient: Vector) -> Vector:
        """Return the new weights."""


@dataclass(slots=True)
class Sgd:
    """SGD with heavy-ball momentum: v = momentum v + g; w = w - learning_rate v."""

    learning_rate: float
    momentum: float = 0.0
    state: dict[str, Vector] = field(default_factory=dict)

    def step(self, weights: Vector, gradient: Vector) -> Vector:
        """Return the new weights."""
        velocity = self.momentum * self.state.get("velocity", np.zeros_like(gradient)) + gradient
        self.state = {"velocity": velocity}
        return weights - self.learning_rate * velocity


@dataclass(slots=True)
class Adam:
    """Adam on the server (FedAdam: Reddi et al., arXiv:2003.00295), with bias correction (arXiv:1412.6980)."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    state: dict[str, Vector] = field(default_factory=dict)

    def step(self, weights: Vector, gradient: Vector) -> Vector:
        """Return the new weights."""
        zero = np.zeros_like(gradient)
        count = float(self.state.get("count", np.zeros(()))) + 1
        first = self.beta1 * self.state.get("first", zero) + (1 - self.beta1) * gradient
        second = self.beta2 * self.state.get("second", zero) + (1 - self.beta2) * gradient**2
        self.state = {"first": first, "second": second, "count": np.asarray(count)}
        scale = np.sqrt(second / (1 - self.beta2**count)) + self.epsilon
        return np.asarray(weights - self.learning_rate * (first / (1 - self.beta1**count)) / scale)


def make_optimizer(training: TrainingSection) -> ServerOptimizer:
    """Return the configured server optimizer."""
    if training.server_optimizer == "adam":
        return Adam(training.server_learning_rate)
    return Sgd(training.server_learning_rate, training.server_momentum)
