"""A federation on a real network: our ServerApp under Flower's SuperLink, our ClientApp under Flower's SuperNodes.

The server side starts a SuperLink (TLS, node authentication), registers the nodes' public keys, starts a run of the
two apps, and waits for its result. The node side keeps a SuperNode running. Whatever either starts is ended with it.
"""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpaudit import serialize
from dpaudit.errors import DataError, DpauditError, UsageError
from dpaudit.flower import certificates
from dpaudit.flower.client_app import FOLDER
from dpaudit.flower.fleet import Register
from dpaudit.flower.packages import environment, require_flower
from dpaudit.flower.processes import Processes, Started

JOB = "DPAUDIT_FEDERATION_JOB"
"""Environment variable of the ServerApp: the file that says what to do."""
FASTER = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
_UP, _STOPPED = 120.0, 30.0
_LOOKS, _PAUSE = 10, 1.0
_APP = """[project]
name = "dpaudit-federation"
version = "1.0.0"
description = "The apps of dpaudit; their code is the installed package."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "dpaudit"

[tool.flwr.app.components]
serverapp = "dpaudit_server:app"
clientapp = "dpaudit_client:app"

[tool.flwr.app.config]
"""
_SERVER_MODULE = "from dpaudit.pipeline.federation import app\n\n__all__ = ['app']\n"
_CLIENT_MODULE = "from dpaudit.flower.client_app import app\n\n__all__ = ['app']\n"


class FederationFailed(DpauditError):
    """A part of the federation ended by itself; the run can be resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the SuperLink listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def local(self) -> str:
        """The address by which this machine reaches it."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - recognised, not chosen
        return f"{everywhere[self.host]}:{self.port}" if self.host in everywhere else str(self)


def register_of(keys: Path, nodes: Mapping[str, tuple[int, ...]]) -> Register:
    """Return which public key speaks for which clients: `keys`/NODE.pub for every node of the shards.

    Raises: DataError when a key is missing or unreadable.
    """
    missing = [name for name in nodes if not (keys / f"{name}.pub").is_file()]
    if missing:
        raise DataError(f"no public key in {keys} for {', '.join(missing[:5])}; make them: dpaudit federation keys.")
    return {certificates.read_node_key(keys / f"{name}.pub"): frozenset(held) for name, held in nodes.items()}


@contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """Yield a temporary folder of our own."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_federation(
    job: Mapping[str, Any], *, address: Address, certs: Path, register: Register, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Serve a federation until its run has ended; return what the ServerApp left as its result.

    Args:
        job: what the ServerApp is to do; see `dpaudit.pipeline.federation`.
        address: where the SuperLink listens.
        certs: the folder of certificates.
        register: the public keys that may connect.
        tell: called with each line of progress.

    Raises: UsageError when the port is taken or a file is missing; FederationFailed.
    """
    require_flower()
    tls = [certs.resolve() / name for name in (certificates.SERVER, certificates.SERVER_KEY, certificates.CA)]
    for path in tls:
        if not path.is_file():
            raise UsageError(f"{path} is missing. Make it with: dpaudit federation certificates.")
    _refuse_taken(address)
    with private_folder("dpaudit-server-") as home, Processes({**environment(home), **FASTER}) as processes:
        said, result = home / "progress.txt", home / "result.json"
        serialize.write_atomic(
            home / "job.json", serialize.dumps({**job, "progress": str(said), "result": str(result)}), mode=0o600
        )
        link = processes.start(
            [
                "python", "-m", "dpaudit.flower.superlink", "--host", address.host, "--port", str(address.port),
                "--ssl-certfile", str(tls[0]), "--ssl-keyfile", str(tls[1]), "--ssl-ca-certfile", str(tls[2]),
                "--enable-supernode-auth", "--disable-runtime-dependency-installation",
            ],
            log=home / "superlink.log",
            extra={JOB: str(home / "job.json")},
        )  # fmt: skip
        control = _control(address, tls[2], link)
        try:
            for key in register:
                _register(control, key)
            tell(f"SuperLink on {address}; {len(register)} node keys registered")
            run = _start_run(control, home)
            return _wait(control, run, link, said, result, tell)
        finally:
            control.close()


def _refuse_taken(address: Address) -> None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {address}: {error.strerror}. Choose another --host or --port."
            ) from error


def _control(address: Address, ca: Path, link: Started) -> Any:
    """Return a client of the SuperLink's Control interface, once it answers."""
    from flwr.cli.typing import SuperLinkConnection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.proto.control_pb2 import ListRunsRequest

    host, _, port = address.local.rpartition(":")
    until = time.monotonic() + _UP
    while True:
        _refuse_ended(link)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
            break
        except OSError as error:
            if time.monotonic() > until:
                raise FederationFailed(f"the SuperLink did not answer within {_UP:g} s.\n{link.tail()}") from error
            time.sleep(0.1)
    connection = SuperLinkConnection(name="dpaudit", address=address.local, root_certificates=str(ca), insecure=False)
    with redirect_stdout(sys.stderr):  # it says which SuperLink it uses
        client = init_http_client_from_connection(connection)
        client.ListRuns(ListRunsRequest())
    return client


def _register(control: Any, key: bytes) -> None:
    from flwr.proto.control_pb2 import RegisterNodeRequest

    control.RegisterNode(RegisterNodeRequest(public_key=key))


def _start_run(control: Any, home: Path) -> int:
    """Hand the two apps over and return the id of their run."""
    import hashlib

    from flwr.cli.build import build_fab_from_disk
    from flwr.common.serde import fab_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    app = home / "app"
    app.mkdir()
    for name, text in (
        ("pyproject.toml", _APP), ("dpaudit_server.py", _SERVER_MODULE), ("dpaudit_client.py", _CLIENT_MODULE)
    ):  # fmt: skip
        (app / name).write_text(text)
    content = build_fab_from_disk(app)
    answer = control.StartRun(StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))))
    if not answer.HasField("run_id"):
        raise FederationFailed("the SuperLink did not start the run.")
    return int(answer.run_id)


def _wait(
    control: Any, run: int, link: Started, said: Path, result: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Pass progress on until the ServerApp has left its result, or has ended without one."""
    shown, look, stopped = 0, 0.0, None
    while True:
        lines = said.read_text().splitlines() if said.is_file() else []
        for line in lines[shown:]:
            tell(line)
        shown = len(lines)
        if result.is_file():
            return dict(serialize.loads(result.read_bytes()))
        _refuse_ended(link)
        if time.monotonic() > look:
            look = time.monotonic() + 2.0
            stopped = (stopped or time.monotonic()) if _finished(control, run) else None
        if stopped is not None and time.monotonic() - stopped > 1.0 and not result.is_file():
            raise FederationFailed(f"the ServerApp ended without a result.\n{link.tail(40)}")
        time.sleep(0.2)


def _finished(control: Any, run: int) -> bool:
    """Say whether a run has ended; a connection that was cut between two looks is made anew.

    Raises: FederationFailed when the SuperLink does not answer several times in a row.
    """
    import httpx
    from flwr.proto.control_pb2 import ListRunsRequest

    failures = 0
    while True:
        try:
            found = control.ListRuns(ListRunsRequest(run_id=run)).run_dict
        except httpx.TransportError as error:
            failures += 1
            if failures == _LOOKS:
                raise FederationFailed(f"the SuperLink does not answer any more: {error}") from error
            time.sleep(_PAUSE)
        else:
            return run in found and found[run].status.status == "finished"


def _refuse_ended(link: Started) -> None:
    if link.ended is not None:
        raise FederationFailed(f"the SuperLink ended with code {link.ended}.\n{link.tail(40)}")


def run_node(
    *, shards: Path, superlink: str, ca: Path, key: Path, restarts: int | None = None, tell: Callable[[str], None]
) -> None:
    """Keep a SuperNode with the data of `shards` running, until it is refused or `restarts` are used up.

    Args:
        shards: the folder of this node.
        superlink: host:port of the server.
        ca: the certificate by which the server is known.
        key: this node's private key.
        restarts: how often to start again after an end; None: always.
        tell: called with each line of progress.

    Raises: UsageError when a file is missing, or the server does not know the key; FederationFailed.
    """
    require_flower()
    for path in (shards / "node.json", ca, key):
        if not path.is_file():
            raise UsageError(f"{path} is missing.")
    with private_folder("dpaudit-node-") as home, Processes({**environment(home), **FASTER}) as processes:
        left, pause = restarts, 1.0
        while True:
            log = home / "supernode.log"
            started = time.monotonic()
            node = processes.start(_node_command(shards, superlink, ca, key), log=log)
            tell(f"SuperNode {node.pid} for {superlink}")
            while node.ended is None:
                time.sleep(0.2)
            last = node.tail(40)
            if any(text in last for text in _REFUSED):
                raise UsageError(f"the server at {superlink} refused this node: its key is not registered there.")
            if left == 0:
                raise FederationFailed(f"the SuperNode ended with code {node.ended}.\n{node.tail()}")
            left = None if left is None else left - 1
            pause = 1.0 if time.monotonic() - started > 60 else min(30.0, pause * 2)
            tell(f"the SuperNode ended with code {node.ended}; starting again in {pause:g} s")
            processes.end()
            time.sleep(pause)


_REFUSED = ("Exit Code: 305", "Exit Code: 304")


def _node_command(shards: Path, superlink: str, ca: Path, key: Path) -> list[str]:
    return [
        "flower-supernode", "--superlink", superlink, "--root-certificates", str(ca.resolve()),
        "--auth-supernode-private-key", str(key.resolve()), "--host", "127.0.0.1", "--port", str(_free_port()),
        "--node-config", f'{FOLDER}="{shards.resolve()}"',
    ]  # fmt: skip


def _free_port() -> int:
    """Return a port of this machine that is free now: for a SuperNode's own apps, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job_file() -> Path:
    """Return the file that says what the ServerApp of this process is to do. Raises: UsageError."""
    path = os.environ.get(JOB)
    if path is None:
        raise UsageError("this ServerApp is started by: dpaudit federation server.")
    return Path(path)
