"""Secure aggregation over Flower: four exchanges in a round, and a sum at the end.

The server passes keys and ciphertexts on, adds masked vectors and asks for shares; who does not answer in time, or not
as asked, is lost to the protocol. What a node answers is bound to the question by a token, as everywhere.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.federated.clipping import Rejected, SecureSum
from dpaudit.federated.distributed_noise import IntegerSum
from dpaudit.federated.engine import round_seeds
from dpaudit.federated.quantisation import Quantiser
from dpaudit.federated.sampling import Cohort
from dpaudit.federated.secure_engine import SumsOnly, given_up, round_parameters
from dpaudit.flower.exchange import Post, printable
from dpaudit.flower.messages import write_job
from dpaudit.flower.secure_messages import KIND, bytes_of, parameter_numbers, read, whole, write
from dpaudit.secagg import (
    Aggregation,
    Answer,
    KeyShares,
    Masked,
    Parameters,
    ProtocolViolation,
    PublicKeys,
    TooFewDevices,
)

if TYPE_CHECKING:
    from dpaudit.flower.engine import FlowerEngine, Share

Vector = NDArray[np.float64]
Heard = dict[int, dict[tuple[str, int, int], NDArray[Any]]]
"""What each client's node answered, by client."""


class SecureFlowerEngine(SumsOnly):
    """A Flower engine whose server is given sums; see `dpaudit.federated.secure_engine.SecureEngine`."""

    _engine: "FlowerEngine"

    def __init__(self, engine: "FlowerEngine", aggregator: IntegerSum, *, width: int) -> None:
        """`width` counts the canaries' coordinates, too."""
        self._engine, self._aggregator, self._width = engine, aggregator, width

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Rejected | SecureSum]:
        """Yield the sum of the devices that arrived, and why others did not. Raises: TooFewNodes."""
        self._engine.gather()
        shares, lost = self._engine.share_out(cohort.units)
        for unit in lost.tolist():
            yield Rejected(unit=unit, reason="no connected node holds its client")
        units = [int(unit) for share in shares for unit in share.units]
        parameters = round_parameters(len(units), minimum=self._aggregator.minimum, width=self._width)
        if parameters is None:
            yield from given_up(units, f"{len(units)} devices are too few for it")
            return
        round_ = _Round(self._engine, self._aggregator, parameters, shares, cohort.number)
        try:
            total, arrived = round_.sum(weights)
        except (TooFewDevices, ProtocolViolation) as error:
            yield from given_up(units, str(error))
            return
        yield from (
            Rejected(unit=unit, reason=reason) for unit, reason in round_.problems.items() if unit not in arrived
        )
        grid = Quantiser(clip_norm=self._aggregator.clip_norm, width=self._width)
        yield SecureSum(units=whole(arrived), total=grid.floats(total))


class _Round:
    """One round: who is asked, at which place each device stands, and what went wrong with whom."""

    def __init__(
        self, engine: "FlowerEngine", aggregator: IntegerSum, parameters: Parameters, shares: "list[Share]", number: int
    ) -> None:
        self._engine, self._aggregator, self._parameters = engine, aggregator, parameters
        self._shares, self._number, self._name = shares, number, secrets.token_hex(16)
        units = [int(unit) for share in shares for unit in share.units]
        self._place = {unit: place for place, unit in enumerate(units)}
        self._unit = dict(enumerate(units))
        self.problems: dict[int, str] = {}

    def sum(self, weights: Vector) -> tuple[NDArray[np.int64], set[int]]:
        """Return the sum (width,) and the units in it. Raises: TooFewDevices, ProtocolViolation."""
        server, place = Aggregation(self._parameters), self._place
        numbers = parameter_numbers(self._parameters)
        heard = self._ask(0, set(place), lambda s: self._message(0, s, numbers, {}, places=self._places(s)))
        keys = server.collect_keys({place[u]: _public_keys(u, place[u], a) for u, a in heard.items()})
        shown = {("mask", -1, p): k.mask for p, k in keys.items()}
        shown |= {("message", -1, p): k.message for p, k in keys.items()}
        heard = self._ask(1, set(heard), lambda s: self._message(1, s, {}, shown))
        routed = server.route_shares({place[u]: _key_shares(u, place[u], a) for u, a in heard.items()})
        heard = self._ask(2, set(heard), lambda s: self._job(s, weights, routed))
        request = server.add({place[u]: _masked(u, place[u], a) for u, a in heard.items()})
        arrived = {self._unit[p] for p in request.arrived}
        whom = {"arrived": whole(request.arrived), "lost": whole(request.lost)}
        heard = self._ask(3, arrived, lambda s: self._message(3, s, {}, {}, **whom))
        return server.unmask({place[u]: _answer(u, place[u], a) for u, a in heard.items()}), arrived

    def _places(self, share: "Share") -> NDArray[np.int64]:
        return np.array([self._place[int(unit)] for unit in share.units], dtype=np.int64)

    def _message(
        self, stage: int, share: "Share", numbers: Mapping[str, Any], named: Mapping[Any, Any], **arrays: NDArray[Any]
    ) -> Any:
        head = {"token": share.token, "stage": stage, "round": self._name, **numbers}
        return write(head, named, clients=share.units, **arrays)

    def _job(self, share: "Share", weights: Vector, routed: Mapping[int, Mapping[int, bytes]]) -> Any:
        """Return the job of a round, with the ciphertexts for its devices and the noise that each is to add."""
        engine, aggregator = self._engine, self._aggregator
        job = engine.job(share, weights, self._number, round_seeds(engine.root, self._number))
        numbers = {
            "stage": 2, "round": self._name, "aggregator": aggregator.kind, "minimum": aggregator.minimum,
            "noise_multiplier": aggregator.noise_multiplier, "noise_factor": aggregator.noise_factor,
        }  # fmt: skip
        content = write_job(job)
        named = {
            ("cipher", int(unit), sender): text
            for unit in share.units
            for sender, text in routed.get(self._place[int(unit)], {}).items()
        }
        more = write(numbers, named)
        for name in ("config", "arrays"):
            content[name].update(dict(more[name].items()))
        return content

    def _ask(self, stage: int, units: set[int], content: "Callable[[Share], Any]") -> Heard:
        """Send a stage to the nodes of these units; return the answers by unit, and remember what went wrong."""
        engine = self._engine
        asked = [engine.share_of(s.node, s.units[np.isin(s.units, whole(units))]) for s in self._shares]
        asked = [share for share in asked if share.units.size]
        group = f"{self._number}/{stage}"
        contents = {share.node: content(share) for share in asked}
        post = Post(engine.grid, contents, kind=KIND, group=group, lifetime=engine.terms.timeout + 1.0)
        heard: Heard = {}
        for share, reply in engine.replies(asked, post):
            problem: str | None = reply.problem
            named: dict[tuple[str, int, int], NDArray[Any]] = {}
            if problem is None:
                try:
                    numbers, named, _ = read(reply.content)
                    known = secrets.compare_digest(str(numbers.get("token")).encode(), share.token.encode())
                    problem = None if known else "an answer to another message"
                except DataError as error:
                    problem = printable(error)
            for unit in share.units.tolist():
                if problem is not None:
                    self.problems.setdefault(unit, problem)
                else:
                    heard.setdefault(unit, named)
        return heard


def _one(named: Mapping[tuple[str, int, int], NDArray[Any]], what: str, unit: int, place: int) -> bytes:
    found = named.get((what, unit, place))
    return b"" if found is None else found.tobytes()


def _public_keys(unit: int, place: int, named: Mapping[tuple[str, int, int], NDArray[Any]]) -> PublicKeys:
    mask, message = (_one(named, what, unit, place) for what in ("mask", "message"))
    return PublicKeys(device=place if mask and message else -1, mask=mask, message=message)


def _key_shares(unit: int, place: int, named: Mapping[tuple[str, int, int], NDArray[Any]]) -> KeyShares:
    commitment = _one(named, "commitment", unit, place)
    return KeyShares(device=place, ciphertexts=bytes_of(named, "cipher", unit), commitment=commitment)


def _masked(unit: int, place: int, named: Mapping[tuple[str, int, int], NDArray[Any]]) -> Masked:
    found = named.get(("masked", unit, place))
    return Masked(device=place, vector=np.zeros(0, dtype=np.uint64) if found is None else found)


def _answer(unit: int, place: int, named: Mapping[tuple[str, int, int], NDArray[Any]]) -> Answer:
    return Answer(device=place, seeds=bytes_of(named, "seed", unit), keys=bytes_of(named, "key", unit))
