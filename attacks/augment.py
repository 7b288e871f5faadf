"""Altered copies of records: what an attacker queries beside the record itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import DataError

NOISE = 0.05
"""Standard deviation of the noise on a feature, in standard deviations of that feature over the records."""


def augmented(x: NDArray[Any], *, copies: int, seed: int = 0, noise: float = NOISE) -> Iterator[NDArray[np.float32]]:
    """Yield altered copies of all records, each (n, ...).

    Images (n, height, width) or (n, height, width, channels): one of the shifts by up to one pixel, mirrored in every
    other copy, without noise. Other records: Gaussian noise on each feature.

    Args:
        x: records, numbers.
        copies: how many to yield.
        seed: of shifts and noise.
        noise: see `NOISE`; 0.05 by default.

    Raises: DataError for records that are no numbers; UsageError for copies < 1 or noise <= 0.
    """
    _validate.positive_integer(copies=copies)
    _validate.positive(noise=noise)
    try:
        wide = np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"records must be numbers to be altered; got {np.asarray(x).dtype}.") from error
    rng = np.random.default_rng(seed)
    spread = noise * wide.std(axis=0)
    image = wide.ndim == 4 or (wide.ndim == 3 and min(wide.shape[1:]) > 3)
    for copy in range(copies):
        if image:
            shift = tuple(int(step) for step in rng.integers(-1, 2, size=2))
            moved = np.roll(wide, shift, axis=(1, 2))
            yield moved[:, :, ::-1] if copy % 2 else moved
        else:
            yield wide + spread * rng.standard_normal(wide.shape, dtype=np.float32)
