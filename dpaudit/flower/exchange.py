"""Messages to nodes and their replies, over Flower's Grid: each node one message, each message one reply, in time.

Two nodes cannot be confused: a reply counts for the node that its message went to, and only if it names that message
and comes from that node. Whatever else arrives is a problem of that node, or nobody's and dropped.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LOG = logging.getLogger("dpaudit.flower")
_LONGEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back from `node`: a `content`, or the `problem` that stands for it. `again`: not the first."""

    node: int
    content: Any = None
    problem: str | None = None
    again: bool = False


class Post:
    """One message to each of some nodes."""

    def __init__(self, grid: Any, contents: Mapping[int, Any], *, kind: str, group: str, lifetime: float) -> None:
        """Push the messages; Flower forgets them, and late replies to them, after `lifetime` seconds."""
        from flwr.app import Message

        self._grid = grid
        messages = [
            Message(content, dst_node_id=node, message_type=kind, ttl=lifetime, group_id=group)
            for node, content in contents.items()
        ]
        pushed = set(grid.push_messages(messages)) if messages else set()
        self._sent = {str(m.metadata.message_id): m.metadata.dst_node_id for m in messages}
        self._waiting = {name for name in self._sent if name in pushed}
        self._undelivered = [node for name, node in self._sent.items() if name not in pushed]

    @property
    def nodes(self) -> set[int]:
        """The nodes that have yet to reply."""
        return {self._sent[name] for name in self._waiting}

    def fetch(self) -> Iterator[Reply]:
        """Yield what has arrived since the last call; never waits."""
        for node in self._undelivered:
            yield Reply(node=node, problem="the message could not be delivered")
        self._undelivered = []
        if not self._waiting:
            return
        for message in self._grid.pull_messages(sorted(self._waiting)):
            reply = self._checked(message)
            if reply is not None:
                yield reply

    def _checked(self, message: Any) -> Reply | None:
        """Return the reply that a message is, by whom it may be from; None for an answer to nothing we asked."""
        name = str(message.metadata.reply_to_message_id)
        if name not in self._sent:
            LOG.warning("dropped an answer to a message that was not sent in this round")
            return None
        node = self._sent[name]
        if message.has_error():
            self._waiting.discard(name)
            return Reply(node=node, problem=f"error {message.error.code}: {printable(message.error.reason)}")
        if message.metadata.src_node_id != node:
            LOG.warning("dropped an answer of node %s in the name of node %s", message.metadata.src_node_id, node)
            return None
        again = name not in self._waiting
        self._waiting.discard(name)
        return Reply(node=node, content=message.content, again=again)


def printable(text: object) -> str:
    """Return foreign text in one short line, fit for a ledger."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
