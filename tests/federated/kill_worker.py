"""A training run that may be killed at any moment, in a process of its own:

    python kill_worker.py FOLDER OUT ROOT
    python kill_worker.py FOLDER            # a line "OUT ROOT" of standard input: one run

with FOLDER/config.json, FOLDER/data.npz and, for an aggregator of the user's, FOLDER/own_query.py. Every draw of noise
is written to OUT.draws before it happens: round, attempt, and the digest of the sum that it is for.

In the second form every run is a fork of a process that has imported everything and computed nothing: for each line it
writes the run's process id, waits for its end, and writes the exit status (negative: the signal).
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dpaudit.config import RunConfig
from dpaudit.federated import server as servers
from dpaudit.federated.data import Dataset, FederatedData
from dpaudit.federated.replay import digest_of
from dpaudit.federated.trainer import train

NOISE = 1.1


def watch_draws(write: Callable[[int, int, str], None], patch=setattr) -> None:
    """Call `write(round, attempt, digest of the sum)` before every draw of noise."""
    honest = servers.Server._noise

    def noise(self, total, number, attempt):
        write(number, attempt, digest_of(total))
        return honest(self, total, number, attempt)

    patch(servers.Server, "_noise", noise)


def run(config: RunConfig, data: FederatedData, out: Path, *, root: int) -> None:
    """Start the run in `out`, or go on with it."""
    train(
        config, data, root=root, out=out, noise_multiplier=NOISE, resume=True, progress=lambda done, planned: None,
        ledger_facts={},
    )  # fmt: skip


def main(folder: Path, out: Path, root: int) -> None:
    sys.path.insert(0, str(folder))
    with np.load(folder / "data.npz") as arrays:
        train_part, holdout = (
            Dataset(x=arrays[f"{p}x"], y=arrays[f"{p}y"], client=arrays[f"{p}c"], classes=3, name="blobs")
            for p in ("t", "h")
        )
    log = os.open(f"{out}.draws", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    watch_draws(lambda number, attempt, digest: os.write(log, f"{number} {attempt} {digest}\n".encode()))
    data = FederatedData(train=train_part, holdout=holdout, clients=6)
    run(RunConfig.model_validate_json((folder / "config.json").read_text()), data, out, root=root)


def serve(folder: Path) -> None:
    for name in ("tensorflow", "keras"):
        importlib.import_module(name)
    for line in sys.stdin:
        out, root = line.split()
        child = os.fork()
        if child == 0:
            try:
                main(folder, Path(out), int(root))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.write(1, f"{child}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
