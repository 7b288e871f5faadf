"""Flower's ClientApp of dpaudit: `query` (what does this node hold) and `train` (a round's work)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpaudit.errors import UsageError
from dpaudit.flower.messages import read_job, write_answer, write_holdings
from dpaudit.flower.node import Node

FOLDER = "shards"
"""Key of a SuperNode's configuration (`--node-config`): the folder with this node's data and model."""


def answer_query(node: Node, message: Any) -> Any:
    """Reply with what a node holds."""
    from flwr.app import Message

    return Message(write_holdings(node.holdings()), reply_to=message)


def answer_train(node: Node, message: Any) -> Any:
    """Reply with what a job asks for; what goes wrong becomes Flower's error reply."""
    from flwr.app import Message

    return Message(write_answer(node.answer(read_job(message.content))), reply_to=message)


def answer_secagg(node: Node, message: Any, context: Any) -> Any:
    """Reply to a stage of secure aggregation; what a device refuses becomes Flower's error reply."""
    from flwr.app import Message

    from dpaudit.flower.secure_node import answer_stage

    return Message(answer_stage(node, message.content, context.state), reply_to=message)


def make_client_app(node_of: Callable[[Any], Node]) -> Any:
    """Return the app; `node_of` finds the node by Flower's Context."""
    from flwr.clientapp import ClientApp

    app = ClientApp()
    app.query()(lambda message, context: answer_query(node_of(context), message))
    app.train()(lambda message, context: answer_train(node_of(context), message))
    app.train("secagg")(lambda message, context: answer_secagg(node_of(context), message, context))
    return app


def node_by_config(context: Any) -> Node:
    """Return the node whose folder the SuperNode was started with. Raises: UsageError when it names none."""
    from dpaudit.flower.shards import open_node

    folder = context.node_config.get(FOLDER)
    if not folder:
        raise UsageError(f"start the SuperNode with --node-config '{FOLDER}=\"FOLDER\"': the folder with its data.")
    return open_node(Path(str(folder)))


def __getattr__(name: str) -> Any:
    """Make `app` when Flower asks for it, so that importing this module needs no Flower."""
    if name == "app":
        return make_client_app(node_by_config)
    raise AttributeError(name)
