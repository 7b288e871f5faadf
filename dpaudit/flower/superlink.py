"""Flower's SuperLink with its doors closed: `python -m dpaudit.flower.superlink` takes flower-superlink's arguments.

Flower 1.41 serves three interfaces on one port: Fleet (nodes, authenticated by their keys), Control (start a run,
register a node) and Runtime (the ServerApp). Control has no authentication of its own: whoever reaches the port could
register a node, or start a run whose code every node then executes. Here Control and Runtime answer to this machine
only; other machines reach Fleet and nothing else.

Fleet itself stays closed (503, after which a SuperNode tries again) until a run is started, which is after the keys of
all nodes are registered: one that came in between would be told that its key is unknown, and give up.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

FLEET, START = "/v1/fleet/", "/v1/control/start-run"
OPEN = (FLEET, "/v1/health")
_Call = Callable[..., Awaitable[Any]]


class OnlyNodes:
    """ASGI middleware that refuses everything but the nodes' interface to callers from other machines.

    Nodes come in once a run has been started from this machine.
    """

    def __init__(self, app: _Call) -> None:
        self._app, self._started = app, False

    async def __call__(self, scope: Any, receive: _Call, send: _Call) -> None:
        """Pass a request on, or refuse it: with 403, or 503 to a node that comes too early."""
        path, local = str(scope.get("path", "")), is_local(scope)
        self._started = self._started or (local and path == START)
        status = 200 if scope["type"] == "lifespan" else self._status(path, local=local)
        if status == 200:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    def _status(self, path: str, *, local: bool) -> int:
        if not local and (".." in path or not path.startswith(OPEN)):
            return 403
        return 503 if path.startswith(FLEET) and not self._started else 200


def is_local(scope: Any) -> bool:
    """Say whether a caller is on this machine: from a loopback address, or from the very address it calls."""
    client, server = scope.get("client"), scope.get("server")
    if not client:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback or bool(server and client[0] == server[0])
    except ValueError:
        return False


def main() -> None:
    """Run flower-superlink with the middleware around its application."""
    from flwr.superlink import main as superlink
    from flwr.superlink.cli.flower_superlink import flower_superlink

    make = superlink.create_app
    superlink.create_app = lambda *args, **kwargs: OnlyNodes(make(*args, **kwargs))
    flower_superlink()


if __name__ == "__main__":
    main()
