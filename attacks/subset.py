"""A part of what was observed: some units, with everything that belongs to them."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import Observed
from dpaudit.errors import DataError


def only(observed: Observed, units: NDArray[np.bool_]) -> Observed:
    """Return the observations of the chosen units, numbered anew in their order; the population stays as it is.

    Raises: DataError for a mask of another length, or without a unit.
    """
    if units.shape != (observed.units,) or units.dtype != np.bool_ or not units.any():
        raise DataError(f"units must be a bool mask of shape ({observed.units},) with some chosen; got {units.shape}.")
    at = units if observed.unit is None else units[observed.unit]
    number = None if observed.unit is None else np.unique(observed.unit[at], return_inverse=True)[1]

    def cut(values: NDArray[Any] | None, axis: int, mask: NDArray[np.bool_] = at) -> NDArray[Any] | None:
        return None if values is None else np.compress(mask, values, axis=axis)

    return replace(
        observed,
        logits=observed.logits[at],
        labels=observed.labels[at],
        unit=number,
        reference_logits=cut(observed.reference_logits, 1),
        reference_in=cut(observed.reference_in, 1, units),
        augmented_logits=cut(observed.augmented_logits, 1),
        reference_augmented=cut(observed.reference_augmented, 2),
        x=cut(observed.x, 0),
        gradient_norm=cut(observed.gradient_norm, 0),
        gradient_alignment=cut(observed.gradient_alignment, 0),
    )


def with_population(observed: Observed, known: NDArray[np.bool_]) -> Observed:
    """Return the observations without the `known` units, which become the population."""
    return replace(only(observed, ~known), population=only(observed, known))
