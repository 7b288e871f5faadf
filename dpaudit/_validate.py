"""Checks of arguments. Keyword names become the names in the messages, so that a call reads as English."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpaudit.errors import DataError, UsageError


def positive(**values: float) -> None:
    """Raise UsageError unless every value is finite and > 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} must be finite and greater than 0; got {value!r}.")


def non_negative(**values: float) -> None:
    """Raise UsageError unless every value is finite and >= 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{name} must be finite and at least 0; got {value!r}.")


def open_unit_interval(**values: float) -> None:
    """Raise UsageError unless every value lies strictly between 0 and 1."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise UsageError(f"{name} must lie strictly between 0 and 1; got {value!r}.")


def probability(**values: float) -> None:
    """Raise UsageError unless every value lies in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{name} must lie in [0, 1]; got {value!r}.")


def sampling_rate(**values: float) -> None:
    """Raise UsageError unless every value lies in (0, 1]."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise UsageError(f"{name} must lie in (0, 1]; got {value!r}.")


def positive_integer(**values: int) -> None:
    """Raise UsageError unless every value is a whole number >= 1."""
    for name, value in values.items():
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise UsageError(f"{name} must be a whole number of at least 1; got {value!r}.")


def finite_vector(**values: ArrayLike) -> NDArray[np.float64]:
    """Return the one value as a float64 vector; raise DataError for NaN, infinity or a wrong shape."""
    ((name, value),) = values.items()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers; got {type(value).__name__} ({error}).") from error
    if array.ndim != 1:
        raise DataError(f"{name} must be one-dimensional; got shape {array.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(
            f"{name} must be finite; {bad} of {array.size} values are NaN or infinite, the first at index {first}. "
            "Remove or repair them."
        )
    return array


def one_of(options: Mapping[str, object] | tuple[str, ...], **values: str) -> None:
    """Raise UsageError unless the value is one of the options."""
    for name, value in values.items():
        if value not in options:
            raise UsageError(f"{name} must be one of {', '.join(options)}; got {value!r}.")
