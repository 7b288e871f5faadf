"""Models trained without privacy, many at once: shadow models of an attacker, and the over-fitted twin of a control."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate
from dpaudit.config import ModelSection
from dpaudit.errors import DataError
from dpaudit.federated import models
from dpaudit.federated.engine import example_table
from dpaudit.federated.many import Ints, ManyModels, Matrix

Bools = NDArray[np.bool_]


def epochs_of(inside: Bools, *, epochs: int, batch: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Matrix]]:
    """Yield index and mask (M, steps, batch) per epoch: every model's own examples in a fresh order, padding last."""
    model, example = np.nonzero(inside)
    table, sizes = example_table(model.astype(np.int32))
    table = example.astype(np.int32)[table]
    longest = -(-table.shape[1] // batch) * batch
    shape = (len(inside), longest // batch, batch)
    present = np.zeros((len(inside), longest), np.float32)
    present[np.arange(longest) < sizes[:, None]] = 1.0
    for _ in range(epochs):
        keys = rng.random(table.shape, dtype=np.float32)
        keys[np.arange(table.shape[1]) >= sizes[:, None]] = 2.0
        index = np.zeros((len(inside), longest), np.int32)
        index[:, : table.shape[1]] = np.take_along_axis(table, np.argsort(keys, axis=1), axis=1)
        yield index.reshape(shape), present.reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """Trained models: `weights` (M, parameters), where they `start`ed, and the compiled functions of all."""

    weights: Matrix
    start: Matrix
    together: ManyModels
    section: ModelSection
    input_shape: tuple[int, ...]
    classes: int

    def logits(self, x: Matrix) -> Matrix:
        """Return the outputs of every model, (M, n, classes)."""
        return self.together.logits(self.weights, x)

    def labels(self, index: int, x: NDArray[Any]) -> NDArray[np.int64]:
        """Return the classes that one model predicts, (n,)."""
        found = self.together.logits(self.weights[index : index + 1], np.asarray(x, np.float32))
        return np.asarray(found[0].argmax(axis=1), dtype=np.int64)

    def keras_model(self, index: int, *, at_start: bool = False) -> Any:
        """Return one model, trained or as it was before, as a Keras model."""
        model = models.build_model(self.section, self.input_shape, self.classes, root=0)
        models.set_weights(model, (self.start if at_start else self.weights)[index].astype(np.float64))
        return model


def train_twins(
    section: ModelSection,
    x: Matrix,
    y: Ints,
    inside: Bools,
    *,
    classes: int,
    root: int,
    epochs: int = 60,
    batch: int = 32,
    learning_rate: float = 0.005,
) -> Twins:
    """Train one model per row of `inside` on its examples, without privacy, all at once.

    Args:
        section: the architecture.
        x: records float32 (n, ...).
        y: labels int32 (n,).
        inside: which example is in which model's training data, bool (M, n), some in each.
        classes: number of classes.
        root: root seed of initial weights and order.
        epochs: passes over each model's data.
        batch: examples per step.
        learning_rate: of Adam.

    Raises: DataError when a model would have no data; UsageError for a model that cannot be built.
    """
    _validate.positive_integer(epochs=epochs, batch=batch)
    if inside.ndim != 2 or inside.shape[1] != len(y) or not inside.any(axis=1).all():
        raise DataError(f"inside must be (models, {len(y)}) with an example for every model; got {inside.shape}.")
    first = models.build_model(section, x.shape[1:], classes, root=root)
    start = [models.get_weights(first)]
    for index in range(1, len(inside)):
        own = _rng.seed_of(root, "twin-init", index)
        start.append(models.get_weights(models.build_model(section, x.shape[1:], classes, root=own)))
    together = ManyModels(first, x.shape[1:])
    order = epochs_of(inside, epochs=epochs, batch=batch, rng=_rng.stream(root, "twin-order"))
    at_first = np.stack(start).astype(np.float32)
    weights = together.fit(at_first, x, y, epochs=order, learning_rate=learning_rate)
    return Twins(
        weights=weights, start=at_first, together=together, section=section, input_shape=x.shape[1:], classes=classes
    )
