"""A Keras model's train step as a step under test: Keras 3, or tf_keras with tensorflow-privacy's optimizers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dpaudit.errors import MissingDependency
from dpaudit.verification._step_types import Batch, Step


def keras_step(
    build: Callable[[], Any],
    batch: Batch,
    *,
    clip_norm: float | None = None,
    fixed_size: bool = False,
    test_empty: bool = False,
) -> Step:
    """Return one `train_on_batch` of a compiled model as a step; the release is the change of its trainable weights.

    The optimizer must be linear in its gradient (plain SGD): only then is the change of the weights a scaled copy of
    the noised gradient. The model is run eagerly, because inside a compiled function TensorFlow fixes the seeds of
    its random operations when the function is traced.

    Args:
        build: returns a compiled model; called once, its variables are put back before every execution.
        batch: (x, y), an ordinary batch.
        clip_norm: the clip norm, if known.
        fixed_size: the train step takes batches of this size only.
        test_empty: whether an empty batch must be survived.

    Raises:
        MissingDependency: TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise MissingDependency("a Keras model needs TensorFlow: pip install 'dpaudit[train]'.") from error
    model = build()
    model.run_eagerly = True
    model.train_function = None
    model.train_on_batch(*batch)  # creates the variables of model and optimizer
    variables = [*model.variables, *_variables_of(model.optimizer)]
    start = [np.array(variable) for variable in variables]

    def run(rows: Batch, seed: int) -> list[Any]:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        tf.random.set_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what the user's code may draw from
        before = [np.array(variable) for variable in model.trainable_variables]
        model.train_on_batch(*rows)
        return [np.array(v) - old for v, old in zip(model.trainable_variables, before, strict=True)]

    return Step(
        run=run, batch=batch, kind="examples", clip_norm=clip_norm, fixed_size=fixed_size, test_empty=test_empty
    )


def _variables_of(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer of Keras 3 or of tf_keras (where older ones have a method)."""
    found = optimizer.variables
    return list(found() if callable(found) else found)
