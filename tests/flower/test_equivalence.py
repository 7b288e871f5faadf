"""Twenty noisy rounds in process and over Flower's messages end at the same weights, with the same ledger."""

import numpy as np
import pytest

from dpaudit.federated import run_files
from dpaudit.federated.engine import make_engine
from dpaudit.federated.run_files import open_run
from dpaudit.federated.trainer import train
from dpaudit.flower.local_nodes import loopback_engine
from dpaudit.ledger import PrivacyLedger

WHERE = {"engine", "clipping_path"}


def go(config, data, out, make_runner, *, resume=False, progress=lambda done, planned: None):
    train(
        config, data, root=9, out=out, noise_multiplier=1.1, resume=resume, progress=progress, ledger_facts={},
        make_runner=make_runner,
    )  # fmt: skip
    with np.load(out / run_files.CHECKPOINT) as archive:
        return archive["weights"], PrivacyLedger.open(out / run_files.LEDGER)


def told(ledger):
    """What a ledger says, without where clients ran and the digests of what they sent."""
    return [
        (entry.type, entry.event, {k: v for k, v in entry.facts.items() if k not in {*WHERE, "release_sha256"}})
        for entry in ledger.entries
    ]


@pytest.mark.parametrize("algorithm", ["dp-fedavg", "dp-fedsgd", "dp-ftrl"])
def test_the_engines_agree(make_config, data, tmp_path, algorithm):
    config = make_config(algorithm, rounds=20, dropout_rate=0.1)
    here, said_here = go(config, data, tmp_path / "here", make_engine)
    there, said_there = go(config, data, tmp_path / "there", loopback_engine)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    assert told(said_there) == told(said_here)
    assert said_there.facts["engine"] == "flower-loopback"
    for name in (run_files.ELIGIBLE, run_files.PARTICIPATION, run_files.CANARY_PARTICIPATION, run_files.COINS):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_single_gradients_go_to_an_aggregator_that_clips_itself(make_config, data, tmp_path):
    pytest.importorskip("tensorflow_privacy")
    config = make_config("dp-fedsgd", aggregator="tfp-gaussian")
    here, _ = go(config, data, tmp_path / "here", make_engine)
    there, said = go(config, data, tmp_path / "there", loopback_engine)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)
    assert said.facts["clipping_path"] == "server: single gradients, computed on Flower nodes"


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_and_uses_no_noise_twice(make_config, data, tmp_path):
    """Stopped one round after a checkpoint: on resume that round is replayed to the bit and costs nothing more."""
    config = make_config(rounds=6)
    whole, said = go(config, data, tmp_path / "whole", loopback_engine)

    def stop(done, planned):
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        go(config, data, tmp_path / "cut", loopback_engine, progress=stop)
    weights, resumed = go(config, data, tmp_path / "cut", loopback_engine, resume=True)
    np.testing.assert_array_equal(weights, whole)
    assert [entry.facts["round"] for entry in resumed.events()] == list(range(6))
    assert [e.facts["release_sha256"] for e in resumed.events()] == [e.facts["release_sha256"] for e in said.events()]
    assert open_run(tmp_path / "cut").noise_draws == 6


def test_a_round_that_lost_a_node_when_replayed_is_a_release_of_its_own(make_config, data, tmp_path):
    """The sum differs, so the noise of the first attempt must not be shown on it: a second attempt, paid for."""
    from dpaudit.flower import local_nodes
    from dpaudit.flower.loopback import LoopbackNodes

    class OneSilent(LoopbackNodes):
        def reply(self, message):
            silent = message.metadata.message_type == "train" and message.metadata.dst_node_id == 101
            return [] if silent else super().reply(message)

    def one_silent(functions, data, training, *, root):
        grid = local_nodes.loopback_grid(OneSilent(local_nodes.local_nodes(functions, data, nodes=3)))
        terms = local_nodes.Terms(pause=0.0, timeout=0.2)
        return local_nodes.engine_over(grid, functions, data, training, root=root, name="test", terms=terms)

    config = make_config(rounds=4, client_sampling_rate=1.0)

    def stop(done, planned):
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        go(config, data, tmp_path, loopback_engine, progress=stop)
    _, ledger = go(config, data, tmp_path, one_silent, resume=True)
    assert [(e.facts["round"], e.facts.get("attempt", 0)) for e in ledger.events()] == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]  # fmt: skip  # noqa: E501
    assert open_run(tmp_path).noise_draws == 5


def test_an_algorithm_without_nodes_is_refused(make_config):
    from dpaudit.errors import UsageError
    from dpaudit.flower.engine import kind_of

    other = make_config().training.model_copy(update={"algorithm": "dp-local"})
    with pytest.raises(UsageError, match="'dp-local' does not run over Flower"):
        kind_of(other)
