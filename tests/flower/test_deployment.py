"""The parts of a deployment, each alone: certificates, the SuperLink's closed doors, the end of processes."""

import asyncio
import os
import ssl
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.flower import certificates, deployment, processes
from dpaudit.flower.superlink import OnlyNodes

pytest.importorskip("cryptography")


def test_certificates_are_what_tls_and_flower_accept(tmp_path):
    out = tmp_path / "certs"
    certificates.write_certificates(out, hosts=["localhost", "127.0.0.1"], nodes=["node-00000"])
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(out / certificates.SERVER, out / certificates.SERVER_KEY)
    client = ssl.create_default_context(cafile=out / certificates.CA)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    _handshake(server, client, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        _handshake(server, client, "example.org")
    for name in (certificates.CA_KEY, certificates.SERVER_KEY, "nodes/node-00000"):
        assert (out / name).stat().st_mode & 0o077 == 0, name
    from flwr.cli.supernode.register import try_load_public_key

    public = out / "nodes" / "node-00000.pub"
    assert certificates.read_node_key(public) == try_load_public_key(public)
    with pytest.raises(OutputExists):
        certificates.write_certificates(out, hosts=["localhost"], nodes=[])


def _handshake(server, client, host):
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=host)
    pending = [theirs, ours]
    for _ in range(20):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not pending


def test_the_register_names_every_node_or_refuses(tmp_path):
    certificates.write_node_key(tmp_path / "node-00000")
    register = deployment.register_of(tmp_path, {"node-00000": (0, 2)})
    assert list(register.values()) == [frozenset({0, 2})]
    with pytest.raises(DataError, match=r"no public key in .* for node-00001"):
        deployment.register_of(tmp_path, {"node-00000": (0,), "node-00001": (1,)})
    (tmp_path / "node-00001.pub").write_text("ssh-rsa nothing")
    with pytest.raises(DataError, match="not a readable OpenSSH public key"):
        deployment.register_of(tmp_path, {"node-00001": (1,)})


def ask(path, client, server=("192.0.2.1", 9443), *, doors=None):
    """Return the status of a request from `client` for `path`, at open doors if no others are given."""
    sent = []

    async def behind(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    if doors is None:
        doors = OnlyNodes(behind)
        ask("/v1/control/start-run", ("127.0.0.1", 1), doors=doors)
    scope = {"type": "http", "path": path, "client": client, "server": server}
    doors._app = behind
    asyncio.run(doors(scope, None, send))
    return sent[0]["status"]


def test_nodes_come_in_when_the_keys_of_all_are_registered_and_not_before():
    doors, far, here = OnlyNodes(None), ("198.51.100.7", 5555), ("127.0.0.1", 5555)
    for path in ("/v1/fleet/activate-node", "/v1/fleet/pull-messages"):
        assert ask(path, far, doors=doors) == ask(path, here, doors=doors) == 503
    assert ask("/v1/control/register-node", here, doors=doors) == 200
    assert ask("/v1/control/start-run", far, doors=doors) == 403
    assert ask("/v1/fleet/activate-node", far, doors=doors) == 503
    assert ask("/v1/control/start-run", here, doors=doors) == 200
    for path in ("/v1/fleet/activate-node", "/v1/fleet/pull-messages"):
        assert ask(path, far, doors=doors) == ask(path, here, doors=doors) == 200


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/x", "/docs", "/"])
def test_other_machines_reach_the_nodes_interface_and_nothing_else(path):
    other = ("198.51.100.7", 5555)
    assert ask(path, other) == 403
    assert ask(path, None) == 403
    assert ask(path, ("not an address", 1)) == 403
    for own in (("127.0.0.1", 1), ("::1", 1), ("192.0.2.1", 1)):
        assert ask(path, own) == 200
    assert ask("/v1/fleet/pull-messages", other) == 200
    assert ask("/v1/fleetx", other) == 403
    assert ask("/v1/fleet/../control/start-run", other) == 403
    assert ask("/v1/control/../fleet/", other) == 403


SPAWN = """
import subprocess, sys, time
if sys.argv[1] != "0":
    again = [sys.executable, "-c", sys.argv[2], str(int(sys.argv[1]) - 1), sys.argv[2]]
    subprocess.Popen(again, start_new_session=True)
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_everything_that_was_started_is_ended_even_what_is_detached_and_deaf(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.3)
    with processes.Processes(os.environ) as started:
        started.start(["python", "-c", SPAWN, "2", SPAWN], log=tmp_path / "log")
        until = time.monotonic() + 60
        while len(processes.marked(started.mark)) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        assert len(processes.marked(started.mark)) == 3
    assert processes.marked(started.mark) == []


def test_a_program_that_is_missing_is_a_usage_error(tmp_path):
    with processes.Processes(os.environ) as started, pytest.raises(UsageError, match="cannot be started"):
        started.start(["no-such-program"], log=tmp_path / "log")


def test_a_taken_port_is_said_before_anything_starts():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:\d+: .*Choose another"):
            deployment._refuse_taken(deployment.Address(host="127.0.0.1", port=taken.getsockname()[1]))


def test_addresses():
    assert str(deployment.Address(host="::1", port=1)) == "[::1]:1"
    assert deployment.Address(host="0.0.0.0", port=1).local == "127.0.0.1:1"
    assert deployment.Address(host="::", port=1).local == "[::1]:1"


def test_flower_is_told_to_be_quiet_before_it_is_imported():
    code = (
        "from dpaudit.flower.packages import require_flower; require_flower();"
        "from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FLWR")}
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=clean)
    assert found.stdout.strip() == "0"


def test_a_flower_outside_the_window_is_refused(monkeypatch):
    from dpaudit.errors import MissingDependency
    from dpaudit.flower import packages

    for version, reason in (("1.42.0", "1.42.0 is installed; tested are >= 1.41, < 1.42"), ("1.40.1", "1.40.1"), (None, "needs Flower")):  # fmt: skip  # noqa: E501
        monkeypatch.setattr(packages, "installed", lambda name, version=version: version)
        with pytest.raises(MissingDependency, match=reason):
            packages.require_flower()


def test_the_apps_are_importable_by_flower():
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from dpaudit.flower import client_app
    from dpaudit.pipeline import federation

    assert isinstance(client_app.app, ClientApp)
    assert isinstance(federation.app, ServerApp)
    with pytest.raises(AttributeError):
        _ = client_app.other


class Flaky:
    """A control interface whose connection is cut so many times before it answers."""

    def __init__(self, cuts):
        self.cuts = cuts

    def ListRuns(self, request):  # noqa: N802 - Flower's name
        import httpx

        self.cuts -= 1
        if self.cuts >= 0:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        status = SimpleNamespace(status=SimpleNamespace(status="finished"))
        return SimpleNamespace(run_dict={request.run_id: status})


def test_a_connection_that_was_cut_between_two_looks_does_not_end_a_run(monkeypatch):
    monkeypatch.setattr(deployment, "_PAUSE", 0.0)
    for cuts in (0, 1, deployment._LOOKS - 1):
        assert deployment._finished(Flaky(cuts), 7)
    with pytest.raises(deployment.FederationFailed, match="does not answer any more"):
        deployment._finished(Flaky(deployment._LOOKS), 7)


@pytest.mark.parametrize(("found", "ok"), [("1.41.0", True), ("1.41.9", True), ("1.40.1", False), ("1.42.0", False)])
def test_doctor_knows_the_window(monkeypatch, found, ok):
    from dpaudit.cli import doctor

    monkeypatch.setattr(doctor, "version", lambda name: found)
    row = doctor._inspect("flwr")
    assert row["ok"] is ok
    assert (row["repair"] is None) is ok


def test_the_window_is_said_once():
    """The extra of the package, the doctor and the check at run time agree."""
    import tomllib
    from pathlib import Path

    from dpaudit.cli import doctor
    from dpaudit.flower.packages import WINDOW

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    low, high = (".".join(map(str, bound)) for bound in WINDOW)
    assert project["optional-dependencies"]["flower"] == [f"flwr>={low},<{high}"]
    assert (doctor.WANTED["flwr"][0], doctor.BELOW["flwr"]) == (low, high)
