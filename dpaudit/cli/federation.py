"""`dpaudit federation`: shards for nodes, certificates and keys, the server, a node."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import held_back_stderr, load_tensorflow

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def command() -> None:
    """Federated training over a real network with Flower; see docs/federation.md."""


@command.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=_FOLDER, help="New folder for the nodes' folders and the server's.")
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes to share the clients among; default: one per client.")
@click.option("--litert", is_flag=True, help="Nodes run the model by LiteRT, as devices do; see docs/devices.md.")
@json_option
def shards(config: Path, out: Path, nodes: int | None, litert: bool, as_json: bool) -> None:
    """Cut the data of CONFIG into one folder per node, and what the server keeps instead of data."""
    from dpaudit import _rng
    from dpaudit import config as configuration
    from dpaudit.flower.engine import kind_of
    from dpaudit.flower.packages import require_flower

    settings = configuration.load(config)
    require_flower()
    kind_of(settings.training)
    load_tensorflow()
    from dpaudit.federated import models
    from dpaudit.federated.data import prepare
    from dpaudit.flower.shards import write_shards

    root = _rng.root_from_entropy() if settings.run.seed == "os-entropy" else settings.run.seed
    data = prepare(settings, root=root)
    model = models.build_model(settings.model, data.train.x.shape[1:], data.train.classes, root=root)
    client = _device_client(model, settings.training, data.train) if litert else None
    folders = write_shards(out, data, model, nodes=nodes or data.clients, client=client)
    payload = {"out": out, "nodes": [folder.name for folder in folders], "clients": data.clients}
    emit("federation-shards", payload, f"{len(folders)} nodes with {data.clients} clients in {out}", as_json=as_json)


def _device_client(model: Any, training: Any, data: Any) -> bytes:
    from dpaudit.federated.device_export import check_algorithm, make_client

    check_algorithm(training)
    with held_back_stderr():
        return make_client(model, training, data)


@command.command()
@click.option("--out", required=True, type=_FOLDER, help="New folder for certificates and keys.")
@click.option("--host", "hosts", multiple=True, help="Name or address by which nodes reach the server; repeatable.")
@click.option("--federation", required=True, type=_FOLDER, help="The folder of the shards: a key for each node.")
@click.option("--days", default=365, show_default=True, type=click.IntRange(min=1), help="How long they are valid.")
@json_option
def certificates(out: Path, hosts: tuple[str, ...], federation: Path, days: int, as_json: bool) -> None:
    """Make an authority, the server's certificate, and a key pair for every node."""
    from dpaudit.flower.certificates import write_certificates

    nodes = sorted(path.name for path in federation.glob("node-*") if path.is_dir())
    if not nodes:
        raise click.UsageError(f"{federation} holds no node folders; make them with: dpaudit federation shards.")
    everywhere = dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"])  # the server's own apps use loopback
    write_certificates(out, hosts=list(everywhere), nodes=nodes, days=days)
    text = (
        f"Authority, server certificate and {len(nodes)} node keys in {out}.\n"
        "Keep ca.key offline; each node gets ca.crt and its own key."
    )
    emit("federation-certificates", {"out": out, "nodes": nodes, "hosts": list(everywhere)}, text, as_json=as_json)


@command.command()
@click.argument("path", type=_FILE)
@json_option
def key(path: Path, as_json: bool) -> None:
    """Make a node's key pair at PATH and PATH.pub: on the node, which then hands out the .pub only."""
    from dpaudit.flower.certificates import write_node_key

    write_node_key(path)
    text = f"{path} (keep), {path}.pub (register)"
    emit("federation-key", {"private": path, "public": f"{path}.pub"}, text, as_json=as_json)


@command.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; new, or with --resume.")
@click.option("--federation", required=True, type=_FOLDER, help="The folder of the shards; its server/ is read.")
@click.option("--certificates", "certs", required=True, type=_FOLDER, help="Certificates, and nodes/*.pub.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9443, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--timeout", default=50.0, show_default=True, type=click.FloatRange(1, 3600), help="Seconds of a round.")
@click.option(
    "--least", default=0.5, show_default=True, type=click.FloatRange(0, 1, min_open=True),
    help="Share of the clients whose nodes must be connected for a round to start.",
)  # fmt: skip
@click.option(
    "--patience", default=600.0, show_default=True, type=click.FloatRange(1), help="Seconds to wait for that many."
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run: no noise twice, no round counted twice.")
@json_option
def server(
    config: Path, out: Path, federation: Path, certs: Path, host: str, port: int, timeout: float, least: float,
    patience: float, resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train CONFIG with the nodes that connect: SuperLink with TLS and node keys, our server, the ledger in --out."""
    from dpaudit import config as configuration
    from dpaudit.flower.certificates import NODES
    from dpaudit.flower.deployment import Address, register_of, run_federation
    from dpaudit.flower.packages import require_flower

    configuration.load(config)
    require_flower()
    load_tensorflow()
    from dpaudit.flower.shards import open_federation
    from dpaudit.pipeline.federation import Job

    register = register_of(certs / NODES, open_federation(federation).nodes)
    job = Job(
        config=config, out=out, resume=resume, federation=federation, keys=certs / NODES, timeout=timeout, least=least,
        patience=patience,
    )  # fmt: skip
    with _stoppable():
        result = run_federation(
            job.written(), address=Address(host=host, port=port), certs=certs, register=register, tell=_tell
        )
    _raise_failure(result)
    accuracy = result["holdout_accuracy"]
    text = f"Trained {result['rounds']} rounds: hold-out accuracy {accuracy:.1%}.\nLedger: {out / 'ledger.jsonl'}"
    emit("federation-server", {**result, "ledger": out / "ledger.jsonl"}, text, as_json=as_json)


def _raise_failure(result: dict[str, Any]) -> None:
    """Raise the failure that the ServerApp reported, with its exit code."""
    if "error" not in result:
        return
    from dpaudit.errors import EXIT_INTERRUPTED, DpauditError

    error = result["error"]
    if error["exit_code"] == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    failure = DpauditError(error["message"])
    failure.exit_code = int(error["exit_code"])
    raise failure


@command.command()
@click.option("--shards", required=True, type=_FOLDER, help="This node's folder.")
@click.option("--superlink", required=True, help="HOST:PORT of the server.")
@click.option("--ca", required=True, type=_FILE, help="The authority's certificate, ca.crt.")
@click.option("--key", required=True, type=_FILE, help="This node's private key.")
@click.option("--restarts", type=click.IntRange(min=0), help="How often to start again after an end; default: always.")
def node(shards: Path, superlink: str, ca: Path, key: Path, restarts: int | None) -> None:
    """Keep a SuperNode with this node's data running; Ctrl-C ends it."""
    from dpaudit.flower.deployment import run_node

    with _stoppable():
        run_node(shards=shards, superlink=superlink, ca=ca, key=key, restarts=restarts, tell=_tell)


def _tell(line: str) -> None:
    click.echo(line, err=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Make SIGTERM an interruption, as Ctrl-C is, so that what was started is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
