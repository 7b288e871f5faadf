"""Arrays from files for attacks: records to query a model with, or outputs of a model of any framework."""

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks.base import Observed
from dpaudit.attacks.outputs import as_logits
from dpaudit.errors import DataError, MissingDependency
from dpaudit.records import ScoreSet

Arrays = dict[str, NDArray[Any]]

SUFFIXES = (".npz", ".csv", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Records of one side: x (n, ...), labels y (n,), and the privacy unit of each record or None."""

    x: NDArray[Any]
    y: NDArray[np.int64]
    unit: NDArray[Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a file of outputs holds: finished `scores` with their name, or `observed` with membership apart.

    `rows` (members first, then non-members) is the row of the file in which each score stands.
    """

    name: str | None = None
    scores: ScoreSet | None = None
    rows: NDArray[np.intp] | None = None
    observed: Observed | None = None
    is_member: NDArray[np.bool_] | None = None


def read_arrays(path: Path) -> Arrays:
    """Read named arrays: an .npz (without pickles), or the columns of a .csv or .parquet file.

    Raises: DataError for a missing, unreadable or empty file; MissingDependency without pyarrow for .parquet.
    """
    readers = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(f"{path} must end in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    arrays = readers[path.suffix](path)
    if not arrays:
        raise DataError(f"{path} holds no array.")
    return arrays


def _npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one bare array; save named arrays with numpy.savez.")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}.") from error


def _csv(path: Path) -> Arrays:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if len(rows) < 2:
        raise DataError(f"{path} needs a header and at least one row.")
    uneven = next((i for i, row in enumerate(rows, start=1) if len(row) != len(rows[0])), None)
    if uneven is not None:
        raise DataError(f"{path}: row {uneven} has {len(rows[uneven - 1])} fields, the header {len(rows[0])}.")
    table = np.array(rows[1:])
    return {name: table[:, i] for i, name in enumerate(rows[0])}


def _parquet(path: Path) -> Arrays:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency("reading .parquet needs pyarrow: pip install 'dpaudit[parquet]'.") from error
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def numbers(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return an array as finite float64; raise DataError for text, NaN or infinity."""
    try:
        wide = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {name!r} must hold numbers ({error}).") from error
    bad = int(np.count_nonzero(~np.isfinite(wide)))
    if bad:
        raise DataError(f"{path}: {name!r} holds {bad} values that are NaN or infinite. Remove or repair them.")
    return wide


def whole(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return an array as whole numbers; raise DataError for anything else."""
    wide = numbers(path, name, values)
    if not np.array_equal(wide, np.floor(wide)) or np.abs(wide).max(initial=0) > 2**53:
        raise DataError(f"{path}: {name!r} must hold whole numbers.")
    return wide.astype(np.int64)


def flags(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return an array of 0 and 1 (or true and false) as bool."""
    if values.dtype == np.bool_:
        return values
    if values.dtype.kind in "UO":
        words = {"true": 1, "false": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}
        values = np.array([words.get(str(value).strip().lower(), -1) for value in values.ravel()])
    wide = whole(path, name, values)
    if not np.isin(wide, (0, 1)).all():
        raise DataError(f"{path}: {name!r} must hold only 0 and 1 (1 = member).")
    return wide.astype(np.bool_)


def read_examples(path: Path, *, label: str = "label") -> Examples:
    """Read the records of one side.

    .npz: arrays `x` (n, ...) and `y` (n,), optionally `unit` (n,). .csv and .parquet: the column `label`, optionally
    `unit`; every other column is a feature.

    Raises: DataError for missing arrays, shapes that do not fit, or fewer than 2 records.
    """
    arrays = read_arrays(path)
    if path.suffix != ".npz":
        features = [name for name in arrays if name not in (label, "unit")]
        if label not in arrays or not features:
            raise DataError(f"{path} needs a column {label!r} and at least one feature; it has {', '.join(arrays)}.")
        columns = [numbers(path, name, arrays[name]) for name in features]
        arrays = {"x": np.stack(columns, axis=1), "y": arrays[label]} | {k: arrays[k] for k in ("unit",) if k in arrays}
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {' and '.join(missing)}; it holds {', '.join(sorted(arrays))}.")
    x, y, unit = arrays["x"], whole(path, "y", arrays["y"]), arrays.get("unit")
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y) or (unit is not None and unit.shape != y.shape):
        raise DataError(f"{path}: x must be (n, ...) and y (n,); got {x.shape} and {y.shape}.")
    if len(y) < 2:
        raise DataError(f"{path} holds {len(y)} record(s); an attack needs at least 2 on each side.")
    if x.dtype.kind in "fiu":
        numbers(path, "x", x)
    return Examples(x=x, y=y, unit=unit)


def read_outputs(path: Path, *, kind: str = "auto") -> Given:
    """Read outputs of any framework; see the table.

    * `member`, `non_member`: scores (higher = more likely a member); `member_loss`, `non_member_loss`: losses (.npz);
    * `member` (0/1) with `score` or `loss`, one row per record (.csv, .parquet, .npz);
    * `member` (0/1), `label` and `logit_0`, `logit_1`, ... (.csv, .parquet);
    * `logits` (n, classes), `labels` (n,), `is_member`, optionally `unit`, `reference_logits`, `reference_in` (.npz).

    Args:
        path: the file.
        kind: what `logits` holds: "logits", "probabilities", or "auto" (see `outputs.as_logits`).

    Raises: DataError when none of these fits, or a side has fewer than 2 records.
    """
    arrays = read_arrays(path)
    for name, sign in (("score", 1.0), ("loss", -1.0)):
        tag = "" if name == "score" else "_loss"
        if f"member{tag}" in arrays and f"non_member{tag}" in arrays:
            sides = [sign * numbers(path, side + tag, arrays[side + tag]) for side in ("member", "non_member")]
            return _finished(path, name, *(side.ravel() for side in sides))
        if name in arrays and "member" in arrays:
            member, values = flags(path, "member", arrays["member"]), sign * numbers(path, name, arrays[name])
            if member.shape != values.shape or values.ndim != 1:
                raise DataError(f"{path}: 'member' and {name!r} must have one value per record each.")
            rows = np.concatenate([np.flatnonzero(member), np.flatnonzero(~member)])
            return _finished(path, name, values[member], values[~member], rows=rows)
    return _observed(path, _with_logits(path, arrays), kind)


def _finished(
    path: Path, name: str, member: NDArray[np.float64], other: NDArray[np.float64],
    *, rows: NDArray[np.intp] | None = None,
) -> Given:  # fmt: skip
    check_sides(path, len(member), len(other))
    in_order = np.arange(len(member) + len(other))
    return Given(name=name, scores=ScoreSet(member=member, non_member=other), rows=in_order if rows is None else rows)


def check_sides(where: object, members: int, non_members: int) -> None:
    """Raise DataError unless both sides have at least 2 records."""
    if min(members, non_members) < 2:
        raise DataError(f"{where}: an attack needs at least 2 records on each side; got {members} and {non_members}.")


def _with_logits(path: Path, arrays: Arrays) -> Arrays:
    """Turn columns logit_0, logit_1, ... into one array, or leave the arrays of an .npz as they are."""
    columns = sorted(
        (name for name in arrays if name.startswith("logit_") and name[6:].isdigit()), key=lambda n: int(n[6:])
    )
    if columns and "label" in arrays and "member" in arrays:
        logits = np.stack([numbers(path, name, arrays[name]) for name in columns], axis=1)
        kept = {"logits": logits, "labels": arrays["label"], "is_member": arrays["member"]}
        return kept | {k: arrays[k] for k in ("unit",) if k in arrays}
    missing = [name for name in ("logits", "labels", "is_member") if name not in arrays]
    if missing:
        raise DataError(
            f"{path} holds {', '.join(sorted(arrays))}; needed are scores (member, non_member), losses (member_loss, "
            "non_member_loss), a table (member with score or loss), or logits, labels and is_member."
        )
    return arrays


def _observed(path: Path, arrays: Arrays, kind: str) -> Given:
    member = flags(path, "is_member", arrays["is_member"])
    check_sides(path, int(member.sum()), int((~member).sum()))
    labels = whole(path, "labels", arrays["labels"])
    logits = as_logits(numbers(path, "logits", arrays["logits"]), kind=kind)
    unit, by_unit = unit_numbers(path, arrays.get("unit"), member)
    reference = arrays.get("reference_logits")
    inside = arrays.get("reference_in")
    observed = Observed(
        logits=logits,
        labels=labels,
        unit=unit,
        reference_logits=None if reference is None else np.stack([as_logits(model, kind=kind) for model in reference]),
        reference_in=None if inside is None else flags(path, "reference_in", inside),
    )
    return Given(observed=observed, is_member=by_unit)


def unit_numbers(
    where: object, unit: NDArray[Any] | None, member: NDArray[np.bool_]
) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_]]:
    """Number units 0, 1, ... and return them with the membership of each; raise DataError for a unit on both sides."""
    if unit is None:
        return None, member
    if unit.shape != member.shape:
        raise DataError(f"{where}: 'unit' must hold one value per record, {member.shape}; got {unit.shape}.")
    codes = np.unique(unit, return_inverse=True)[1].astype(np.int64)
    by_unit = np.zeros(int(codes.max()) + 1, dtype=np.bool_)
    by_unit[codes] = member
    if not np.array_equal(by_unit[codes], member):
        raise DataError(f"{where}: some unit is on both sides; a unit is a member or it is not.")
    return codes, by_unit
