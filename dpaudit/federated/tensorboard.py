"""TensorBoard scalars of a run, on request: epsilon so far, rounds per second, accuracy on hold-out data.

    tensorboard --logdir OUT/tensorboard

Nothing here is computed from training data beyond the released weights, so that the files cost no privacy.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
FOLDER = "tensorboard"


class Scalars:
    """Writes the scalars of rounds; call it with (rounds done, weights after them)."""

    def __init__(
        self,
        out: Path,
        *,
        accuracy: Callable[[Vector], float],
        every: int,
        last: int,
        epsilon_after: Callable[[int], float] | None = None,
    ) -> None:
        """Open the event file under `out`; a resumed run opens one more, which TensorBoard joins.

        Args:
            out: folder of the run.
            accuracy: on hold-out data under a weight vector.
            every: rounds between two measurements of accuracy.
            last: the last round, at which accuracy is measured too.
            epsilon_after: epsilon after a number of rounds, if somebody accounts.
        """
        import tensorflow as tf

        # `tf.summary.scalar` needs TensorBoard itself; this writes what it would, and TensorBoard may be elsewhere.
        about = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        self._about = tf.compat.v1.SummaryMetadata(plugin_data=about, data_class=1)
        self._writer = tf.summary.create_file_writer(str(out / FOLDER))
        self._accuracy, self._every, self._last, self._epsilon_after = accuracy, every, last, epsilon_after
        self._before = time.monotonic()

    def __call__(self, done: int, weights: Vector) -> None:
        """Write the scalars of the round that is done."""
        now = time.monotonic()
        with self._writer.as_default(step=done):
            self._scalar("rounds_per_second", 1 / max(now - self._before, 1e-9))
            if self._epsilon_after is not None:
                self._scalar("epsilon", self._epsilon_after(done))
            if done % self._every == 0 or done == self._last:
                self._scalar("holdout_accuracy", self._accuracy(weights))
                self._writer.flush()
        self._before = time.monotonic()

    def _scalar(self, name: str, value: float) -> None:
        import tensorflow as tf

        tf.summary.write(name, tf.constant(value, tf.float32), metadata=self._about)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()


def no_scalars(done: int, weights: Vector) -> None:
    """Write nothing."""
    del done, weights
