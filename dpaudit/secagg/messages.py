"""What goes over the wire, and what both sides agree on beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _validate
from dpaudit.errors import DataError, Refusal, UsageError

Field = NDArray[np.uint64]
"""Integers modulo 2^bits."""
MOST_BITS = 62


class ProtocolViolation(DataError):
    """The other side did not keep to the protocol; nothing more is sent to it in this round."""


class TooFewDevices(Refusal):
    """Fewer devices than the threshold are left: their masks cannot be, or must not be, taken off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Public parameters of a round.

    `threshold` devices must be left at the end, and as many can unmask what one of them sent. More than half of the
    `devices` that were invited, so that no server can tell one half of them that a device is there and the other that
    it is lost; a server that colludes with c devices needs 2 * threshold > devices + c against it.
    """

    devices: int
    threshold: int
    width: int
    bits: int = 32

    def __post_init__(self) -> None:
        _validate.positive_integer(devices=self.devices, threshold=self.threshold, width=self.width, bits=self.bits)
        if not self.devices < 2 * self.threshold <= 2 * self.devices or self.threshold < 2:
            raise UsageError(
                f"the threshold must be at least 2, more than half of the {self.devices} devices and at most all of "
                f"them; got {self.threshold}."
            )
        if self.bits > MOST_BITS:
            raise UsageError(f"bits must be at most {MOST_BITS}; got {self.bits}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """Stage 0, to the server and on to all: a device's keys of this round, for masks and for messages (PEM).

    `signature` is over both by a long-term key of the device, where devices know each other's; else empty.
    """

    device: int
    mask: bytes
    message: bytes
    signature: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        return b"dpaudit secagg keys" + self.device.to_bytes(8, "little") + self.mask + self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShares:
    """Stage 1, to the server: ciphertexts by receiver, and a commitment to the seed of the device's own mask."""

    device: int
    ciphertexts: Mapping[int, bytes]
    commitment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Stage 2, to the server: a masked vector (width,) modulo 2^bits."""

    device: int
    vector: Field


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskRequest:
    """Stage 3, from the server: whose vectors came (their own masks are wanted), and whose did not (their keys are)."""

    arrived: frozenset[int]
    lost: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Stage 3, to the server: shares of seeds of those that arrived, and of mask keys of those that were lost."""

    device: int
    seeds: Mapping[int, bytes]
    keys: Mapping[int, bytes]
