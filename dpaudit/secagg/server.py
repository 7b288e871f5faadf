"""The server's side of one round: it passes messages on, adds masked vectors, and takes off the masks of the sum."""

from collections.abc import Mapping

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


class Aggregation:
    """One round. Its methods are the stages, each of which takes what came from the devices that are still there."""

    def __init__(self, parameters: Parameters) -> None:
        """Begin a round."""
        self._parameters = parameters
        self._keys: dict[int, PublicKeys] = {}
        self._shares: dict[int, KeyShares] = {}
        self._total: Field = np.zeros(parameters.width, dtype=np.uint64)
        self._arrived: frozenset[int] = frozenset()

    def _enough(self, count: int, what: str) -> None:
        if count < self._parameters.threshold:
            raise TooFewDevices(
                f"{count} devices {what}, of the {self._parameters.threshold} that are needed: the round is given up "
                "and reveals nothing."
            )

    def collect_keys(self, sent: Mapping[int, PublicKeys]) -> dict[int, PublicKeys]:
        """Stage 0: take public keys; return what is to be shown to each of these devices."""
        self._keys = {number: keys for number, keys in sent.items() if keys.device == number}
        self._enough(len(self._keys), "sent their keys")
        return dict(self._keys)

    def route_shares(self, sent: Mapping[int, KeyShares]) -> dict[int, dict[int, bytes]]:
        """Stage 1: take encrypted shares; return, for each device that sent any, those of the others for it."""
        self._shares = {number: shares for number, shares in sent.items() if number in self._keys}
        self._enough(len(self._shares), "sent shares of their keys")
        return {
            receiver: {
                sender: shares.ciphertexts[receiver]
                for sender, shares in self._shares.items()
                if sender != receiver and receiver in shares.ciphertexts
            }
            for receiver in self._shares
        }

    def add(self, sent: Mapping[int, Masked]) -> UnmaskRequest:
        """Stage 2: add masked vectors; return what each of the devices that sent one is to be asked.

        A vector of the wrong shape counts as lost. One that is wrong in any other way cannot be told from a right one.
        """
        parameters, top = self._parameters, np.uint64((1 << self._parameters.bits) - 1)
        fit = {
            number: message.vector
            for number, message in sent.items()
            if number in self._shares
            and message.vector.shape == (parameters.width,)
            and message.vector.dtype == np.uint64
        }
        self._enough(len(fit), "sent masked vectors")
        for vector in fit.values():
            self._total = (self._total + vector) & top
        self._arrived = frozenset(fit)
        return UnmaskRequest(arrived=self._arrived, lost=frozenset(self._shares) - self._arrived)

    def unmask(self, sent: Mapping[int, Answer]) -> NDArray[np.int64]:
        """Stage 3: return the sum of the vectors that arrived, (width,) in [-2^(bits - 1), 2^(bits - 1)).

        Raises: TooFewDevices for fewer answers than the threshold; ProtocolViolation where shares do not combine to
            what was committed to: somebody sent false ones, and there is no sum.
        """
        answers = [answer for number, answer in sent.items() if number in self._arrived]
        self._enough(len(answers), "answered")
        total = self._total.copy()
        for number in sorted(self._arrived):
            total -= self._own_mask(number, answers)
        for number in sorted(frozenset(self._shares) - self._arrived):
            total -= self._masks_of_lost(number, answers)
        bits = self._parameters.bits
        unsigned = (total & np.uint64((1 << bits) - 1)).astype(np.int64)
        return np.asarray(np.where(unsigned >= 1 << (bits - 1), unsigned - (1 << bits), unsigned))

    def _combined(self, shares: list[bytes]) -> bytes:
        self._enough(len(shares), "sent a share that is needed")
        return primitives.combine(shares[: self._parameters.threshold])

    def _own_mask(self, number: int, answers: list[Answer]) -> Field:
        seed = self._combined([answer.seeds[number] for answer in answers if number in answer.seeds])
        if primitives.commitment(seed) != self._shares[number].commitment:
            raise ProtocolViolation(f"the seed of device {number} is not the one it committed to: a share is false.")
        return primitives.mask(seed, width=self._parameters.width, bits=self._parameters.bits)

    def _masks_of_lost(self, number: int, answers: list[Answer]) -> Field:
        """Return the sum of what a lost device's masks left in the vectors of those that arrived."""
        secret = self._combined([answer.keys[number] for answer in answers if number in answer.keys])
        keys = primitives.keys_from_secret(secret)
        if keys.public != self._keys[number].mask:
            raise ProtocolViolation(f"the key of device {number} is not the one it showed: a share is false.")
        left = np.zeros(self._parameters.width, dtype=np.uint64)
        for other in self._arrived:
            shared = primitives.shared_key(keys.private, self._keys[other].mask)
            pairwise = primitives.mask(shared, width=self._parameters.width, bits=self._parameters.bits)
            left = left + pairwise if other < number else left - pairwise
        return left
