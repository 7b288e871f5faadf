"""What a result depends on, as one digest: values, arrays, records and functions, each with its type."""

import functools
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.errors import UsageError


def digest_of(value: object) -> str:
    """Return the SHA-256 of a value; values of different types or contents have different digests.

    Understands None, numbers, text, bytes, paths, ranges, enums, arrays, lists, tuples, sets, mappings, records
    (dataclasses and pydantic models), functions and classes of modules, bound methods of such values, and
    `functools.partial`. A function counts by its name and its source text, not by what it calls.

    Raises: UsageError for anything else, and for functions without a name of their own (lambdas, closures).
    """
    return serialize.sha256_bytes(serialize.dumps(_plain(value), indent=None).encode())


def digest_of_arrays(*arrays: NDArray[np.generic]) -> str:
    """Return the SHA-256 of shapes, types and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.hasobject:
            raise UsageError("arrays of Python objects have no digest; use numbers or text.")
        digest.update(str((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Return a tree of lists of text that tells any two values apart."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | range | PurePath):
        if isinstance(value, Enum):
            return ["enum", _name(type(value)), value.name]
        kind = "path" if isinstance(value, PurePath) else type(value).__name__
        return [kind, str(value) if isinstance(value, str | PurePath) else repr(value)]
    if isinstance(value, np.ndarray | np.generic):
        return [type(value).__name__, digest_of_arrays(np.asarray(value))]
    return _container(value) or _record(value) or _callable(value)


def _container(value: Any) -> list[Any] | None:
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [type(value).__name__, [_plain(item) for item in value]]
    if isinstance(value, tuple):  # a named tuple
        return ["record", _name(type(value)), [_plain(item) for item in value]]
    if isinstance(value, set | frozenset):
        return ["set", sorted(serialize.dumps(_plain(item), indent=None) for item in value)]
    if isinstance(value, Mapping):
        pairs = [[_plain(key), _plain(item)] for key, item in value.items()]
        return ["mapping", sorted(pairs, key=lambda pair: serialize.dumps(pair[0], indent=None))]
    return None


def _record(value: Any) -> list[Any] | None:
    if isinstance(value, Enum):
        return ["enum", _name(type(value)), value.name]
    if is_dataclass(value) and not isinstance(value, type):
        return ["record", _name(type(value)), [[f.name, _plain(getattr(value, f.name))] for f in fields(value)]]
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return ["record", _name(type(value)), _plain(value.model_dump())]
    return None


def _callable(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return ["partial", _plain(value.func), _plain(value.args), _plain(value.keywords)]
    if isinstance(value, MethodType):
        return ["method", value.__name__, _plain(value.__self__)]
    if isinstance(value, FunctionType | type):
        return ["function", _name(value), _source(value)]
    raise UsageError(
        f"{type(value).__name__} has no digest, so that results cannot be kept by it. Give plain data, arrays, "
        "records and functions of modules."
    )


def _name(value: Any) -> str:
    name = f"{value.__module__}:{value.__qualname__}"
    if "<" in name:
        raise UsageError(f"{name} has no name of its own, so that results cannot be kept by it. Define it in a module.")
    return name


def _source(value: Any) -> str | None:
    try:
        return serialize.sha256_bytes(inspect.getsource(value).encode())
    except (OSError, TypeError):
        return None
