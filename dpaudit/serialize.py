"""Records to JSON and back, atomic writes, digests. NaN and infinity are refused everywhere."""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from dpaudit.errors import DataError

T = TypeVar("T")
_AS_THEY_ARE = frozenset({str, int, bool, type(None)})


def to_jsonable(value: object) -> Any:
    """Turn records, enums, arrays and containers into plain JSON values; raise DataError for NaN or infinity."""
    kind = type(value)  # short ways for what most of a record is: the ledger writes a line in every round
    if kind in _AS_THEY_ARE or (kind is float and math.isfinite(cast(float, value))):
        return value
    if kind is dict or isinstance(value, Mapping):
        value = cast(Mapping[Any, Any], value)
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic | np.ndarray):
        return to_jsonable(value.tolist())
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [to_jsonable(item) for item in value]
    if isinstance(value, date | datetime | Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"a record holds {value!r}, which JSON cannot carry. Use None with a reason.")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise DataError(f"cannot write {type(value).__name__} as JSON.")


def dumps(value: object, *, indent: int | None = 2) -> str:
    """Return JSON text with sorted keys and shortest-repr floats; the same value always gives the same text."""
    separators = (",", ":") if indent is None else None
    return json.dumps(
        to_jsonable(value), indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=separators
    )


@cache
def _adapter(kind: Hashable) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, kind))


def from_jsonable(kind: type[T], value: object) -> T:
    """Build `kind` (a record or a container of records) from plain JSON values.

    Raises: DataError with every problem, and for anything that was not understood exactly as it was written.
    """
    from pydantic import ValidationError

    name = getattr(kind, "__name__", str(kind))
    try:
        result: T = _adapter(cast(Hashable, kind)).validate_python(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors())
        raise DataError(f"not a valid {name}: {problems}") from error
    _same(value, to_jsonable(result), name)
    return result


def _same(raw: Any, understood: Any, where: str) -> None:
    """Raise DataError where a value was converted or a key was not understood."""
    if isinstance(raw, dict) and isinstance(understood, dict):
        for key, value in raw.items():
            if key not in understood:
                raise DataError(f"unknown key {where}.{key}.")
            _same(value, understood[key], f"{where}.{key}")
    elif isinstance(raw, list) and isinstance(understood, list) and len(raw) == len(understood):
        for index, (one, other) in enumerate(zip(raw, understood, strict=True)):
            _same(one, other, f"{where}[{index}]")
    elif raw != understood or isinstance(raw, bool) != isinstance(understood, bool):
        raise DataError(f"{where} holds {raw!r}, which was read as {understood!r}.")


def _refuse_constant(name: str) -> float:
    raise DataError(f"JSON holds {name}, which is not a number that dpaudit accepts.")


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise DataError(f"JSON repeats the key {key!r}.")
        result[key] = value
    return result


def loads(text: str | bytes) -> Any:
    """Parse JSON; refuse NaN, infinities, repeated keys and nesting beyond the parser's limit, with DataError."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_no_duplicate_keys)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}") from error


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file so that readers see the old content or the new, never a part; synced to disk."""
    payload = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
