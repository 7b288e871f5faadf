"""Examples from files: .npz, .csv, .parquet; everything that could poison training is refused here, with a remedy."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError, MissingDependency


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Features float32 (n, ...), labels int32 (n,) in 0..classes-1, and a client id of any kind per example."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    client: NDArray[np.generic] | None
    classes: int


def read(path: Path, *, label: str, client: str | None) -> Table:
    """Read examples from a file.

    Args:
        path: .npz with arrays `x`, `y` and optionally `client` and the scalar `classes` (read with
            allow_pickle=False); .csv or .parquet with one example per row, whose other columns are all features.
        label: name of the label column (.csv, .parquet).
        client: name of the column that says which client holds the example, or None.

    Raises: DataError for anything that cannot be trained on; MissingDependency without pyarrow for .parquet.
    """
    readers = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(
            f"data.source must be 'digits', 'iot' or a file that ends in {', '.join(readers)}; got {str(path)!r}."
        )
    if not path.is_file():
        raise DataError(f"there is no data file {str(path)!r}. Check data.source; paths are relative to where you run.")
    x, y, held_by, classes = readers[path.suffix](path, label, client)
    return checked(str(path), x, y, held_by, classes)


Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, int | None]


def _read_npz(path: Path, label: str, client: str | None) -> Raw:  # noqa: ARG001 - one signature for all readers
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one bare array; an .npz with arrays 'x' and 'y' is needed.")
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}.") from error
    missing = [name for name in ("x", "y") if name not in arrays]
    if client is not None and "client" not in arrays:
        missing.append("client")
    if missing:
        raise DataError(f"{path} has no array {', '.join(map(repr, missing))}; it holds {', '.join(sorted(arrays))}.")
    classes = arrays.get("classes")
    if classes is not None and (classes.size != 1 or not np.issubdtype(classes.dtype, np.integer) or classes < 2):
        raise DataError(f"{path}: 'classes' must be one whole number of at least 2; got {classes!r}.")
    return arrays["x"], arrays["y"], arrays.get("client"), None if classes is None else int(classes.item())


def _columns(path: Path, names: Sequence[str], label: str, client: str | None) -> list[str]:
    """Return the feature columns; raise DataError when a named column is not there."""
    for name in (label, client):
        if name is not None and name not in names:
            raise DataError(f"{path} has no column {name!r}; its columns are {', '.join(names)}.")
    if len(set(names)) != len(names):
        raise DataError(f"{path} has two columns of the same name; rename one.")
    return [name for name in names if name not in (label, client)]


def _numbers(path: Path, name: str, values: Any) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: column {name!r} must hold numbers ({error}). Encode or drop it.") from error


def _read_csv(path: Path, label: str, client: str | None) -> Raw:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if not rows:
        raise DataError(f"{path} is empty; a header row and examples are needed.")
    header, body = rows[0], [row for row in rows[1:] if row]
    uneven = next((i for i, row in enumerate(body, start=2) if len(row) != len(header)), None)
    if uneven is not None:
        raise DataError(f"{path}: row {uneven} does not have {len(header)} fields as the header does.")
    features = _columns(path, header, label, client)
    table = np.array(body, dtype=np.str_).reshape(len(body), len(header))
    by_name = {name: table[:, i] for i, name in enumerate(header)}
    return _assemble(path, by_name, features, label, client)


def _read_parquet(path: Path, label: str, client: str | None) -> Raw:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency("reading .parquet needs pyarrow: pip install 'dpaudit[parquet]'.") from error
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    features = _columns(path, table.column_names, label, client)
    by_name = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
    return _assemble(path, by_name, features, label, client)


def _assemble(path: Path, by_name: dict[str, NDArray[Any]], features: list[str], label: str, client: str | None) -> Raw:
    if not features:
        raise DataError(f"{path} has no feature column beside the label.")
    x = np.stack([_numbers(path, name, by_name[name]) for name in features], axis=1)
    return x, _numbers(path, label, by_name[label]), None if client is None else by_name[client], None


def checked(path: str, x: NDArray[Any], y: NDArray[Any], held_by: NDArray[Any] | None, classes: int | None) -> Table:
    """Return arrays as a table once they are fit for training; `path` names the source in messages.

    Raises: DataError for wrong shapes, NaN or infinity, labels that are not 0..K-1, missing clients, no example.
    """
    if x.ndim < 2 or y.ndim != 1 or x.shape[0] != y.shape[0] or 0 in x.shape[1:]:
        raise DataError(f"{path}: x must be (examples, features...) and y (examples,); got {x.shape} and {y.shape}.")
    if y.size == 0:
        raise DataError(f"{path} holds no example.")
    if held_by is not None and (held_by.shape != y.shape or _has_missing(held_by)):
        raise DataError(f"{path}: every example needs a client id; got shape {held_by.shape} for {y.size} examples.")
    return Table(x=_finite(path, x), y=_labels(path, y, classes), client=held_by, classes=classes or int(y.max()) + 1)


def _has_missing(held_by: NDArray[Any]) -> bool:
    if held_by.dtype.kind == "f":
        return not bool(np.isfinite(held_by).all())
    return held_by.dtype.kind == "O" and any(item is None for item in held_by)


def _finite(path: str, x: NDArray[Any]) -> NDArray[np.float32]:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x must hold numbers; got dtype {x.dtype}.")
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    bad = ~np.isfinite(single).reshape(len(single), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"{path}: features must be finite numbers within float32; {int(bad.sum())} of {bad.size} examples hold NaN "
            f"or infinity, the first is example {int(np.argmax(bad))}. Remove or repair them."
        )
    return single


def _labels(path: str, y: NDArray[Any], classes: int | None) -> NDArray[np.int32]:
    """Return labels as int32 once they are known to be 0..K-1; unless `classes` is given, every one must occur."""
    if y.dtype.kind not in "fiub" or not np.isfinite(y).all() or not np.array_equal(y, np.floor(y)):
        raise DataError(f"{path}: labels must be whole numbers 0..K-1. Encode them, and remove missing ones.")
    if y.min() < 0:
        raise DataError(f"{path}: labels must be at least 0; the smallest is {y.min()}. Renumber them 0..K-1.")
    if classes is not None and y.max() >= classes:
        raise DataError(f"{path}: labels must be below classes = {classes}; the largest is {y.max()}.")
    present = np.unique(y)
    if classes is None and (present.size != int(y.max()) + 1 or present.size < 2):
        raise DataError(
            f"{path}: labels must be 0..K-1 with K >= 2 and every one present; {present.size} different labels go up "
            f"to {int(y.max())}. Renumber them, or give the scalar 'classes' in an .npz."
        )
    return y.astype(np.int32)
