"""The digest of a model: what attestations are about, and what the gate compares with the audited model."""

from hashlib import sha256
from pathlib import Path

from dpaudit import serialize
from dpaudit.errors import DataError

MAX_FILES = 100_000


def model_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a model: of the file, or over the files of a folder.

    For a folder it is the SHA-256 over the raw digests of its files in the order of their relative names, as the
    `model-signing` package computes its subject, so that one digest joins signature, attestation and bill of materials.

    Raises: DataError if there is no such file, or the folder is empty, holds a link or cannot be read.
    """
    root = Path(path)
    try:
        if root.is_file():
            return serialize.sha256_file(root)
        if not root.is_dir():
            raise DataError(f"there is no model {root}. Give the file, or the folder, that is released.")
        files = {entry.relative_to(root).as_posix(): entry for entry in root.rglob("*") if not entry.is_dir()}
        if not files or len(files) > MAX_FILES:
            raise DataError(f"{root} holds {len(files)} files; a model has between 1 and {MAX_FILES}.")
        if links := sorted(name for name, entry in files.items() if entry.is_symlink() or not entry.is_file()):
            raise DataError(f"{links[0]!r} in {root} is a link or no plain file; a model holds plain files.")
        digests = [bytes.fromhex(serialize.sha256_file(files[name])) for name in sorted(files)]
    except OSError as error:
        raise DataError(f"cannot read the model {root}: {error.strerror}.") from error
    return sha256(b"".join(digests)).hexdigest()
