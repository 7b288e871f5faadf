"""Files of an evidence bundle: read from untrusted hands, written so that readers see the old bundle or the new.

Every file is read once, into memory, within a size limit, without following links; what was hashed is what is parsed.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.errors import EvidenceError, OutputExists

MANIFEST = "manifest.json"
SCHEMA = "dpaudit.evidence/v2"
LIMITS = {".json": 64 << 20, ".jsonl": 1 << 30, ".npz": 2 << 30}
MANIFEST_LIMIT = 1 << 20
MAX_ENTRIES = 64


def list_files(root: Path) -> list[str]:
    """Return the names in a bundle's folder; raise EvidenceError for anything that is not a plain file in it."""
    names = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    raise EvidenceError(
                        f"{entry.name!r} in {root} is a link or no plain file; a bundle holds plain files."
                    )
                names.append(entry.name)
                if len(names) > MAX_ENTRIES:
                    raise EvidenceError(f"{root} holds more than {MAX_ENTRIES} files; it is not an evidence bundle.")
    except OSError as error:
        raise EvidenceError(f"cannot open the evidence {root}: {error.strerror}.") from error
    return sorted(names)


def read_plain(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file of at most `limit` bytes; never follow a link, never wait for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise EvidenceError(f"{path.name!r} is not a plain file.")
            if facts.st_size > limit:
                raise EvidenceError(f"{path.name!r} holds {facts.st_size} bytes; at most {limit} are read.")
            data = stream.read(limit + 1)
    except OSError as error:
        raise EvidenceError(f"cannot read {path.name!r}: {error.strerror}.") from error
    if len(data) > limit:
        raise EvidenceError(f"{path.name!r} grew beyond {limit} bytes while it was read.")
    return data


def limit_of(name: str) -> int:
    """Return the largest size that is read for a file of this name."""
    return LIMITS[Path(name).suffix]


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an .npz without pickle; the same arrays give the same bytes."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            entry = BytesIO()
            np.lib.format.write_array(entry, arrays[name], allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())
    return buffer.getvalue()


def unpack_arrays(name: str, data: bytes, limit: int) -> dict[str, NDArray[Any]]:
    """Read an .npz: no pickle, no expansion beyond `limit` bytes, every value finite; raise EvidenceError otherwise."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > limit:
                raise EvidenceError(f"{name!r} would expand beyond {limit} bytes.")
            keys = [member.filename for member in members]
            if len(set(keys)) != len(keys) or len(keys) > MAX_ENTRIES:
                raise EvidenceError(f"{name!r} repeats a name or holds more than {MAX_ENTRIES} arrays.")
        with np.load(BytesIO(data), allow_pickle=False) as loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except EvidenceError:
        raise
    except Exception as error:
        raise EvidenceError(f"{name!r} is not an array file that can be read without pickle: {error}") from error
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise EvidenceError(f"{name!r} holds {key!r}, which is not an array of numbers.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EvidenceError(f"{name!r} holds NaN or infinite values in {key!r}.")
    return arrays


def write_folder(root: Path, files: Mapping[str, bytes], known: frozenset[str]) -> None:
    """Write a bundle beside `root` and move it into place; an older bundle is replaced as a whole.

    Raises: OutputExists if `root` holds anything but an older bundle made by dpaudit.
    """
    _refuse_foreign(root, known)
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
    try:
        for name, data in files.items():
            serialize.write_atomic(fresh / name, data)
        _swap(fresh, root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse_foreign(root: Path, known: frozenset[str]) -> None:
    if not os.path.lexists(root):
        return
    if root.is_symlink() or not root.is_dir():
        raise OutputExists(f"{root} exists and is not a folder. Choose another place for the evidence.")
    names = {entry.name for entry in root.iterdir()}
    if not names:
        return
    made_here = names <= known and MANIFEST in names
    if made_here:
        try:
            manifest = serialize.loads(read_plain(root / MANIFEST, MANIFEST_LIMIT))
            made_here = isinstance(manifest, dict) and str(manifest.get("schema", "")).startswith("dpaudit.evidence/")
        except ValueError:
            made_here = False
    if not made_here:
        raise OutputExists(
            f"{root} holds files that are not a dpaudit evidence bundle. Choose another folder, or empty it."
        )


def _swap(fresh: Path, root: Path) -> None:
    """Put `fresh` in the place of `root`; what stood there is removed only after the new one stands."""
    if not root.exists():
        os.replace(fresh, root)
        return
    retired = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.old."))
    os.replace(root, retired)
    try:
        os.replace(fresh, root)
    except OSError:
        os.replace(retired, root)
        raise
    shutil.rmtree(retired, ignore_errors=True)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn whatever is wrong while a file is parsed into an EvidenceError that names the file."""
    try:
        yield
    except EvidenceError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise EvidenceError(f"{name!r}: {error}") from error
