"""Flower's Grid without a network: nodes in this process, with Flower's real messages and serialisation.

For the step test of a run over Flower, which executes a round hundreds of times on data of its own, and for tests.
"""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from dpaudit.flower.client_app import make_client_app
from dpaudit.flower.node import Node
from dpaudit.flower.packages import require_flower

SERVER_NODE = 1


class LoopbackNodes:
    """Nodes by id, and their replies, held until they are pulled. Faults are planted by overriding `reply`."""

    def __init__(self, nodes: Mapping[int, Node]) -> None:
        """Set up an app per node, as Flower runs it."""
        self.nodes = dict(nodes)
        self._held: dict[str, list[Any]] = {}
        self._states: dict[int, Any] = {}
        self._app = make_client_app(lambda context: self.nodes[context.node_id])

    def present(self) -> list[Any]:
        """Return the nodes that are connected now, as Flower describes them."""
        return [SimpleNamespace(node_id=node, public_key=f"key of {node}".encode()) for node in self.nodes]

    def deliver(self, message: Any) -> bool:
        """Take a message to its node; return whether it could be delivered."""
        node = message.metadata.dst_node_id
        if node not in self.nodes:
            return False
        arrived = over_the_wire(message)
        self._held.setdefault(message.metadata.message_id, []).extend(over_the_wire(m) for m in self.reply(arrived))
        return True

    def reply(self, message: Any) -> list[Any]:
        """Return the replies of a node to a message: one, or Flower's error reply if its app fails."""
        from flwr.app import Error, Message, RecordDict

        node = message.metadata.dst_node_id
        state = self._states.setdefault(node, RecordDict())
        context = SimpleNamespace(node_id=node, node_config={}, state=state)
        try:
            return [self._app(message, context)]
        except Exception as error:
            return [Message(Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message)]

    def collect(self, names: Iterable[str]) -> list[Any]:
        """Return what has arrived in reply to these messages."""
        return [message for name in names for message in self._held.pop(name, [])]


def over_the_wire(message: Any) -> Any:
    """Return the message that a receiver reads from the bytes of this one."""
    from flwr.app import Message, RecordDict
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    objects = {name: value.deflate() for name, value in get_all_nested_objects(message).items()}
    received = inflate_object_from_contents(message.object_id, objects)
    if not isinstance(received, Message) or (received.has_content() and not isinstance(received.content, RecordDict)):
        raise TypeError(f"a message became a {type(received).__name__} on its way")
    received.metadata.__dict__["_message_id"] = message.metadata.message_id
    return received


class _Loopback:
    """The methods of a Grid whose nodes answer when they are asked."""

    def __init__(self, fleet: LoopbackNodes) -> None:
        self._fleet = fleet

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is no run."""
        return None

    def create_message(self, *_: Any, **__: Any) -> Any:
        """Refuse: deprecated in Flower."""
        raise NotImplementedError("make Messages with their constructor")

    def get_nodes(self) -> Iterable[Any]:
        """Return the connected nodes."""
        return self._fleet.present()

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Deliver messages; return the names of those that could be."""
        pushed = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            if self._fleet.deliver(message):
                pushed.append(message.metadata.message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Return what has arrived."""
        return self._fleet.collect(list(message_ids))

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
        """Push and pull at once."""
        del timeout
        return self.pull_messages(self.push_messages(messages))


def loopback_grid(fleet: LoopbackNodes) -> Any:
    """Return a Flower Grid over nodes of this process."""
    require_flower()
    from flwr.serverapp import Grid
    from flwr.supercore.task_identity import TaskIdentity

    if TaskIdentity._run_id is None:  # a message must say which run it belongs to
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SERVER_NODE
    return type("LoopbackGrid", (_Loopback, Grid), {})(fleet)
