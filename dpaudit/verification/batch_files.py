"""Recorded batches from files, for the sampling check: .npz, .csv or .jsonl."""

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.errors import DataError

Batches = list[NDArray[np.int64]]


def read_batches(path: Path, *, population: int | None = None, rounds: int | None = None) -> tuple[Batches, int]:
    """Read who was in which batch; return the indices of each batch, and the number of units.

    * .npz with `participation` (rounds, units) of 0 and 1; or `batches` (rounds, size) of indices; or `indices` and
      `offsets` (rounds + 1): batch t is indices[offsets[t]:offsets[t + 1]];
    * .csv with the columns `batch` and `index`, one row per participation (batches numbered from 0);
    * .jsonl with one list of indices per line.

    Args:
        path: the file.
        population: number of units; None takes the largest index plus one.
        rounds: number of batches, for a .csv whose last batches are empty.

    Raises: DataError for anything that is not a record of batches.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    if path.suffix == ".npz":
        arrays = _npz(path)
        if "participation" in arrays:
            record = _matrix(path, arrays["participation"])
            return [np.flatnonzero(row) for row in record], record.shape[1]
        batches = _of_arrays(path, arrays)
    elif path.suffix == ".csv":
        batches = _csv(path, rounds)
    elif path.suffix == ".jsonl":
        batches = _jsonl(path)
    else:
        raise DataError(f"{path} must end in .npz, .csv or .jsonl.")
    largest = max((int(batch.max()) for batch in batches if len(batch)), default=-1)
    return batches, largest + 1 if population is None else population


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz of named arrays: {error}.") from error


def _matrix(path: Path, values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not ((values == 0) | (values == 1)).all():
        raise DataError(f"{path}: participation must be (rounds, units) of 0 and 1; got {values.dtype} {values.shape}.")
    return values.astype(np.bool_)


def _whole(path: Path, what: str, values: Any) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
        wide = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {what} must hold whole numbers ({error}).") from error
    if array.dtype.kind == "b" or not np.isfinite(wide).all() or not np.array_equal(wide, np.floor(wide)):
        raise DataError(f"{path}: {what} must hold whole numbers.")
    return wide.astype(np.int64)


def _of_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> Batches:
    if "batches" in arrays and arrays["batches"].ndim == 2:
        return list(_whole(path, "batches", arrays["batches"]))
    if "indices" not in arrays or "offsets" not in arrays:
        raise DataError(f"{path} needs participation, batches, or indices and offsets; it holds {', '.join(arrays)}.")
    indices, offsets = _whole(path, "indices", arrays["indices"]), _whole(path, "offsets", arrays["offsets"])
    ordered = offsets.ndim == indices.ndim == 1 and len(offsets) > 0 and bool((np.diff(offsets) >= 0).all())
    if not ordered or offsets[0] != 0 or offsets[-1] != len(indices):
        raise DataError(f"{path}: offsets must rise from 0 to the number of indices, {len(indices)}.")
    return np.split(indices, offsets[1:-1]) if len(offsets) > 1 else []


def _csv(path: Path, rounds: int | None) -> Batches:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if not rows or not {"batch", "index"} <= set(rows[0]):
        raise DataError(f"{path} needs the columns 'batch' and 'index' and at least one row.")
    number = _whole(path, "column 'batch'", [row["batch"] or "" for row in rows])
    index = _whole(path, "column 'index'", [row["index"] or "" for row in rows])
    total = int(number.max()) + 1 if rounds is None else rounds
    if number.min() < 0 or number.max() >= total or total > 10 * len(rows) + 1_000_000:
        raise DataError(f"{path}: batches must be numbered 0..{total - 1}; found {number.min()} to {number.max()}.")
    order = np.argsort(number, kind="stable")
    return np.split(index[order], np.searchsorted(number[order], np.arange(1, total)))


def _jsonl(path: Path) -> Batches:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    batches = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            batch = _whole(path, f"line {number}", serialize.loads(line))
            if batch.ndim != 1:
                raise DataError(f"{path}: line {number} must be a list of indices.")
            batches.append(batch)
    return batches
