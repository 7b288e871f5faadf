"""Which node speaks for which client.

Nodes say what they hold when they are asked (`query`). With a register (the public key of every node, and the clients
that it may speak for) a claim beyond it is refused; without one, a client belongs to the first node that claims it,
for as long as that node is connected. Nodes may come, go and come back with another id at any time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError, DpauditError
from dpaudit.flower import messages
from dpaudit.flower.exchange import LOG, Post, Reply, printable

Register = Mapping[bytes, frozenset[int]]
"""The clients that the owner of a public key may speak for."""
_QUERY_LIFETIME, _RETRY = 120.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """When rounds may start, and how long they may take (seconds).

    `timeout`: of a round. `least`: the share of the clients whose nodes must be connected for a round to start; which
    nodes are connected does not depend on the secret cohort. `patience`: how long to wait for that. `pause`: between
    two looks for replies.
    """

    timeout: float = 50.0
    least: float = 0.5
    patience: float = 300.0
    pause: float = 0.05


class TooFewNodes(DpauditError):
    """The nodes that hold the clients did not come, or did not come back; the run can be resumed."""


class Fleet:
    """The nodes of a federation as the server sees them."""

    def __init__(
        self, grid: Any, *, sizes: NDArray[np.int64], parameters: int, terms: Terms, register: Register | None = None
    ) -> None:
        """`sizes` (clients,): how many examples every client holds, which the server knows and nodes must confirm."""
        self._grid, self._sizes, self._parameters = grid, sizes, parameters
        self._terms, self._register = terms, register
        self._keys: dict[int, bytes] = {}
        self._node_of: dict[int, int] = {}
        self._known: set[int] = set()
        self._asked: list[tuple[float, Post]] = []
        self._again: dict[int, float] = {}

    def node_of(self, client: int) -> int | None:
        """Return the connected node that speaks for a client, or None."""
        return self._node_of.get(client)

    @property
    def reachable(self) -> int:
        """How many clients can be reached."""
        return len(self._node_of)

    def gather(self) -> None:
        """Wait until enough clients can be reached. Raises: TooFewNodes when they cannot in time."""
        until = time.monotonic() + self._terms.patience
        wanted = max(1, int(np.ceil(self._terms.least * self._sizes.size)))
        self.refresh()
        while self.reachable < wanted:
            if time.monotonic() > until:
                raise TooFewNodes(
                    f"nodes for {self.reachable} of {self._sizes.size} clients are connected after "
                    f"{self._terms.patience:g} s; a round needs {wanted}. Start more nodes and go on with --resume."
                )
            time.sleep(self._terms.pause)
            self.refresh()

    def refresh(self) -> None:
        """See who came and who went, ask the new ones what they hold, and read what they say; never waits."""
        present = {int(node.node_id): bytes(node.public_key) for node in self._grid.get_nodes()}
        for client in [client for client, node in self._node_of.items() if node not in present]:
            del self._node_of[client]
        self._keys = present
        now = time.monotonic()
        self._known &= set(present)
        self._known -= {node for node, when in self._again.items() if when <= now}
        self._again = {node: when for node, when in self._again.items() if when > now}
        fresh = set(present) - self._known
        if fresh:
            asked = {node: messages.write({}, {}) for node in sorted(fresh)}
            post = Post(self._grid, asked, kind="query", group="query", lifetime=_QUERY_LIFETIME)
            self._asked.append((now + _QUERY_LIFETIME, post))
            self._known |= fresh
        for reply in [reply for _, post in self._asked for reply in post.fetch()]:
            self._hear(reply)
        late = {node for until, post in self._asked if until <= now for node in post.nodes}
        self._known -= late  # asked anew next time
        self._asked = [(until, post) for until, post in self._asked if until > now and post.nodes]

    def _hear(self, reply: Reply) -> None:
        if reply.problem is not None:
            self._again[reply.node] = time.monotonic() + _RETRY
            LOG.warning("node %s did not say what it holds: %s", reply.node, reply.problem)
            return
        try:
            held = messages.read_holdings(reply.content)
            self._refuse_unfit(held, self._keys.get(reply.node))
        except DataError as error:
            LOG.warning("node %s is left out: %s", reply.node, printable(error))
            return
        for client in held.clients:
            other = self._node_of.get(client)
            if other not in (None, reply.node) and self._register is None:
                LOG.warning("node %s claims client %s, for which node %s speaks", reply.node, client, other)
                continue
            self._node_of[client] = reply.node

    def _refuse_unfit(self, held: messages.Holdings, key: bytes | None) -> None:
        """Raise DataError for a node whose claims do not fit this run."""
        if held.parameters != self._parameters:
            raise DataError(f"its model has {held.parameters} parameters, that of the run {self._parameters}.")
        for client, size in zip(held.clients, held.sizes, strict=True):
            if not 0 <= client < self._sizes.size or size != self._sizes[client]:
                raise DataError(f"it claims client {client} with {size} examples, which is not one of this run.")
        if self._register is None:
            return
        allowed = frozenset() if key is None else self._register.get(key, frozenset())
        strange = sorted(set(held.clients) - allowed)
        if strange:
            raise DataError(f"its key does not speak for clients {strange[:5]}.")
