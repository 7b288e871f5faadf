"""What nodes may do wrong, planted one by one: the round ends in time, the rest is summed, the ledger says it."""

import time

import numpy as np
import pytest

from dpaudit.errors import DataError
from dpaudit.flower import messages
from dpaudit.flower.fleet import TooFewNodes
from dpaudit.flower.loopback import LoopbackNodes, loopback_grid
from dpaudit.flower.node import clip_rows

BAD = 101  # this node holds clients 2 and 3
EVERYBODY = {"client_sampling_rate": 1.0}


def changed(reply, **arrays):
    """Return a reply with other arrays in its answer."""
    from flwr.app import Message

    answer = messages.read_answer(reply.content)
    held = {"clients": answer.clients, "rows": answer.rows, **({} if answer.norms is None else {"norms": answer.norms})}
    token = arrays.pop("token", answer.token)
    reply.content = messages.write({"token": token}, {k: v for k, v in {**held, **arrays}.items() if v is not None})
    assert isinstance(reply, Message)
    return reply


class Planted(LoopbackNodes):
    """Node 101 answers `train` as the subclass says."""

    def reply(self, message):
        replies = super().reply(message)
        if message.metadata.message_type == "query" or message.metadata.dst_node_id != BAD:
            return replies
        return self.fault(message, replies[0])

    def fault(self, message, reply):
        raise NotImplementedError


class Silent(Planted):
    def fault(self, message, reply):
        return []


class Failing(Planted):
    def fault(self, message, reply):
        from flwr.app import Error, Message

        return [Message(Error(code=3, reason="disk full\n" + "x" * 1000), reply_to=message)]


class NotANumber(Planted):
    def fault(self, message, reply):
        rows = messages.read_answer(reply.content).rows.copy()
        rows[0, 0], rows[1, 1] = np.nan, -np.inf
        return [changed(reply, rows=rows)]


class TooWide(Planted):
    def fault(self, message, reply):
        rows = messages.read_answer(reply.content).rows
        return [changed(reply, rows=np.concatenate([rows, rows[:, :1]], axis=1))]


class TooFewRows(Planted):
    def fault(self, message, reply):
        return [changed(reply, rows=messages.read_answer(reply.content).rows[:1])]


class WholeNumbers(Planted):
    def fault(self, message, reply):
        return [changed(reply, rows=np.ones((2, 43), np.int64))]


class SomebodyElse(Planted):
    def fault(self, message, reply):
        return [changed(reply, clients=np.array([0, 3]))]


class MoreThanAsked(Planted):
    def fault(self, message, reply):
        answer = messages.read_answer(reply.content)
        return [changed(reply, clients=np.array([2, 3, 4]), rows=answer.rows[[0, 1, 1]])]


class EarlierRound(Planted):
    def fault(self, message, reply):
        old, self.old = getattr(self, "old", reply), reply
        return [changed(reply, token=messages.read_answer(old.content).token)] if old is not reply else [reply]


class InAnothersName(Planted):
    def fault(self, message, reply):
        reply.metadata.__dict__["_src_node_id"] = 100
        return [reply]


class ToAnotherMessage(Planted):
    def fault(self, message, reply):
        reply.metadata.__dict__["_reply_to_message_id"] = "never sent"
        return [reply]


class Garbage(Planted):
    def fault(self, message, reply):
        from flwr.app import ConfigRecord, RecordDict

        reply.content = RecordDict({"config": ConfigRecord({"schema": messages.SCHEMA})})
        return [reply]


class OtherVersion(Planted):
    def fault(self, message, reply):
        content = reply.content
        content["config"]["schema"] = "dpaudit.federation/v99"
        reply.content = content
        return [reply]


NO_REPLY = "no reply within 0.4 s"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Silent, NO_REPLY),
        (Failing, "error 3: disk full xxx"),
        (NotANumber, "NaN or infinity"),
        (TooWide, "shape (44,) instead of (43,)"),
        (TooFewRows, "1 rows instead of 2"),
        (WholeNumbers, "the answer's rows are int64 of shape (2, 43), not 2-d floats."),
        (SomebodyElse, "answered for clients [0], which were not asked of it"),
        (MoreThanAsked, "answered for clients [4], which were not asked of it"),
        (InAnothersName, NO_REPLY),
        (ToAnotherMessage, NO_REPLY),
        (Garbage, "unreadable message: KeyError: 'arrays'"),
        (OtherVersion, "the message is not of schema dpaudit.federation/v1"),
    ],
)
def test_a_bad_reply_is_left_out_and_the_rest_is_summed(make_config, fleet_of, serve, fault, reason):
    config = make_config(**EVERYBODY)
    honest = serve(config, fleet_of(LoopbackNodes))
    told = serve(config, fleet_of(fault))
    weights = told.server.weights
    started = time.monotonic()
    collected, release = told.run(0)
    assert time.monotonic() - started < 20  # the time-out is 0.4 s; the rest is TensorFlow under load
    assert {item.unit for item in collected.rejected} == {2, 3}
    assert all(item.reason.startswith(reason) and len(item.reason) <= 220 for item in collected.rejected)
    assert (collected.accepted, collected.arrived.all()) == (4, True)

    # As if the two had not been sampled: the same sum of the others, the same noise, the same denominator.
    def only_four(weights, cohort):
        for block in honest.engine.run_cohort(weights, cohort):
            if not {2, 3} & set(block.units.tolist()):
                yield block

    twin = honest.server.collect(honest.server.cohort(0), only_four(weights, honest.server.cohort(0)))
    np.testing.assert_array_equal(collected.total, twin.total)
    np.testing.assert_array_equal(release.vector, honest.server.release(twin).vector)
    (entry,) = told.ledger.events()
    (other,) = honest.ledger.events()
    assert entry.event == other.event
    assert {k: entry.facts[k] for k in ("expected", "noise_stddev", "clip_norm", "release_sha256")} == {
        k: other.facts[k] for k in ("expected", "noise_stddev", "clip_norm", "release_sha256")
    }
    assert (entry.facts["rejected"], entry.facts["realised_units"]) == (2, 4)
    (note,) = [item for item in told.ledger.entries if item.type == "note"]
    assert [item["unit"] for item in note.facts["first"]] == [2, 3]


def test_an_answer_to_an_earlier_round_is_refused(make_config, fleet_of, serve):
    run = serve(make_config(**EVERYBODY), fleet_of(EarlierRound))
    first, _ = run.run(0)
    second, _ = run.run(1)
    assert first.rejected == ()
    assert [(item.unit, item.reason) for item in second.rejected] == [
        (2, "an answer to another message"), (3, "an answer to another message")
    ]  # fmt: skip


class Twice(Planted):
    def fault(self, message, reply):
        from dpaudit.flower.loopback import over_the_wire

        return [reply, over_the_wire(reply)]


def test_what_comes_twice_counts_once(make_config, fleet_of, serve):
    config = make_config(**EVERYBODY)
    twice, once = (serve(config, fleet_of(kind)).run(0) for kind in (Twice, LoopbackNodes))
    np.testing.assert_array_equal(twice[1].vector, once[1].vector)
    assert twice[0].accepted == 6
    assert [(item.unit, item.reason) for item in twice[0].rejected] == [(2, "sent a second time"), (3, "sent a second time")]  # fmt: skip  # noqa: E501


class Backwards(LoopbackNodes):
    """Replies are delivered last node first, one at each look."""

    def collect(self, names):
        waiting = sorted(set(names) & set(self._held), key=lambda name: self._held[name][0].metadata.src_node_id)
        return super().collect(waiting[-1:])


def test_the_sum_does_not_depend_on_who_is_quicker(make_config, fleet_of, serve):
    for algorithm in ("dp-fedavg", "dp-fedsgd"):
        config = make_config(algorithm, **EVERYBODY)
        late, usual = (serve(config, fleet_of(kind), least=1.0) for kind in (Backwards, LoopbackNodes))
        for number in range(2):
            np.testing.assert_array_equal(late.run(number)[1].vector, usual.run(number)[1].vector)


class Unclipped(Planted):
    """A device that sends the sum of its gradients a hundred times too large, with honest norms."""

    def fault(self, message, reply):
        return [changed(reply, rows=messages.read_answer(reply.content).rows * 100)]


class NoNorms(Planted):
    def fault(self, message, reply):
        return [changed(reply, norms=None)]


class OneBadExample(Planted):
    def fault(self, message, reply):
        norms = messages.read_answer(reply.content).norms.copy()
        norms[0] = np.nan
        return [changed(reply, norms=norms)]


@pytest.mark.parametrize(("fault", "reason"), [(Unclipped, "norm "), (NoNorms, "no 30 norms beside the sums")])
def test_a_sum_of_gradients_that_cannot_be_clipped_ones_is_left_out(make_config, fleet_of, serve, fault, reason):
    run = serve(make_config("dp-fedsgd", **EVERYBODY), fleet_of(fault))
    collected, _ = run.run(0)
    assert {item.unit % 6 for item in collected.rejected} == {2, 3}
    assert len(collected.rejected) == 30
    assert all(item.reason.startswith(reason) for item in collected.rejected)
    assert collected.accepted == 60


def test_an_example_that_the_device_left_out_is_not_counted(make_config, fleet_of, serve):
    run = serve(make_config("dp-fedsgd", **EVERYBODY), fleet_of(OneBadExample))
    collected, _ = run.run(0)
    assert [(item.unit, item.reason) for item in collected.rejected] == [(2, "NaN or infinity")]
    assert collected.accepted == 89


def test_a_node_may_leave_and_come_back_under_another_id(make_config, fleet_of, serve):
    fleet = fleet_of(LoopbackNodes)
    run = serve(make_config(**EVERYBODY), fleet)
    assert run.run(0)[0].accepted == 6
    gone = fleet.nodes.pop(BAD)
    collected, _ = run.run(1)
    assert {(item.unit, item.reason) for item in collected.rejected} == {
        (2, "no connected node holds its client"), (3, "no connected node holds its client")
    }  # fmt: skip
    fleet.nodes[777] = gone
    run.engine._fleet.refresh()  # asked what it holds
    assert run.run(2)[0].accepted == 6


def test_a_node_that_cannot_say_what_it_holds_is_asked_again_later(make_config, fleet_of, serve, monkeypatch):
    from dpaudit.flower import fleet as module

    asked = []

    class Mute(LoopbackNodes):
        def reply(self, message):
            from flwr.app import Error, Message

            asked.append(message.metadata.dst_node_id)
            if asked.count(BAD) == 1 and message.metadata.dst_node_id == BAD:
                return [Message(Error(code=1, reason="no such file"), reply_to=message)]
            return super().reply(message)

    run = serve(make_config(**EVERYBODY), fleet_of(Mute))
    for _ in range(5):
        run.engine._fleet.refresh()
    assert asked.count(BAD) == 1
    later = time.monotonic() + 11
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    run.engine._fleet.refresh()
    monkeypatch.undo()
    assert asked.count(BAD) == 2
    assert run.engine._fleet.node_of(2) == BAD


def test_a_round_needs_enough_nodes_and_says_so_before_any_noise(make_config, fleet_of, serve):
    fleet = fleet_of(LoopbackNodes)
    run = serve(make_config(**EVERYBODY), fleet, least=0.9, patience=0.05)
    fleet.nodes.pop(BAD)
    with pytest.raises(TooFewNodes, match=r"nodes for 4 of 6 clients .* a round needs 6"):
        run.run(0)
    assert list(run.ledger.events()) == []


class Liar(LoopbackNodes):
    """Node 102 claims what the test says."""

    claim = messages.Holdings(clients=(2, 4, 5), sizes=(15, 15, 15), parameters=43)

    def reply(self, message):
        from flwr.app import Message

        if message.metadata.message_type == "query" and message.metadata.dst_node_id == 102:
            return [Message(messages.write_holdings(self.claim), reply_to=message)]
        return super().reply(message)


def test_a_client_belongs_to_the_first_node_that_claims_it(make_config, fleet_of, serve):
    fleet = fleet_of(Liar)
    late = fleet.nodes.pop(102)
    run = serve(make_config(**EVERYBODY), fleet)
    run.engine._fleet.refresh()
    fleet.nodes[102] = late
    run.engine._fleet.refresh()
    assert run.run(0)[0].accepted == 6
    assert run.engine._fleet.node_of(2) == BAD


@pytest.mark.parametrize(
    "claim",
    [
        messages.Holdings(clients=(4, 5), sizes=(15, 16), parameters=43),
        messages.Holdings(clients=(4, 6), sizes=(15, 15), parameters=43),
        messages.Holdings(clients=(4, 5), sizes=(15, 15), parameters=44),
    ],
)
def test_a_node_of_another_run_is_left_out(make_config, fleet_of, serve, claim):
    fleet = fleet_of(Liar)
    fleet.claim = claim
    collected, _ = serve(make_config(**EVERYBODY), fleet).run(0)
    assert {item.unit for item in collected.rejected} == {4, 5}


def test_a_key_speaks_for_its_own_clients_only(make_config, fleet_of, serve):
    keys = {f"key of {node}".encode(): frozenset(clients) for node, clients in ((100, (0, 1)), (101, (2, 3)))}
    run = serve(make_config(**EVERYBODY), fleet_of(LoopbackNodes), register={**keys, b"key of 102": frozenset({5})})
    collected, _ = run.run(0)
    assert {item.unit for item in collected.rejected} == {4, 5}  # 102 claims client 4, too
    stranger = serve(make_config(**EVERYBODY), fleet_of(LoopbackNodes), register=keys)
    assert {item.unit for item in stranger.run(0)[0].rejected} == {4, 5}


def test_no_secret_of_the_server_is_in_what_it_sends(make_config, fleet_of, serve):
    sent = []

    class Watched(LoopbackNodes):
        def deliver(self, message):
            sent.append(message)
            return super().deliver(message)

    run = serve(make_config(**EVERYBODY), fleet_of(Watched))
    run.run(0)
    train = [message for message in sent if message.metadata.message_type == "train"]
    assert len(train) == 3
    for message in train:
        numbers, arrays = messages.read(message.content)
        assert set(numbers) == {
            "token", "number", "kind", "dropout", "order", "clip_norm", "epochs", "batch_size", "learning_rate",
        }  # fmt: skip
        assert set(arrays) == {"weights", "clients", "counts", "positions"}
        assert arrays["weights"].shape == (43,)  # the model, and no canary
    assert len({messages.read(message.content)[0]["token"] for message in train}) == 3


def test_a_node_refuses_jobs_that_do_not_fit_it(fleet_of):
    import dataclasses

    from dpaudit.federated.engine import RoundSeeds

    node = fleet_of(LoopbackNodes).nodes[BAD]
    whole = np.array([2, 3])
    good = messages.Job(
        token="t", number=0, kind="sums", weights=np.zeros(43, np.float32), seeds=RoundSeeds(dropout=(1, 2), order=3),
        clients=whole, counts=np.array([1, 2]), positions=np.array([0, 14, 3]), clip_norm=1.0,
        local=messages.LocalTraining(epochs=1, batch_size=4, learning_rate=0.1),
    )  # fmt: skip
    assert node.answer(good).rows.shape == (2, 43)
    for change, reason in (
        ({"weights": np.zeros(42, np.float32)}, "42 weights for a model of 43"),
        ({"clients": np.array([2, 4])}, r"clients \[4\] are not on this node"),
        ({"clients": np.array([2, 2])}, "each once"),
        ({"positions": np.array([0, 15, 3])}, "client 3 does not have these examples"),
        ({"positions": np.array([-1, 14, 3])}, "client 2 does not have"),
        ({"positions": np.array([0, 3, 3])}, "client 3 does not have"),
        ({"counts": np.array([1, 1])}, "do not add up"),
        ({"clip_norm": 0.0}, "clip_norm must be"),
        ({"clip_norm": float("nan")}, "clip_norm must be"),
    ):
        with pytest.raises(DataError, match=reason):
            node.answer(dataclasses.replace(good, **change))


def test_a_device_clips_as_the_server_does():
    from dpaudit.federated.clipping import clipped_sum

    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((50, 9)) * rng.uniform(0, 2, (50, 1))).astype(np.float32)
    total, norms = clip_rows(rows, parameters=9, clip_norm=1.5)
    np.testing.assert_allclose(total, clipped_sum(rows, clip_norm=1.5), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norms, np.linalg.norm(rows, axis=1), rtol=1e-5)
    for row in rows:  # never above the clip norm, whatever float32 rounds away
        one, _ = clip_rows([row], parameters=9, clip_norm=1.5)
        assert np.linalg.norm(one.astype(np.float64)) <= 1.5
    rows[3, 2], rows[4, 0] = np.nan, np.float32(1e38)
    total, norms = clip_rows(rows, parameters=9, clip_norm=1.5)
    assert np.isnan(norms[3])
    assert np.isfinite(np.delete(norms, 3)).all()
    assert np.isfinite(total).all()


def test_the_loopback_is_a_grid_of_flower(fleet_of):
    from flwr.serverapp import Grid

    assert isinstance(loopback_grid(fleet_of(LoopbackNodes)), Grid)
