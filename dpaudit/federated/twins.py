"""Models trained without privacy, many at once: shadow models of an attacker, and the over-fitted twin of a control."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate
from dpaudit.config import ModelSection
from dpaudit.errors import DataError
from dpaudit.fanout import Executor, Task, run_campaign
from dpaudit.federated import clients, models
from dpaudit.federated.engine import example_table
from dpaudit.federated.many import Ints, ManyModels, Matrix

Bools = NDArray[np.bool_]
BLOCK = 32
"""Models that are trained at once. Measured on small models: half as many cost nearly as much time."""


def epochs_of(
    inside: Bools, *, epochs: int, batch: int, rng: np.random.Generator, block: range | None = None
) -> Iterator[tuple[Ints, Matrix]]:
    """Yield index and mask (M, steps, batch) per epoch: every model's own examples in a fresh order, padding last.

    `block` asks for some of the models; what they get does not depend on which others are asked for.
    """
    model, example = np.nonzero(inside)
    table, sizes = example_table(model.astype(np.int32))
    table = example.astype(np.int32)[table]
    longest = -(-table.shape[1] // batch) * batch
    rows = slice(0, len(inside)) if block is None else slice(block.start, block.stop)
    own, sizes = table[rows], sizes[rows]
    shape = (len(own), longest // batch, batch)
    present = np.zeros((len(own), longest), np.float32)
    present[np.arange(longest) < sizes[:, None]] = 1.0
    for _ in range(epochs):
        keys = rng.random(table.shape, dtype=np.float32)[rows]
        keys[np.arange(table.shape[1]) >= sizes[:, None]] = 2.0
        index = np.zeros((len(own), longest), np.int32)
        index[:, : table.shape[1]] = np.take_along_axis(own, np.argsort(keys, axis=1), axis=1)
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
    executor: Executor | None = None,
) -> Twins:
    """Train one model per row of `inside` on its examples, without privacy, in blocks of 32 at once.

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
        executor: where blocks are trained (`dpaudit.fanout`), if there are several; None for here.

    Raises: DataError when a model would have no data; UsageError for a model that cannot be built.
    """
    _validate.positive_integer(epochs=epochs, batch=batch)
    if inside.ndim != 2 or inside.shape[1] != len(y) or not inside.any(axis=1).all():
        raise DataError(f"inside must be (models, {len(y)}) with an example for every model; got {inside.shape}.")
    shared = {
        "section": section, "x": x, "y": y, "inside": inside, "classes": classes, "root": root, "epochs": epochs,
        "batch": batch, "learning_rate": learning_rate,
    }  # fmt: skip
    blocks = [range(at, min(at + BLOCK, len(inside))) for at in range(0, len(inside), BLOCK)]
    tasks = [Task(name=f"twins from {block.start}", function=_fit, arguments={"block": block}) for block in blocks]
    found = run_campaign(tasks, executor=executor if len(tasks) > 1 else None, shared=shared).values()
    start, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    first = models.build_model(section, x.shape[1:], classes, root=root)
    return Twins(
        weights=weights,
        start=start,
        together=ManyModels(first, x.shape[1:]),
        section=section,
        input_shape=x.shape[1:],
        classes=classes,
    )


def _fit(
    section: ModelSection, x: Matrix, y: Ints, inside: Bools, classes: int, root: int, epochs: int, batch: int,
    learning_rate: float, block: range,
) -> tuple[Matrix, Matrix]:  # fmt: skip
    """Train the models of a block; return where they started and where they ended, both (block, parameters)."""
    clients.deterministic_tensorflow()
    roots = [root if index == 0 else _rng.seed_of(root, "twin-init", index) for index in block]
    built = [models.build_model(section, x.shape[1:], classes, root=own) for own in roots]
    start = np.stack([models.get_weights(model) for model in built]).astype(np.float32)
    order = epochs_of(inside, epochs=epochs, batch=batch, rng=_rng.stream(root, "twin-order"), block=block)
    many = ManyModels(built[0], x.shape[1:])
    return start, many.fit(start, x, y, epochs=order, learning_rate=learning_rate)
