"""Cryptography, all of it from elsewhere: Flower's key agreement, encryption and secret sharing; ChaCha20 for masks.

Flower 1.41 gives P-384 key pairs, ECDH with HKDF, Fernet, and Shamir's scheme over GF(2^128) (of pycryptodome). Its own
generator of masks is not used: `pseudo_rand_gen` folds a seed into 32 bits for the Mersenne twister and never draws
the largest value, so that masks can be searched for and are not uniform (tests/secagg).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import MissingDependency
from dpaudit.secagg.messages import Field, ProtocolViolation

_SECRET_BYTES = 48  # a private value of P-384
PrivateKey = Any


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency(
            "secure aggregation needs Flower's cryptography. Run: pip install 'dpaudit[flower]'"
        ) from error


def _asymmetric() -> ModuleType:
    return _module("flwr.supercore.primitives.asymmetric")


def _symmetric() -> ModuleType:
    return _module("flwr.common.secure_aggregation.crypto.symmetric_encryption")


def _shamir() -> ModuleType:
    return _module("flwr.common.secure_aggregation.crypto.shamir")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair of one round."""

    private: PrivateKey
    public: bytes

    @property
    def secret(self) -> bytes:
        """The private value, as it is shared."""
        value: int = self.private.private_numbers().private_value
        return value.to_bytes(_SECRET_BYTES, "big")


def new_keys() -> KeyPair:
    """Return a fresh key pair, from the operating system's generator."""
    private, public = _asymmetric().generate_key_pairs()
    return KeyPair(private, _asymmetric().public_key_to_bytes(public))


def keys_from_secret(secret: bytes) -> KeyPair:
    """Return the key pair of a private value; raise ProtocolViolation for bytes that are none."""
    ec = _module("cryptography.hazmat.primitives.asymmetric.ec")
    try:
        private = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP384R1())
    except ValueError as error:
        raise ProtocolViolation("shares of a key do not combine to a key: some of them are false.") from error
    return KeyPair(private, _asymmetric().public_key_to_bytes(private.public_key()))


def shared_key(private: PrivateKey, public: bytes) -> bytes:
    """Return the key that two devices agree on (ECDH, HKDF); raise ProtocolViolation for what is no public key."""
    try:
        other = _asymmetric().bytes_to_public_key(public)
        key: bytes = _symmetric().generate_shared_key(private, other)
    except (ValueError, TypeError, AttributeError) as error:
        raise ProtocolViolation("a public key of another device cannot be used.") from error
    return key


def sign(private: PrivateKey, message: bytes) -> bytes:
    """Return a signature (ECDSA, SHA-256)."""
    signature: bytes = _asymmetric().sign_message(private, message)
    return signature


def verified(public: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether a signature is the one of that public key."""
    return bool(_asymmetric().verify_signature(_asymmetric().bytes_to_public_key(public), message, signature))


def encrypt(key: bytes, plaintext: bytes) -> bytes:
    """Return an authenticated ciphertext (Fernet)."""
    ciphertext: bytes = _symmetric().encrypt(key, plaintext)
    return ciphertext


def decrypt(key: bytes, ciphertext: bytes) -> bytes:
    """Return the plaintext; raise ProtocolViolation if the ciphertext was changed or is for another key."""
    invalid = _module("cryptography.fernet").InvalidToken
    try:
        plaintext: bytes = _symmetric().decrypt(key, ciphertext)
    except (invalid, TypeError) as error:
        raise ProtocolViolation("a message between devices was changed on its way, or is for another one.") from error
    return plaintext


def split(secret: bytes, *, threshold: int, count: int) -> list[bytes]:
    """Return `count` shares of a secret, of which any `threshold` combine to it (Shamir)."""
    shares: list[bytes] = _shamir().create_shares(secret, threshold, count)
    return shares


def combine(shares: Sequence[bytes]) -> bytes:
    """Return the secret of shares; raise ProtocolViolation where they cannot be of one secret."""
    try:
        secret: bytes = _shamir().combine_shares(list(shares))
    except (ValueError, IndexError) as error:
        raise ProtocolViolation("shares do not combine: some of them are false.") from error
    return secret


def commitment(seed: bytes) -> bytes:
    """Return a commitment to 32 random bytes: their hash, which tells nothing of so many."""
    return hashlib.sha256(b"dpaudit secagg seed" + seed).digest()


def mask(seed: bytes, *, width: int, bits: int) -> Field:
    """Return `width` uniform integers modulo 2^bits from a secret: the stream of ChaCha20, its key by HKDF-SHA256."""
    hashes, kdf = _module("cryptography.hazmat.primitives.hashes"), _module("cryptography.hazmat.primitives.kdf.hkdf")
    ciphers = _module("cryptography.hazmat.primitives.ciphers")
    derive = kdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"dpaudit secagg mask").derive
    stream = ciphers.Cipher(ciphers.algorithms.ChaCha20(derive(seed), bytes(16)), mode=None).encryptor()
    words: NDArray[np.uint64] = np.frombuffer(stream.update(bytes(8 * width)), dtype="<u8")
    return np.asarray(words & np.uint64((1 << bits) - 1), dtype=np.uint64)
