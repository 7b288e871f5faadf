"""Flower's own simulation, with Ray: slow to start, and on a very busy machine Ray may not start at all."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from dpaudit.errors import UsageError
from dpaudit.federated import run_files
from dpaudit.federated.engine import make_engine
from dpaudit.federated.trainer import train
from dpaudit.flower.simulation import simulated
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("ray")
WHERE = {"engine", "clipping_path", "release_sha256"}


def go(config, data, out, make_runner):
    train(
        config, data, root=9, out=out, noise_multiplier=1.1, resume=False, progress=lambda done, planned: None,
        ledger_facts={}, make_runner=make_runner,
    )  # fmt: skip
    ledger = PrivacyLedger.open(out / run_files.LEDGER)
    with np.load(out / run_files.CHECKPOINT) as archive:
        return archive["weights"], [
            (entry.type, entry.event, {k: v for k, v in entry.facts.items() if k not in WHERE})
            for entry in ledger.entries
        ]


def started_by_us() -> list[str]:
    """Return what runs of Ray that descends from this process or was left behind by it."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "/dpa-" in line and ("raylet" in line or "gcs_server" in line or "ray::" in line):
            found.append(line)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray, in its own threads
def test_twenty_noisy_rounds_in_the_simulation_end_where_those_in_process_do(make_config, data, tmp_path):
    config, before = make_config(rounds=20), dict(os.environ)
    here = go(config, data, tmp_path / "here", make_engine)
    with simulated(config, data, root=9, nodes=3) as make_runner:
        there = go(config, data, tmp_path / "there", make_runner)
        assert started_by_us()
    np.testing.assert_allclose(there[0], here[0], rtol=0, atol=1e-6)
    assert there[1] == here[1]
    _nothing_is_left(before)
    with pytest.raises(KeyboardInterrupt), simulated(config, data, root=9, nodes=2):
        raise KeyboardInterrupt
    _nothing_is_left(before)


def _nothing_is_left(before: dict[str, str]) -> None:
    until = time.monotonic() + 60
    while started_by_us() and time.monotonic() < until:
        time.sleep(0.2)
    assert started_by_us() == []
    assert not list(Path("/tmp").glob("dpa-*"))
    assert {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} == {
        k: v for k, v in {**before, **_offline()}.items() if not k.startswith("PYTEST")
    }


def _offline() -> dict[str, str]:
    from dpaudit.flower.packages import OFFLINE

    return dict(OFFLINE)


def test_more_nodes_than_clients_are_refused(make_config, data):
    with pytest.raises(UsageError, match="7 nodes for 6 clients"), simulated(make_config(), data, root=9, nodes=7):
        pass
