"""What a model returned, as logits: attacks work on logits, models return logits or probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import DataError

KINDS = ("auto", "logits", "probabilities")

_FLOOR = 1e-30  # a probability that float32 rounded to 0: its logarithm must stay finite
_ROW_SUM_TOLERANCE = 1e-3


def as_logits(outputs: NDArray[Any], *, kind: str = "auto") -> NDArray[np.float64]:
    """Return logits (n, classes) up to a constant per row, which no attack sees.

    Args:
        outputs: (n, classes), or (n,) or (n, 1) for a binary model with one output: the positive class.
        kind: "logits", "probabilities", or "auto": probabilities when all values lie in [0, 1] and rows sum to 1.

    Raises:
        DataError: a wrong shape, NaN or infinity, or probabilities outside [0, 1].
    """
    _validate.one_of(KINDS, kind=kind)
    values = np.asarray(outputs)
    if values.dtype.kind not in "fiub":
        raise DataError(f"a model must return numbers; got {values.dtype}.")
    values = values.astype(np.float64)
    single = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    if values.ndim not in (1, 2) or len(values) == 0:
        raise DataError(f"a model must return (records, classes); got {values.shape}.")
    if not np.isfinite(values).all():
        raise DataError(f"the model returned NaN or infinity for {int((~np.isfinite(values)).sum())} outputs.")
    if single:
        values = values.reshape(-1, 1)
    probable = kind == "probabilities" or (kind == "auto" and _like_probabilities(values, single=single))
    if probable and (values.min() < 0 or values.max() > 1 + _ROW_SUM_TOLERANCE):
        raise DataError(f"probabilities must lie in [0, 1]; got {values.min():.4g} to {values.max():.4g}.")
    if not probable:
        return np.concatenate([np.zeros_like(values), values], axis=1) if single else values
    if single:
        values = np.concatenate([1 - values, values], axis=1)
    return np.asarray(np.log(np.maximum(values, _FLOOR)))


def _like_probabilities(values: NDArray[np.float64], *, single: bool) -> bool:
    inside = bool(values.min() >= 0 and values.max() <= 1)
    return inside and (single or bool(np.abs(values.sum(axis=1) - 1).max() <= _ROW_SUM_TOLERANCE))
