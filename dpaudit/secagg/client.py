"""The device's side of one round: it reveals its vector to nobody, and refuses whatever would.

Bonawitz et al. (CCS 2017, "Practical secure aggregation for privacy-preserving machine learning"), complete graph. A
device masks its vector with a mask of its own and with one for each other device, which cancel in the sum. Both can be
recovered from shares at the others: the own mask of a device that arrived, the key of one that was lost; never both.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.secagg import primitives
from dpaudit.secagg.messages import (
    Answer,
    Field,
    KeyShares,
    Masked,
    Parameters,
    ProtocolViolation,
    PublicKeys,
    TooFewDevices,
    UnmaskRequest,
)


def in_field(values: NDArray[np.int64], bits: int) -> Field:
    """Return integers modulo 2^bits."""
    return np.asarray(values.astype(np.int64).view(np.uint64) & np.uint64((1 << bits) - 1))


class Device:
    """One device in one round. Its methods are the stages, each called once, in this order."""

    def __init__(
        self,
        device: int,
        parameters: Parameters,
        *,
        identity: Any = None,
        directory: Mapping[int, bytes] | None = None,
    ) -> None:
        """Take part in a round.

        Args:
            device: number of the device, from 0.
            parameters: of the round.
            identity: long-term private key that signs the keys of the round.
            directory: long-term public keys (PEM) of the devices, known from elsewhere than the server. Without one
                the server could put keys of its own in the place of others': it is then trusted not to.
        """
        self._device, self._parameters, self._directory = device, parameters, directory
        self._identity = identity
        self._stage = 0
        self._masks, self._messages = primitives.new_keys(), primitives.new_keys()
        self._seed = secrets.token_bytes(32)
        self._others: dict[int, PublicKeys] = {}
        self._seed_shares: dict[int, bytes] = {}
        self._key_shares: dict[int, bytes] = {}

    @property
    def number(self) -> int:
        """Its number in the round."""
        return self._device

    @property
    def parameters(self) -> Parameters:
        """Those of the round."""
        return self._parameters

    def _enter(self, stage: int) -> None:
        """Go on to a stage; raise ProtocolViolation unless it is the next one."""
        if self._stage != stage:
            raise ProtocolViolation(
                f"stage {stage} was asked for after {self._stage} stages; each comes once, in order."
            )
        self._stage += 1

    def _enough(self, count: int, what: str) -> None:
        if count < self._parameters.threshold:
            raise TooFewDevices(f"{count} devices {what}; at least {self._parameters.threshold} are needed.")

    def advertise_keys(self) -> PublicKeys:
        """Stage 0: return the public keys of the round."""
        self._enter(0)
        mine = PublicKeys(device=self._device, mask=self._masks.public, message=self._messages.public)
        if self._identity is None:
            return mine
        signature = primitives.sign(self._identity, mine.signed)
        return PublicKeys(device=mine.device, mask=mine.mask, message=mine.message, signature=signature)

    def share_keys(self, everybody: Mapping[int, PublicKeys]) -> KeyShares:
        """Stage 1: return shares of the key and of the seed, encrypted for each of the devices that are there.

        Raises: TooFewDevices, ProtocolViolation.
        """
        self._enter(1)
        self._check_keys(everybody)
        self._others = {number: keys for number, keys in everybody.items() if number != self._device}
        order = sorted(everybody)
        threshold, count = self._parameters.threshold, len(order)
        seeds = dict(zip(order, primitives.split(self._seed, threshold=threshold, count=count), strict=True))
        keys = dict(zip(order, primitives.split(self._masks.secret, threshold=threshold, count=count), strict=True))
        self._seed_shares[self._device], self._key_shares[self._device] = seeds[self._device], keys[self._device]
        ciphertexts = {}
        for number, other in self._others.items():
            key = primitives.shared_key(self._messages.private, other.message)
            ciphertexts[number] = primitives.encrypt(key, _packed(self._device, number, seeds[number], keys[number]))
        commitment = primitives.commitment(self._seed)
        return KeyShares(device=self._device, ciphertexts=ciphertexts, commitment=commitment)

    def _check_keys(self, everybody: Mapping[int, PublicKeys]) -> None:
        self._enough(len(everybody), "sent their keys")
        if len(everybody) > self._parameters.devices:
            raise ProtocolViolation(f"{len(everybody)} devices in a round of {self._parameters.devices}.")
        mine = everybody.get(self._device)
        if mine is None or (mine.mask, mine.message) != (self._masks.public, self._messages.public):
            raise ProtocolViolation("the server shows other keys for this device than it sent.")
        used = [key for keys in everybody.values() for key in (keys.mask, keys.message)]
        if len(set(used)) != len(used) or any(keys.device != number for number, keys in everybody.items()):
            raise ProtocolViolation("two devices are shown with one key.")
        for number, keys in everybody.items():
            if self._directory is None:
                continue
            known = self._directory.get(number)
            if known is None or not primitives.verified(known, keys.signed, keys.signature):
                raise ProtocolViolation(f"the keys of device {number} are not signed by it.")

    def masked_input(self, vector: NDArray[np.int64], ciphertexts: Mapping[int, bytes]) -> Masked:
        """Stage 2: return the vector (width,) of integers under all masks.

        Args:
            vector: what is to be summed, modulo 2^bits.
            ciphertexts: what the other devices sent this one, by sender: those are whom it masks against.

        Raises: TooFewDevices, ProtocolViolation.
        """
        self._enter(2)
        bits, width = self._parameters.bits, self._parameters.width
        if vector.shape != (width,) or not np.issubdtype(vector.dtype, np.integer):
            raise ProtocolViolation(f"expected {width} integers; got {vector.dtype} {vector.shape}.")
        self._enough(len(ciphertexts) + 1, "sent shares of their keys")
        for sender, ciphertext in ciphertexts.items():
            if sender not in self._others:
                raise ProtocolViolation(f"a message from device {sender}, which showed no keys.")
            key = primitives.shared_key(self._messages.private, self._others[sender].message)
            plaintext = primitives.decrypt(key, ciphertext)
            self._seed_shares[sender], self._key_shares[sender] = _unpacked(plaintext, sender, self._device)
        total = in_field(vector, bits) + primitives.mask(self._seed, width=width, bits=bits)
        for sender in ciphertexts:
            secret = primitives.shared_key(self._masks.private, self._others[sender].mask)
            pairwise = primitives.mask(secret, width=width, bits=bits)
            total = total + pairwise if self._device < sender else total - pairwise
        return Masked(device=self._device, vector=total & np.uint64((1 << bits) - 1))

    def unmask(self, request: UnmaskRequest) -> Answer:
        """Stage 3: return shares of seeds of those that arrived, of keys of those that were lost, and never of both.

        Raises: TooFewDevices when the sum would be of fewer than the threshold; ProtocolViolation.
        """
        self._enter(3)
        arrived, lost = request.arrived, request.lost
        if arrived & lost:
            raise ProtocolViolation(f"device {min(arrived & lost)} is said to have arrived and to be lost.")
        if arrived | lost != self._seed_shares.keys() or self._device not in arrived:
            raise ProtocolViolation("the server asks about other devices than those that were masked against.")
        self._enough(len(arrived), "arrived")
        return Answer(
            device=self._device,
            seeds={number: self._seed_shares[number] for number in arrived},
            keys={number: self._key_shares[number] for number in lost},
        )

    def dump(self) -> dict[str, bytes]:
        """Return the device between two stages, for one whose program ends with every message.

        It holds the device's secrets: it must not leave the device, and be thrown away after the round.
        """
        held = {"seed": self._seed, "masks": self._masks.secret, "messages": self._messages.secret}
        held["stage"] = bytes([self._stage])
        for number, keys in self._others.items():
            held |= {f"other {number} mask": keys.mask, f"other {number} message": keys.message}
        held |= {f"seed-share {number}": share for number, share in self._seed_shares.items()}
        return held | {f"key-share {number}": share for number, share in self._key_shares.items()}

    @classmethod
    def load(cls, device: int, parameters: Parameters, held: Mapping[str, bytes]) -> "Device":
        """Return the device that `dump` left; `parameters` are those that it began the round with."""
        found = cls(device, parameters)
        found._stage, found._seed = held["stage"][0], held["seed"]
        found._masks, found._messages = (primitives.keys_from_secret(held[name]) for name in ("masks", "messages"))
        for name, value in held.items():
            what, _, number = name.partition(" ")
            if what == "other" and number.endswith(" mask"):
                other = int(number.removesuffix(" mask"))
                found._others[other] = PublicKeys(device=other, mask=value, message=held[f"other {other} message"])
            elif what in ("seed-share", "key-share"):
                (found._seed_shares if what == "seed-share" else found._key_shares)[int(number)] = value
        return found


def _packed(sender: int, receiver: int, seed: bytes, key: bytes) -> bytes:
    head = sender.to_bytes(8, "little") + receiver.to_bytes(8, "little") + len(seed).to_bytes(4, "little")
    return head + seed + key


def _unpacked(plaintext: bytes, sender: int, receiver: int) -> tuple[bytes, bytes]:
    """Return the two shares in a message; raise ProtocolViolation if it was for somebody else, or from."""
    if plaintext[:16] != sender.to_bytes(8, "little") + receiver.to_bytes(8, "little"):
        raise ProtocolViolation("a message between devices names another sender or receiver.")
    size = int.from_bytes(plaintext[16:20], "little")
    return plaintext[20 : 20 + size], plaintext[20 + size :]
