"""Keys for signatures: Ed25519 or ECDSA on P-256, as PEM files on this machine.

The package `cryptography` is imported when a key is first used: `pip install 'dpaudit[attest]'`.
"""

import os
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from dpaudit.errors import DataError, MissingDependency, OutputExists, UsageError

Key = Any
"""A key of `cryptography`; which kind it is, the functions here find out."""
_PEM_LIMIT = 10_000


def _crypto(module: str) -> Any:
    try:
        return import_module(f"cryptography.{module}")
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "signatures need the package cryptography. Run: pip install 'dpaudit[attest]'"
        ) from error


def generate(path: str | Path) -> tuple[Path, Path]:
    """Write a new Ed25519 key (mode 0600) and its public half beside it, as `.pub`; never over an existing file."""
    private, public = Path(path), Path(f"{path}.pub")
    for target in (private, public):
        if target.exists():
            raise OutputExists(f"{target} exists. Choose another name: a key is never overwritten.")
    serialization, ed25519 = _crypto("hazmat.primitives.serialization"), _crypto("hazmat.primitives.asymmetric.ed25519")
    key = ed25519.Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(secret)
        public.write_bytes(public_pem(key.public_key()))
    except OSError as error:
        raise UsageError(f"cannot write the key {path}: {error.strerror}.") from error
    return private, public


def public_pem(key: Key) -> bytes:
    """Return a public key in PEM."""
    serialization = _crypto("hazmat.primitives.serialization")
    pem: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def key_id(key: Key) -> str:
    """Return the SHA-256 of a public key's DER form."""
    serialization = _crypto("hazmat.primitives.serialization")
    return sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def load_private(path: str | Path, *, password: str | None = None) -> Key:
    """Read a private key in PEM; raise DataError for anything but Ed25519 or ECDSA P-256."""
    load = _crypto("hazmat.primitives.serialization").load_pem_private_key
    try:
        return _accepted(load(_read(path), password.encode() if password else None), "Private")
    except (ValueError, TypeError, _crypto("exceptions").UnsupportedAlgorithm) as error:
        raise DataError(f"{path} is no private key in PEM that can be read: {error}") from error


def load_public(source: str | Path) -> Key:
    """Read a public key in PEM from a file, or from a text that begins with `-----BEGIN`."""
    data = source.encode() if isinstance(source, str) and source.lstrip().startswith("-----BEGIN") else _read(source)
    try:
        return _accepted(_crypto("hazmat.primitives.serialization").load_pem_public_key(data.strip()), "Public")
    except (ValueError, TypeError, _crypto("exceptions").UnsupportedAlgorithm) as error:
        raise DataError(f"not a public key in PEM (Ed25519 or ECDSA P-256): {error}") from error


def _read(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            return stream.read(_PEM_LIMIT)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the key {path}: {error}.") from error


def _accepted(key: Key, half: str) -> Key:
    ed25519 = getattr(_crypto("hazmat.primitives.asymmetric.ed25519"), f"Ed25519{half}Key")
    ec = _crypto("hazmat.primitives.asymmetric.ec")
    if isinstance(key, ed25519):
        return key
    if isinstance(key, getattr(ec, f"EllipticCurve{half}Key")) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError(f"it is a {type(key).__name__}; Ed25519 and ECDSA P-256 are supported")


def sign(key: Key, data: bytes) -> bytes:
    """Return the signature of a private key over bytes (ECDSA with SHA-256)."""
    if hasattr(key, "curve"):
        ec, hashes = _crypto("hazmat.primitives.asymmetric.ec"), _crypto("hazmat.primitives.hashes")
        return bytes(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return bytes(key.sign(data))


def verifies(key: Key, signature: bytes, data: bytes) -> bool:
    """Whether a signature over bytes was made by the private half of this key."""
    try:
        if hasattr(key, "curve"):
            ec, hashes = _crypto("hazmat.primitives.asymmetric.ec"), _crypto("hazmat.primitives.hashes")
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, data)
    except _crypto("exceptions").InvalidSignature:
        return False
    return True
