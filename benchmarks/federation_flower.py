"""What a round over Flower costs, and where the time goes, beside the same rounds in process.

    python benchmarks/federation_flower.py loopback              # messages and apps, without a transport: seconds
    python benchmarks/federation_flower.py simulation            # Flower's simulation with Ray, nodes are actors
    python benchmarks/federation_flower.py network               # SuperLink and SuperNodes with TLS on loopback
    python benchmarks/federation_flower.py network --compute keras

Rounds are timed by the server's own progress. The parts: `client` is what one `Node.answer` takes in a process that
has everything loaded, `messages` the records both ways (Flower's own serialisation apart), `start` what a fresh process
needs before it can answer (imports, the shard), measured alone; the rest of a network round is Flower's: starting
processes, polling every 3 s, HTTP.
"""

import argparse
import datetime as dt
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

CONFIG = """
[run]
name = "benchmark"
seed = 5
[claim]
epsilon = 8.0
delta = 1e-5
unit = "client"
[data]
source = "{data}"
client = "client"
[partition]
kind = "by-client"
[model]
hidden = [32]
[training]
algorithm = "dp-fedavg"
rounds = {rounds}
client_sampling_rate = 1.0
noise_multiplier = 2.0
checkpoint_every = 100
local_batch_size = 20
[canaries]
count = 0
"""
CLIENTS, EXAMPLES, FEATURES = 60, 100, 64


def setting(folder: Path, rounds: int) -> Any:
    """Return the configuration of the work: 45 clients of 100 examples, an MLP 64-32-10, one local epoch."""
    from dpaudit import config

    rng = np.random.default_rng(0)
    n = CLIENTS * EXAMPLES
    path = folder / "data.npz"
    np.savez(
        path,
        x=rng.normal(size=(n, FEATURES)).astype(np.float32),
        y=rng.integers(10, size=n),
        client=np.arange(n) % CLIENTS,
    )
    (folder / "run.toml").write_text(CONFIG.format(data=path, rounds=rounds))
    return config.load(folder / "run.toml")


def time_rounds(settings: Any, data: Any, make_runner: Any, out: Path) -> list[float]:
    """Return the seconds of each round of a training."""
    from dpaudit.federated.trainer import train

    stamps = [time.perf_counter()]
    train(
        settings, data, root=5, out=out, noise_multiplier=2.0, resume=False, ledger_facts={}, make_runner=make_runner,
        progress=lambda *_: stamps.append(time.perf_counter()),
    )  # fmt: skip
    return list(np.diff(stamps))


def report(name: str, seconds: list[float], more: str = "") -> None:
    rest = sorted(seconds[1:]) or seconds
    print(f"| {name} | {seconds[0]:.3f} | {statistics.median(rest):.4f} | {rest[0]:.4f} | {more} |", flush=True)


def parts(data: Any, functions: Any) -> str:
    """Return what a client's computation and the messages of a round take, by themselves."""
    from dpaudit.federated.engine import RoundSeeds
    from dpaudit.flower import messages
    from dpaudit.flower.local_nodes import local_nodes

    node = next(iter(local_nodes(functions, data.train, nodes=3).values()))
    clients = node.data.clients
    job = messages.Job(
        token="t" * 32, number=0, kind="updates", weights=np.zeros(functions.parameters, np.float32),
        seeds=RoundSeeds(dropout=(1, 2), order=3), clients=clients, counts=np.ones_like(clients),
        positions=np.zeros(0, np.int64), clip_norm=1.0,
        local=messages.LocalTraining(epochs=1, batch_size=20, learning_rate=0.1),
    )  # fmt: skip
    answer = node.answer(job)

    def there_and_back() -> None:
        messages.read_job(messages.write_job(job))
        messages.read_answer(messages.write_answer(answer))

    client, records = median(lambda: node.answer(job)), median(there_and_back)
    return f"client {client * 1e3:.1f} ms, messages {records * 1e3:.1f} ms per node"


def median(work: Callable[[], Any], times: int = 15) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def in_this_process(settings: Any, where: str, folder: Path) -> None:
    from dpaudit.federated import clients, models
    from dpaudit.federated.data import prepare
    from dpaudit.pipeline.engines import open_engine

    data = prepare(settings, root=5)
    clients.deterministic_tensorflow()
    shape = data.train.x.shape[1:]
    functions = clients.ClientFunctions(models.build_model(settings.model, shape, data.train.classes, root=5), shape)
    for number, name in enumerate(("in-process", where)):
        started = time.perf_counter()
        with open_engine(name, settings, data, root=5) as make_runner:
            up = time.perf_counter() - started
            seconds = time_rounds(settings, data, make_runner, folder / f"out{number}")
        report(name, seconds, f"engine up after {up:.1f} s; {parts(data, functions)}" if number else "")


def over_the_network(folder: Path, rounds: int, nodes: int, compute: str) -> None:
    """Time the rounds of real processes by the lines that the server prints."""
    import re
    import socket

    def call(*words: str) -> list[str]:
        return [sys.executable, "-m", "dpaudit", "federation", *words]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    subprocess.run(call("shards", "run.toml", "--out", "fed", "--nodes", str(nodes)), cwd=folder, check=True, stdout=2)
    subprocess.run(call("certificates", "--out", "certs", "--federation", "fed"), cwd=folder, check=True, stdout=2)
    for path in folder.glob("fed/node-*/node.json"):
        path.write_text(path.read_text().replace('"compute": "chain"', f'"compute": "{compute}"'))
    server = subprocess.Popen(
        call(
            "server", "run.toml", "--out", "out", "--federation", "fed", "--certificates", "certs", "--port", port,
            "--least", "1", "--timeout", "300",
        ),
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    running = [
        subprocess.Popen(
            call(
                "node", "--shards", f"fed/node-{n:05d}", "--superlink", f"127.0.0.1:{port}", "--ca", "certs/ca.crt",
                "--key", f"certs/nodes/node-{n:05d}",
            ),
            cwd=folder, stderr=subprocess.DEVNULL,
        )
        for n in range(nodes)
    ]  # fmt: skip
    try:
        stamps = [time.perf_counter()]
        lines = (line for line in server.stderr or [] if re.match(r"round \d+ of", line))
        stamps += [time.perf_counter() for _ in lines]
        if server.wait() != 0 or len(stamps) != rounds + 1:
            raise SystemExit(f"the server ended with {server.returncode} after {len(stamps) - 1} rounds")
        report(
            f"network, TLS, {nodes} nodes, {compute}",
            list(np.diff(stamps)),
            f"{start_of_a_client(folder):.2f} CPU s start",
        )
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def start_of_a_client(folder: Path) -> float:
    """Return the processor seconds that a fresh process needs to be ready to answer: Flower, dpaudit, its shard."""
    code = (
        "import flwr.clientapp; from pathlib import Path; from dpaudit.flower import client_app, shards;"
        "client_app.app; shards.open_node(Path('fed/node-00000').resolve()).compute;"
        "import time; print(time.process_time())"
    )
    found = [
        float(
            subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stdout
        )
        for _ in range(3)
    ]
    return statistics.median(found)


def main() -> None:
    choice = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice.add_argument("where", choices=["loopback", "simulation", "network"])
    choice.add_argument("--rounds", type=int, default=8)
    choice.add_argument("--nodes", type=int, default=3)
    choice.add_argument("--compute", choices=["chain", "keras"], default="chain")
    chosen = choice.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores{load}, {dt.date.today()}")
    print("| engine | first round, s | median of the others, s | best, s | parts |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = setting(folder, chosen.rounds)
        if chosen.where == "network":
            over_the_network(folder, chosen.rounds, chosen.nodes, chosen.compute)
        else:
            in_this_process(
                settings,
                {"loopback": "flower-loopback", "simulation": f"flower:nodes={chosen.nodes}"}[chosen.where],
                folder,
            )


if __name__ == "__main__":
    main()
