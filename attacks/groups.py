"""Groups that the user names (clients, classes, sub-populations), one value per record, from a file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.files import read_arrays
from dpaudit.errors import DataError

Groupings = dict[str, NDArray[np.str_]]

EVERYONE = "everyone"
"""The group that every report judges; no file may name another so."""


def read_groups(path: Path, *, records: int, unit: NDArray[np.integer[Any]] | None) -> Groupings:
    """Read groupings: each array of an .npz, or each column of a .csv or .parquet file, is one.

    Groups must be known without the model and without membership (who holds the record, its label, a property of the
    person): a group that was chosen by its scores makes the intervals of `exposure.group_results` void.

    Args:
        path: the file; every array has one value per record, in the order of the records under attack.
        records: how many records are under attack.
        unit: number 0, 1, ... of the privacy unit of each record (records,), or None where a record is a unit.

    Returns: name of the grouping to the group of each unit, (units,), as text.

    Raises: DataError for a file that cannot be read, another number of values, a value that is missing, or a unit
        whose records are in several groups.
    """
    arrays = read_arrays(path)
    if EVERYONE in arrays:
        raise DataError(f"{path}: a grouping must not be called {EVERYONE!r}, which is always reported. Rename it.")
    return {name: _of_units(path, name, _text(path, name, arrays[name], records), unit) for name in arrays}


def _text(path: Path, name: str, values: NDArray[Any], records: int) -> NDArray[np.str_]:
    if values.shape != (records,):
        raise DataError(
            f"{path}: {name!r} must hold one group for each of the {records} records under attack, shape ({records},); "
            f"got {values.shape}. Give those of --members first, then those of --non-members."
        )
    text = np.array([str(value).strip() for value in values.tolist()])
    lost = values.dtype.kind in "fO" and np.isin(text, ("nan", "None", "<NA>", "NaT"))
    missing = int(np.count_nonzero((text == "") | lost))
    if missing:
        raise DataError(f"{path}: {name!r} names no group for {missing} records. Write 'unknown', say, for those.")
    return text


def _of_units(
    path: Path, name: str, text: NDArray[np.str_], unit: NDArray[np.integer[Any]] | None
) -> NDArray[np.str_]:  # fmt: skip
    if unit is None:
        return text
    first = np.unique(unit, return_index=True)[1]
    by_unit = text[first]
    torn = np.flatnonzero(by_unit[unit] != text)
    if torn.size:
        raise DataError(
            f"{path}: {name!r} puts the records of one unit into the groups {by_unit[unit[torn[0]]]!r} and "
            f"{text[torn[0]]!r}; a group must hold whole units."
        )
    return by_unit
