"""Secure aggregation around an engine: devices protect and mask their updates, the server is given sums.

In one process this is a rehearsal: it runs every stage of the protocol, with the devices that drop out lost in the
middle of it, and the server's code sees what it would see of a network. What a device does is `protected`, for any
transport.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import TrainingSection
from dpaudit.errors import UsageError
from dpaudit.federated.aggregation import Aggregator
from dpaudit.federated.clipping import Block, ClippedSum, Rejected, SecureSum
from dpaudit.federated.distributed_noise import IntegerSum
from dpaudit.federated.engine import Engine
from dpaudit.federated.quantisation import FIELD_BITS, Quantiser
from dpaudit.federated.sampling import Cohort
from dpaudit.secagg import Parameters, ProtocolViolation, TooFewDevices
from dpaudit.secagg.memory import secure_sum

Vector = NDArray[np.float64]
Ints = NDArray[np.int64]
_SEES_MASKED = "the noised sum of a round, who took part, and masked vectors that are uniform each by itself"
CLIPPED_ON_DEVICE = "device: clipped and quantised before masking; the server cannot check it"
HERE = ("in-process", "litert")
"""Engines whose clients are computed in this process."""
_GIVEN_UP = "the round of secure aggregation was given up"


def _fingerprint(rows: Mapping[int, NDArray[np.float32]]) -> int:
    """Return 64 bits that depend on every update."""
    digest = hashlib.sha256()
    for device in sorted(rows):
        row = np.ascontiguousarray(rows[device], dtype="<f4")
        digest.update(f"{device},{row.size};".encode() + row.tobytes())
    return int.from_bytes(digest.digest()[:8], "big")


def what_the_server_sees(training: TrainingSection) -> str:
    """Return what a server that is curious can look at, for the ledger's header and the report's trust model."""
    if training.secure_aggregation:
        return _SEES_MASKED
    return "every single update, noised on its device" if training.local_steps else "every single update, without noise"


def round_parameters(invited: int, *, minimum: int, width: int) -> Parameters | None:
    """Return the parameters of a round, or None where too few devices are invited for one.

    Devices unmask sums of the `minimum` that carry the noise at least, and of more than half of those invited.
    """
    threshold = max(minimum, invited // 2 + 1, 2)
    if threshold > invited:
        return None
    return Parameters(devices=invited, threshold=threshold, width=width, bits=FIELD_BITS)


def protected(row: NDArray[np.float32], aggregator: IntegerSum, *, width: int, rng: np.random.Generator) -> Ints:
    """Return what a device adds to the sum, (width,): its update clipped, in whole steps, and its share of the noise.

    An update that is NaN or infinite is not sent: zeros are, with the share. `rng` is the device's own, and secret.
    """
    sent = np.asarray(row, dtype=np.float32)[None, :]
    if sent.shape[1] > width or not np.isfinite(sent).all():
        sent = np.zeros((1, 1), dtype=np.float32)
    grid = Quantiser(clip_norm=aggregator.clip_norm, width=width)
    (integers,) = grid.quantised(sent, key=rng.bytes(16))
    return np.asarray(integers + aggregator.share(rng, width), dtype=np.int64)


class SumsOnly:
    """What a secure engine says of itself: it is another engine, whose server is given sums."""

    _engine: Engine

    @property
    def name(self) -> str:
        """Where clients are computed, for the ledger."""
        return f"{self._engine.name}, secure aggregation"

    @property
    def parameters(self) -> int:
        """Width of an update."""
        return self._engine.parameters

    @property
    def direction(self) -> float:
        """That of the engine."""
        return self._engine.direction

    @property
    def clipping_path(self) -> str:
        """How and where contributions are clipped, for the ledger."""
        return CLIPPED_ON_DEVICE


class SecureEngine(SumsOnly):
    """An engine that yields a `SecureSum` for a round, or says of every device why there is none."""

    def __init__(self, engine: Engine, aggregator: IntegerSum, *, width: int, root: int) -> None:
        """Take charge of an engine that yields single rows; `width` counts the canaries' coordinates, too."""
        self._engine, self._aggregator, self._width, self._root = engine, aggregator, width, root

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Block | ClippedSum | Rejected | SecureSum]:
        """Yield the sum of those that arrived; units that the engine reports as failed are lost to the protocol."""
        rows: dict[int, NDArray[np.float32]] = {}
        for block in self._engine.run_cohort(weights, cohort):
            if isinstance(block, Rejected):
                yield block
            elif isinstance(block, Block):
                rows |= {int(unit): row for unit, row in zip(block.units, block.rows, strict=True)}
        invited = [int(device) for device in np.flatnonzero(cohort.sampled)]
        parameters = round_parameters(len(invited), minimum=self._aggregator.minimum, width=self._width)
        if parameters is None:
            yield from given_up(rows, f"{len(invited)} devices are too few for it")
            return
        number = cohort.number
        key = _fingerprint(rows)
        vectors = {device: self._vector(rows.get(device), device, number, key) for device in invited}
        when = _rng.stream(self._root, "secagg-lost", number).integers(0, 3, len(invited))
        lost = {device: int(at) for device, at in zip(invited, when, strict=True) if device not in rows}
        try:
            total, arrived = secure_sum(vectors, parameters, lost=lost)
        except (TooFewDevices, ProtocolViolation) as error:
            yield from given_up(rows, str(error))
            return
        grid = Quantiser(clip_norm=self._aggregator.clip_norm, width=self._width)
        yield SecureSum(units=np.array(sorted(arrived), dtype=np.int64), total=grid.floats(total))

    def _vector(self, row: NDArray[np.float32] | None, device: int, number: int, key: int) -> Ints:
        """Return what a device would send; of one that is lost nothing arrives.

        `key` is of all updates: a replayed round draws the noise that it drew before if they are the same to the bit,
        and other noise, on every device, if they are not. One noise on two sums would reveal their difference.
        """
        if row is None:
            return np.zeros(self._width, dtype=np.int64)
        rng = _rng.stream(self._root, "device-noise", number, device, key)
        return protected(row, self._aggregator, width=self._width, rng=rng)


def secured(engine: Engine, aggregator: Aggregator, *, width: int, root: int) -> Any:
    """Return the engine, with secure aggregation where the aggregator wants its sums.

    An engine over a network brings its own (`secured`); around one in this process it is rehearsed.

    Raises: UsageError for an engine that would show every update to the server before it is masked.
    """
    if not isinstance(aggregator, IntegerSum) or not aggregator.secure:
        return engine
    own = getattr(engine, "secured", None)
    if own is not None:
        return own(aggregator, width=width)
    if engine.name not in HERE:
        raise UsageError(
            f"training.secure_aggregation does not run with the engine {engine.name!r}: every update would reach the "
            "server without its mask. Protect updates in transit by TLS, or use another engine."
        )
    return SecureEngine(engine, aggregator, width=width, root=root)


def given_up(units: Iterable[int], reason: str) -> Iterator[Rejected]:
    """Yield why nothing came of these units."""
    for unit in units:
        yield Rejected(unit=unit, reason=f"{_GIVEN_UP}: {reason}")
