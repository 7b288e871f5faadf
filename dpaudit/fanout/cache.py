"""Results in files, under the digest of everything that they depend on: what an interrupted campaign goes on from.

One .npz file per result, without pickle: arrays as they are, the rest as JSON, and a seal (SHA-256) over both. A file
that is damaged, or is another result's under a wrong name, counts as missing.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import __version__, serialize
from dpaudit._packages import installed
from dpaudit.errors import UsageError
from dpaudit.fanout.digests import digest_of, digest_of_arrays
from dpaudit.fanout.tasks import Task

Arrays = dict[str, NDArray[Any]]
_SCHEMA = "dpaudit.fanout-result/v1"
_PACKAGES = ("numpy", "scipy", "tensorflow", "keras")


class ResultCache:
    """Results of tasks in a folder, or nowhere: without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        """Keep results in `folder`, which is made at the first result."""
        self._folder = folder
        self._versions = versions()

    def keys(self, tasks: list[Task], shared: Mapping[str, Any]) -> dict[str, str]:
        """Return the digest of each task by its name; nothing where nothing is kept.

        Raises: UsageError for arguments without a digest.
        """
        if self._folder is None:
            return {}
        common = digest_of(shared) if any(task.depends_on is None for task in tasks) else ""
        return {task.name: self._key(task, common) for task in tasks}

    def _key(self, task: Task, common: str) -> str:
        depends = (common, task.arguments) if task.depends_on is None else task.depends_on
        return digest_of([_SCHEMA, task.function, task.version, task.seed, depends, self._versions])

    def path(self, key: str) -> Path | None:
        """Return the file of a result."""
        return None if self._folder is None else self._folder / f"{key[:40]}.npz"

    def load(self, key: str) -> tuple[Any] | None:
        """Return a kept result as a tuple of one; None where there is none, or the file is not what was written."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                held = {name: archive[name] for name in archive.files}
            seal, text = str(held.pop("seal")), str(held.pop("structure"))
            if seal != _seal(key, text, held):
                return None
            return (_decode(serialize.loads(text), held),)
        except Exception:  # a damaged archive raises almost anything
            return None

    def store(self, key: str, value: Any, *, name: str) -> None:
        """Keep the result of the task `name`; readers see the whole file or none.

        Raises: UsageError for a value that is not made of None, numbers, text, arrays, lists, tuples and mappings.
        """
        path = self.path(key)
        if path is None:
            return
        arrays: Arrays = {}
        try:
            text = serialize.dumps(_encode(value, arrays), indent=None)
        except UsageError as error:
            raise UsageError(f"the result of task {name!r} cannot be kept: {error}") from error
        stream = io.BytesIO()
        np.savez(
            stream, allow_pickle=False, structure=np.array(text), seal=np.array(_seal(key, text, arrays)), **arrays
        )
        serialize.write_atomic(path, stream.getvalue(), mode=0o600)


def versions() -> dict[str, str | None]:
    """Return the versions of what numbers depend on, None for what is not installed."""
    return {"dpaudit": __version__, **{name: installed(name) for name in _PACKAGES}}


def _seal(key: str, text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    names = sorted(arrays)
    return digest_of([_SCHEMA, key, text, names, digest_of_arrays(*(arrays[name] for name in names))])


def _encode(value: Any, arrays: Arrays) -> Any:
    """Return JSON that `_decode` turns into the same value of the same types; arrays are put aside."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.hasobject:
            raise UsageError("it holds an array of Python objects; use numbers or text.")
        name = f"array{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if type(value) is list:
        return [_encode(item, arrays) for item in value]
    if type(value) is tuple:
        return {"tuple": [_encode(item, arrays) for item in value]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"mapping": [[key, _encode(item, arrays)] for key, item in value.items()]}
    raise UsageError(
        f"it holds {type(value).__name__}. Return None, numbers, text, arrays, and lists, tuples or dicts of them."
    )


def _decode(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()
    if kind == "float":
        return float(body)
    if kind in ("array", "scalar"):
        return arrays[body] if kind == "array" else arrays[body][()]
    if kind == "tuple":
        return tuple(_decode(item, arrays) for item in body)
    return {key: _decode(item, arrays) for key, item in body}
