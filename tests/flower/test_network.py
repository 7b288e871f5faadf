"""A federation of real processes on loopback: TLS, node keys, a stranger, a node killed in a round, a resumed server.

One federation for all of it: starting Flower costs more than what is tested. Everything has a time-out; nothing waits
for a fixed time. Nodes compute without TensorFlow (a chain of Dense layers), the server process imports it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpaudit.federated.run_files import open_run
from dpaudit.flower import processes
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("cryptography")
pytestmark = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
ROUNDS = 4
LIMIT = 600.0
CONFIG = """
[run]
name = "network"
seed = 5
[claim]
epsilon = 8.0
delta = 1e-5
unit = "client"
[data]
source = "data.npz"
client = "client"
holdout_fraction = 0.25
[partition]
kind = "by-client"
[model]
hidden = [5]
[training]
algorithm = "dp-fedavg"
rounds = {rounds}
client_sampling_rate = 1.0
noise_multiplier = 1.0
checkpoint_every = 1
local_batch_size = 8
[canaries]
count = 20
"""


class Federation:
    """Commands of `dpaudit federation` as a user starts them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.commands: dict[str, subprocess.Popen] = {}

    def call(self, *arguments: str) -> None:
        found = subprocess.run(
            [sys.executable, "-m", "dpaudit", "federation", *arguments],
            check=False, cwd=self.folder, capture_output=True, text=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        with (self.folder / f"{name}.err").open("a") as err, (self.folder / f"{name}.out").open("w") as out:
            self.commands[name] = subprocess.Popen(
                [sys.executable, "-m", "dpaudit", "federation", *arguments],
                cwd=self.folder, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        return self.commands[name]

    def server(self, *more: str) -> subprocess.Popen:
        return self.start(
            "server", "server", "run.toml", "--out", "out", "--federation", "shards", "--certificates", "certs",
            "--port", str(self.port), "--timeout", "100", "--least", "0.6", "--json", *more,
        )  # fmt: skip

    def node(self, number: int, *, key: str | None = None, name: str | None = None) -> subprocess.Popen:
        return self.start(
            name or f"node{number}", "node", "--shards", f"shards/node-0000{number}", "--superlink",
            f"127.0.0.1:{self.port}", "--ca", "certs/ca.crt", "--key", key or f"certs/nodes/node-0000{number}",
        )  # fmt: skip

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.err").read_text()

    def wait(self, what, why: str) -> None:
        until = time.monotonic() + LIMIT
        while not what():
            assert time.monotonic() < until, f"{why}\n" + "\n".join(
                f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.err"))
            )
            time.sleep(0.1)

    def rounds(self) -> int:
        ledger = self.folder / "out" / "ledger.jsonl"
        return ledger.read_bytes().count(b'"release_sha256"') if ledger.is_file() else 0

    def supernode_of(self, name: str) -> int:
        """Return the process id of the SuperNode that a node command keeps."""
        lines = [line for line in self.said(name).splitlines() if line.startswith("SuperNode ")]
        return int(lines[-1].split()[1])

    def end(self) -> None:
        for command in self.commands.values():
            if command.poll() is None:
                command.send_signal(signal.SIGTERM)
        for command in self.commands.values():
            try:
                command.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(command.pid, signal.SIGKILL)
                command.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _flower_processes(folder: Path) -> list[str]:
    """Return the command lines of running processes that were started in `folder`, Flower's among them."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                home = os.readlink(place / "cwd")
                line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if home == str(folder) and line:
                found.append(line)
    return found


@pytest.fixture
def federation(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=160)
    x = (2 * np.eye(3, 4)[y] + 0.5 * rng.standard_normal((160, 4))).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=y, client=np.arange(160) % 8)
    (tmp_path / "run.toml").write_text(CONFIG.format(rounds=ROUNDS))
    made = Federation(tmp_path)
    made.call("shards", "run.toml", "--out", "shards", "--nodes", "3")
    made.call("certificates", "--out", "certs", "--federation", "shards")
    made.call("key", "stranger")
    try:
        yield made
    finally:
        made.end()


def test_a_federation_over_tls_with_a_stranger_a_killed_node_and_a_resumed_server(federation):
    server = federation.server()
    nodes = [federation.node(number) for number in range(3)]
    stranger = federation.node(0, key="stranger", name="stranger")

    # A node whose key nobody registered is refused, and says so.
    federation.wait(lambda: stranger.poll() is not None, "the stranger was not refused")
    assert stranger.returncode == 2
    assert "refused this node: its key is not registered there" in federation.said("stranger")

    # The server is killed, hard, after the first round; everything of it ends; the nodes stay.
    def ended():
        return [node for node in nodes if node.poll() is not None]

    federation.wait(lambda: federation.rounds() >= 1 or ended(), "the first round did not end")
    assert not ended(), "\n".join(federation.said(f"node{number}") for number in range(3))
    server.send_signal(signal.SIGTERM)
    federation.wait(lambda: server.poll() is not None, "the server did not end")
    assert server.returncode == 130
    done = federation.rounds()
    assert 1 <= done < ROUNDS
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", federation.port))  # nobody listens there any more

    # It goes on with the nodes that are still there; one of them is killed as soon as it has work to do.
    victim = federation.commands["node2"]
    server = federation.server("--resume")
    federation.wait(lambda: federation.rounds() > done or server.poll() is not None, "no round after the restart")
    os.kill(federation.supernode_of("node2"), signal.SIGKILL)
    victim.send_signal(signal.SIGKILL)
    federation.wait(lambda: server.poll() is not None, "the run did not end")
    assert server.returncode == 0, federation.said("server")
    printed = json.loads((federation.folder / "server.out").read_text())
    assert printed["schema"] == "dpaudit.federation-server/v1"
    assert printed["rounds"] == ROUNDS
    _check_ledger(federation.folder / "out")

    federation.end()
    federation.wait(lambda: not _flower_processes(federation.folder), "processes are left")
    for pid in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        assert str(federation.folder).encode() not in variables or processes.MARK.encode() not in variables


AWAY = "no connected node holds its client"


def _check_ledger(out: Path) -> None:
    run, ledger = open_run(out), PrivacyLedger.open(out / "ledger.jsonl")
    assert run.complete
    assert ledger.facts["engine"] == "flower-network"
    attempts = [(entry.facts["round"], entry.facts.get("attempt", 0)) for entry in ledger.events()]
    assert len(attempts) == len(set(attempts)) == run.noise_draws  # no noise twice
    assert sorted({number for number, _ in attempts}) == list(range(ROUNDS))
    for entry in ledger.events():
        assert (entry.facts["expected"], entry.facts["noise_stddev"]) == (6.0, 1.0)
        assert entry.facts["realised_units"] + entry.facts["rejected"] == 6
    lost = [entry for entry in ledger.entries if entry.type == "note" and "rejected" in entry.facts["what"]]
    why = {(item["unit"], item["reason"]) for entry in lost for item in entry.facts["first"]}
    of_killed = {reason for unit, reason in why if unit in (4, 5)}
    assert any(text in reason for reason in of_killed for text in ("no reply within", "error", AWAY))
    # A round may start while another node has yet to come back to the restarted server (--least 0.6).
    assert {reason for unit, reason in why if unit not in (4, 5)} <= {AWAY}
