"""Scores from files of any framework: .npz, .csv, .parquet. No pickle; NaN, infinity and missing values are refused."""

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import DataError, MissingDependency
from dpaudit.estimation.sources import ArraySource, Source, StreamSource
from dpaudit.records import ScoreSet

IN_MEMORY = 5_000_000  # scores; longer Parquet files are read in batches, on every pass
BATCH = 1_000_000
_TRUE, _FALSE = {"1", "true", "t", "yes", "1.0"}, {"0", "false", "f", "no", "0.0"}

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]


def read_scores(path: Path) -> Source:
    """Return the scores of a file.

    `.npz` holds arrays `member` and `non_member`; `.csv` and `.parquet` hold columns `score` and `member` (1/0 or
    true/false). Parquet files of more than five million rows are never held in memory as a whole.

    Raises:
        DataError: for a file that is missing, of another kind, or holds other things than finite numbers.
        MissingDependency: for Parquet without pyarrow.
    """
    readers = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet, ".pq": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"scores must be a .npz, .csv or .parquet file; got {path.name!r}.")
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    return readers[path.suffix.lower()](path)


def _read_npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"member", "non_member"} - set(arrays.files)
            if missing:
                names = ", ".join(arrays.files)
                raise DataError(f"{path.name} must hold arrays member and non_member; it holds {names or 'none'}.")
            member, other = arrays["member"], arrays["non_member"]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} cannot be read as .npz without pickle: {error}") from error
    return ArraySource(
        ScoreSet(member=_validate.finite_vector(member=member), non_member=_validate.finite_vector(non_member=other))
    )


def _split(scores: Floats, member: Bits, path: Path) -> ScoreSet:
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise DataError(f"{path.name} holds {bad} scores that are NaN or infinite. Remove or repair them.")
    return ScoreSet(member=scores[member], non_member=scores[~member])


def _read_csv(path: Path) -> Source:
    scores: list[float] = []
    member: list[bool] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            header = [name.strip() for name in next(rows, [])]
            if not {"score", "member"} <= set(header):
                found = ", ".join(header) or "none"
                raise DataError(f"{path.name} must have columns score and member; it has {found}.")
            i, j = header.index("score"), header.index("member")
            for number, row in enumerate(rows, start=2):
                if row:
                    scores.append(_number(row, i, path, number))
                    member.append(_bit(row, j, path, number))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a CSV file: {error}") from error
    return ArraySource(_split(np.array(scores, dtype=np.float64), np.array(member, dtype=bool), path))


def _number(row: list[str], column: int, path: Path, line: int) -> float:
    try:
        return float(row[column])
    except (ValueError, IndexError) as error:
        raise DataError(f"{path.name}, line {line}: score must be a number; the row is {row!r}.") from error


def _bit(row: list[str], column: int, path: Path, line: int) -> bool:
    text = row[column].strip().lower() if len(row) > column else ""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise DataError(f"{path.name}, line {line}: member must be 1, 0, true or false; the row is {row!r}.")


def _read_parquet(path: Path) -> Source:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        message = "reading Parquet needs pyarrow; install it with: pip install 'dpaudit[parquet]'"
        raise MissingDependency(message) from error
    try:
        with pq.ParquetFile(path) as file:
            names, rows = set(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {error}") from error
    if not {"score", "member"} <= names:
        raise DataError(f"{path.name} must have columns score and member; it has {', '.join(sorted(names))}.")
    batches = _parquet_batches(path)
    if rows > IN_MEMORY:
        return StreamSource(batches)
    parts = list(batches())
    empty = np.zeros(0)
    return ArraySource(
        ScoreSet(
            member=np.concatenate([empty, *(p.member for p in parts)]),
            non_member=np.concatenate([empty, *(p.non_member for p in parts)]),
        )
    )


def _parquet_batches(path: Path) -> Callable[[], Iterator[ScoreSet]]:
    def read() -> Iterator[ScoreSet]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=["score", "member"], use_threads=False):
                scores, member = batch.column("score"), batch.column("member")
                if scores.null_count or member.null_count:
                    raise DataError(f"{path.name} has missing values in score or member. Remove or repair them.")
                try:
                    values = scores.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # rounds, as NumPy
                    bits = member.cast(pa.float64() if not pa.types.is_boolean(member.type) else pa.bool_())
                except pa.ArrowException as error:
                    raise DataError(
                        f"{path.name}: score must be numbers and member 1/0 or true/false: {error}"
                    ) from error
                flags = np.asarray(bits.to_numpy(zero_copy_only=False))
                if not np.all((flags == 0) | (flags == 1)):
                    raise DataError(f"{path.name}: member must be 1/0 or true/false; found other numbers.")
                yield _split(np.asarray(values, dtype=np.float64), flags.astype(bool), path)

    return read
