"""Weights of trained models, kept in files under the digest of what they depend on, and filled by several processes."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.errors import MissingDependency

Floats = NDArray[np.float32]
Job = Callable[[], Floats]


def digest_of_arrays(*arrays: NDArray[np.generic]) -> str:
    """Return the SHA-256 of shapes, types and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class ModelCache:
    """Results of jobs by name; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, facts: Mapping[str, object]) -> None:
        """Keep results in `folder`, under the digest of `facts`."""
        self._folder = folder
        self._digest = serialize.sha256_bytes(serialize.dumps(dict(facts)).encode())[:32]

    def path(self, name: str) -> Path | None:
        """Return the file of a result."""
        return None if self._folder is None else self._folder / f"{self._digest}-{name}.npz"

    def load(self, name: str, shape: tuple[int, ...]) -> Floats | None:
        """Return a kept result; None where there is none, or the file is not what was written."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                values, stated = archive["values"], str(archive["sha256"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        fits = values.shape == shape and values.dtype == np.float32 and digest_of_arrays(values) == stated
        return values if fits else None

    def store(self, name: str, values: Floats) -> None:
        """Keep a result; readers see the whole file or none."""
        path = self.path(name)
        if path is None:
            return
        stream = io.BytesIO()
        np.savez(stream, values=values, sha256=np.array(digest_of_arrays(values)))
        serialize.write_atomic(path, stream.getvalue(), mode=0o600)

    def run(
        self, names: Sequence[str], jobs: Sequence[Job], shapes: Sequence[tuple[int, ...]], processes: int
    ) -> list[Floats]:
        """Return the results of all jobs, running those that are not kept; each is stored when it is done."""
        found = {name: self.load(name, shape) for name, shape in zip(names, shapes, strict=True)}
        missing = [(name, job) for name, job in zip(names, jobs, strict=True) if found[name] is None]
        if processes > 1 and len(missing) > 1:
            fresh = _fan_out([(self, name, job) for name, job in missing], processes)
        else:
            fresh = [_run_and_store(self, name, job) for name, job in missing]
        found |= dict(zip((name for name, _ in missing), fresh, strict=True))
        return [values for values in found.values() if values is not None]


def _run_and_store(cache: ModelCache, name: str, job: Job) -> Floats:
    values = job()
    cache.store(name, values)
    return values


def _fan_out(tasks: list[tuple[ModelCache, str, Job]], processes: int) -> list[Floats]:
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise MissingDependency("several processes need joblib: pip install 'dpaudit[train]'.") from error
    results: list[Floats] = Parallel(n_jobs=processes)(delayed(_run_and_store)(*task) for task in tasks)
    return results
