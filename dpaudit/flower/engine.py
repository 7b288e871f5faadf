"""The engine of a run whose clients are Flower nodes.

A round: every node that holds clients of the cohort gets one message with the weights, the round's seeds and whom it
is asked for; answers are read until all are in or the time is over. What an answer may contain is decided here: it
must carry the token of this very message, for exactly the clients asked, in their order. A unit without a usable
contribution is reported as rejected, with the reason; the server's noise and denominator do not depend on it.

Contributions are passed on in the order of the units, not of arrival, so that a replayed round adds up to the same
bits.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import TrainingSection
from dpaudit.errors import DataError, UsageError
from dpaudit.federated.clipping import Block, ClippedSum, Rejected
from dpaudit.federated.distributed_noise import IntegerSum
from dpaudit.federated.engine import RoundSeeds, example_table, round_seeds
from dpaudit.federated.sampling import Cohort
from dpaudit.flower.exchange import Post, Reply, printable
from dpaudit.flower.fleet import Fleet, Register, Terms
from dpaudit.flower.messages import Answer, Job, Kind, LocalTraining, read_answer, write_job
from dpaudit.flower.secure import SecureFlowerEngine

Vector = NDArray[np.float64]
Ints = NDArray[np.int64]
Contribution = Block | ClippedSum | Rejected
_REFRESH = 1.0
_PATHS: dict[Kind, str] = {
    "updates": "server: whole client updates, computed on Flower nodes",
    "sums": "device: each clips its own examples' gradients and sends their sum; the server bounds the sum's norm",
    "gradients": "server: single gradients, computed on Flower nodes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of a cohort that one node is asked for: `units`, and for examples their places at the client."""

    node: int
    token: str
    units: Ints
    clients: Ints
    counts: Ints
    positions: Ints


def kind_of(training: TrainingSection) -> Kind:
    """Return what nodes send: sums where the aggregator takes sums of clipped gradients, else one row per unit.

    Raises: UsageError for an algorithm that does not run on nodes.
    """
    if training.algorithm in ("dp-fedavg", "dp-ftrl"):
        return "updates"
    if training.algorithm == "dp-fedsgd":
        return "sums" if training.aggregator == "gaussian" else "gradients"
    raise UsageError(
        f"training.algorithm = {training.algorithm!r} does not run over Flower; use --engine in-process, or dp-fedavg, "
        "dp-ftrl or dp-fedsgd."
    )


class FlowerEngine:
    """Computes the contributions of a cohort on the nodes of a grid; see `dpaudit.federated.engine.Engine`."""

    def __init__(
        self,
        grid: Any,
        *,
        name: str,
        training: TrainingSection,
        owner: NDArray[np.int32],
        parameters: int,
        root: int,
        terms: Terms,
        register: Register | None = None,
    ) -> None:
        """Set up.

        Args:
            grid: Flower's Grid.
            name: where the nodes are, for the ledger.
            training: what clients do.
            owner: the client of every example, (n,): public.
            parameters: width of the model.
            root: root seed; of it only the seeds of a round leave the server.
            terms: time-outs.
            register: which node may speak for which client; None: whoever claims one first.
        """
        self.grid, self._name, self._training, self.root, self.terms = grid, name, training, root, terms
        self._kind, self._parameters = kind_of(training), parameters
        self._table, self._sizes = example_table(owner)
        self._owner = owner.astype(np.int64)
        self._place = np.empty(owner.size, dtype=np.int64)
        for client, size in enumerate(self._sizes):
            self._place[self._table[client, :size]] = np.arange(size)
        self._fleet = Fleet(grid, sizes=self._sizes, parameters=parameters, terms=terms, register=register)

    @property
    def name(self) -> str:
        """Where clients are computed."""
        return self._name

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return self._parameters

    @property
    def direction(self) -> float:
        """-1 for updates, +1 for gradients."""
        return -1.0 if self._kind == "updates" else 1.0

    @property
    def clipping_path(self) -> str:
        """Who clips."""
        return _PATHS[self._kind]

    def secured(self, aggregator: IntegerSum, *, width: int) -> SecureFlowerEngine:
        """Return the engine whose server is given sums only."""
        return SecureFlowerEngine(self, aggregator, width=width)

    def gather(self) -> None:
        """Wait for the nodes. Raises: TooFewNodes when hardly any client can be reached."""
        self._fleet.gather()

    def run_cohort(self, weights: Vector, cohort: Cohort) -> Iterator[Contribution]:
        """Yield the contributions of the cohort's units, or why there is none; ends within the time-out.

        Raises: TooFewNodes before the round when hardly any client can be reached.
        """
        self.gather()
        shares, lost = self.share_out(cohort.units)
        for unit in lost.tolist():
            yield Rejected(unit=unit, reason="no connected node holds its client")
        if not shares:
            return
        seeds = round_seeds(self.root, cohort.number)
        contents = {share.node: write_job(self.job(share, weights, cohort.number, seeds)) for share in shares}
        post = Post(self.grid, contents, kind="train", group=str(cohort.number), lifetime=self.terms.timeout + 1.0)
        for share, reply in self.replies(shares, post):
            yield from contributions(share, reply, kind=self._kind, clip_norm=self._training.clip_norm)

    def share_out(self, units: Ints) -> tuple[list[Share], Ints]:
        """Return whom each node is asked for, in the order of their first units, and the units nobody can be asked."""
        clients = units if self._kind == "updates" else self._owner[units]
        nodes = np.array([-1 if (n := self._fleet.node_of(int(c))) is None else n for c in clients], dtype=object)
        shares = []
        for node in dict.fromkeys(nodes.tolist()):
            if node != -1:
                mine = units[nodes == node]
                shares.append(self.share_of(int(node), mine))
        return shares, units[nodes == -1]

    def share_of(self, node: int, units: Ints) -> Share:
        """Return the part of a cohort that a node is asked for, with a fresh token."""
        token, nothing = secrets.token_hex(16), np.zeros(0, dtype=np.int64)
        if self._kind == "updates":
            ones = np.ones_like(units)
            return Share(node=node, token=token, units=units, clients=units, counts=ones, positions=nothing)
        units = units[np.argsort(self._owner[units], kind="stable")]
        clients, counts = np.unique(self._owner[units], return_counts=True)
        places = self._place[units]
        return Share(node=node, token=token, units=units, clients=clients, counts=counts, positions=places)

    def job(self, share: Share, weights: Vector, number: int, seeds: RoundSeeds) -> Job:
        """Return what a node is asked to compute."""
        training = self._training
        return Job(
            token=share.token,
            number=number,
            kind=self._kind,
            weights=weights.astype(np.float32),
            seeds=seeds,
            clients=share.clients,
            counts=share.counts,
            positions=share.positions,
            clip_norm=training.clip_norm,
            local=LocalTraining(
                epochs=training.local_epochs,
                batch_size=training.local_batch_size,
                learning_rate=training.local_learning_rate,
            ),
        )

    def replies(self, shares: list[Share], post: Post) -> Iterator[tuple[Share, Reply]]:
        """Yield every share once with its node's first reply, in the order of the shares; then what came twice."""
        until = time.monotonic() + self.terms.timeout
        look = time.monotonic() + _REFRESH
        first: dict[int, Reply] = {}
        again: list[Reply] = []
        for share in shares:
            while True:
                for reply in post.fetch():
                    if reply.again or reply.node in first:
                        again.append(reply)
                    else:
                        first[reply.node] = reply
                now = time.monotonic()
                if share.node in first or now >= until:
                    break
                if now >= look:  # nodes that come or go meanwhile are known when the next round starts
                    self._fleet.refresh()
                    look = now + _REFRESH
                time.sleep(min(self.terms.pause, max(0.0, until - now)))
            late = Reply(node=share.node, problem=f"no reply within {self.terms.timeout:g} s")
            yield share, first.get(share.node, late)
        by_node = {share.node: share for share in shares}
        for reply in again:
            yield by_node[reply.node], Reply(node=reply.node, problem="sent a second time")


def contributions(share: Share, reply: Reply, *, kind: Kind, clip_norm: float) -> Iterator[Contribution]:
    """Yield what of a reply the server may screen and sum, and what is refused; a misfit is refused whole."""
    problem = reply.problem
    if problem is None:
        try:
            answer = read_answer(reply.content)
            problem = misfit(share, answer, kind)
        except DataError as error:
            problem = printable(error)
    if problem is not None:
        yield from (Rejected(unit=unit, reason=problem) for unit in share.units.tolist())
    elif kind != "sums":
        yield Block(units=share.units, rows=answer.rows)
    else:
        yield from _sums(share, answer, clip_norm)


def misfit(share: Share, answer: Answer, kind: Kind) -> str | None:
    """Return why an answer is not one to what this node was asked, or None."""
    if not secrets.compare_digest(answer.token.encode(), share.token.encode()):
        return "an answer to another message"
    if not np.array_equal(answer.clients, share.clients):
        strange = sorted(set(answer.clients.tolist()) - set(share.clients.tolist()))[:5]
        return f"answered for clients {strange}, which were not asked of it" if strange else "answered for others"
    rows = share.units.size if kind == "gradients" else share.clients.size
    if len(answer.rows) != rows:
        return f"{len(answer.rows)} rows instead of {rows}"
    if kind == "sums" and (answer.norms is None or answer.norms.size != share.units.size):
        return f"no {share.units.size} norms beside the sums"
    return None


def _sums(share: Share, answer: Answer, clip_norm: float) -> Iterator[ClippedSum | Rejected]:
    """Yield one sum per client over its examples with finite norms; the device left the others out."""
    ends = np.cumsum(share.counts)
    norms = np.asarray(answer.norms)
    for start, end, total in zip(ends - share.counts, ends, answer.rows, strict=True):
        units, fit = share.units[start:end], np.isfinite(norms[start:end])
        yield from (Rejected(unit=unit, reason="NaN or infinity") for unit in units[~fit].tolist())
        if fit.any():
            kept = norms[start:end][fit]
            yield ClippedSum(units=units[fit], total=total.astype(np.float64), norms=kept, clip_norm=clip_norm)
