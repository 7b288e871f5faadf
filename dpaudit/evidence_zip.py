"""An evidence bundle as one .zip file: packed so that the same files give the same bytes, opened from untrusted hands.

Nothing is unpacked to disk. Names are compared with those that a bundle may hold before anything is read, so that no
path can lead anywhere; sizes are limited before and while a file is inflated, so that no bomb can grow.
"""

import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

from dpaudit import evidence_store as store
from dpaudit.errors import EvidenceError

SUFFIX = ".zip"
ARCHIVE_LIMIT = 2 << 30
_RATIO = 200
"""Largest ratio of inflated to deflated size that is believed, beyond the first megabyte."""
_ENCRYPTED = 0x1


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the files of a bundle as a .zip without compression; the same files give the same bytes."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return buffer.getvalue()


def unpack(path: Path, *, known: Callable[[str], bool]) -> dict[str, bytes]:
    """Return the files of a zipped bundle, in memory.

    Args:
        path: the .zip file.
        known: whether a name may occur in a bundle; anything else is refused unread.

    Raises: EvidenceError for names, links, encryption, repeated files, damage, or sizes that a bundle does not have.
    """
    data = store.read_plain(path, ARCHIVE_LIMIT)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(path, members, known)
            return {member.filename: _read(archive, member) for member in members}
    except EvidenceError:
        raise
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise EvidenceError(f"{path.name!r} is not a .zip file that can be read: {error}") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo], known: Callable[[str], bool]) -> None:
    if len(members) > store.MAX_ENTRIES:
        raise EvidenceError(f"{path.name!r} holds more than {store.MAX_ENTRIES} files; it is not an evidence bundle.")
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise EvidenceError(f"{path.name!r} holds a file twice.")
    for member in members:
        name = member.filename
        if not known(name) or member.orig_filename != name:
            raise EvidenceError(f"{path.name!r} holds {name!r}, which is not a file of a bundle.")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or member.flag_bits & _ENCRYPTED:
            raise EvidenceError(f"{name!r} in {path.name!r} is a link, encrypted, or no plain file.")
        limit = _limit(name)
        if member.file_size > limit or member.file_size > (1 << 20) + _RATIO * member.compress_size:
            raise EvidenceError(f"{name!r} in {path.name!r} would expand to {member.file_size} bytes; refused.")
    if sum(member.file_size for member in members) > ARCHIVE_LIMIT:
        raise EvidenceError(f"{path.name!r} would expand beyond {ARCHIVE_LIMIT} bytes; refused.")


def _limit(name: str) -> int:
    return store.MANIFEST_LIMIT if name == store.MANIFEST else store.limit_of(name)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Inflate one file, never beyond what it says of itself."""
    with archive.open(member) as stream:
        data = stream.read(member.file_size + 1)
    if len(data) != member.file_size:
        raise EvidenceError(f"{member.filename!r} holds another number of bytes than the .zip file says.")
    return data
