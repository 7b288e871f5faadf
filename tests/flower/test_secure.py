"""Secure aggregation over Flower's messages: the exact sum, what the server is given, nodes that are lost or lie."""

import numpy as np
import pytest

pytest.importorskip("Crypto")

from dpaudit.errors import DataError
from dpaudit.federated.clipping import SecureSum
from dpaudit.federated.quantisation import Quantiser
from dpaudit.flower import secure_messages, secure_node
from dpaudit.flower.loopback import LoopbackNodes

BAD = 101  # this node holds clients 2 and 3
SECURE = {
    "client_sampling_rate": 1.0, "aggregator": "skellam", "minimum_contributions": 3, "secure_aggregation": True,
}  # fmt: skip


class Watched(LoopbackNodes):
    """Keeps what the nodes reply to the stages of secure aggregation."""

    def __init__(self, nodes):
        super().__init__(nodes)
        self.replies = []

    def reply(self, message):
        found = super().reply(message)
        if message.metadata.message_type == secure_messages.KIND:
            stage = message.content["config"]["stage"]
            found = self.fault(stage, message.metadata.dst_node_id, found)
            self.replies += [(stage, answer.content) for answer in found if answer.has_content()]
        return found

    def fault(self, stage, node, found):
        return found


def lost_at(when):
    class Lost(Watched):
        def fault(self, stage, node, found):
            return [] if node == BAD and stage >= when else found

    return Lost


class OtherToken(Watched):
    def fault(self, stage, node, found):
        if node == BAD and stage == 2:
            for answer in found:
                answer.content["config"]["token"] = "0" * 32
        return found


class Short(Watched):
    def fault(self, stage, node, found):
        if node == BAD and stage == 2:
            for answer in found:
                named = secure_messages.read(answer.content)[1]
                cut = {key: value[:3] for key, value in named.items()}
                answer.content = secure_messages.write({"token": answer.content["config"]["token"]}, cut)
        return found


@pytest.fixture
def put_in(monkeypatch):
    """What the devices put into the sum, in the order in which they did."""
    found = []
    honest = secure_node.protected

    def watched(row, aggregator, **rest):
        found.append(honest(row, aggregator, **rest))
        return found[-1]

    monkeypatch.setattr(secure_node, "protected", watched)
    return found


def test_the_server_is_given_masked_vectors_and_the_exact_sum(make_config, fleet_of, serve, put_in):
    fleet = fleet_of(Watched)
    served = serve(make_config(**SECURE), fleet)
    _, release = served.run(0)
    width = release.vector.size
    assert len(put_in) == 6
    (entry,) = served.ledger.events()
    assert (entry.facts["shares"], entry.facts["rejected"]) == (6, 0)
    grid = Quantiser(clip_norm=1.0, width=width)
    dirac = served.plan.canaries.coins  # canaries, all of them, come in clear from the server
    expected = sum(put_in)
    expected[width - dirac.size :] += grid.levels * dirac
    np.testing.assert_array_equal(grid.steps(release.vector), expected)
    masked = []
    for stage, content in fleet.replies:
        _, named, rest = secure_messages.read(content)
        assert not rest
        assert {what for what, _, _ in named} <= {"mask", "message", "cipher", "commitment", "masked", "seed", "key"}
        masked += [value for (what, _, _), value in named.items() if what == "masked" and stage == 2]
    assert len(masked) == 6
    for own in put_in:
        field = own.astype(np.uint64) & np.uint64(2**32 - 1)
        assert all(np.count_nonzero(vector == field) <= 1 for vector in masked), "chance: below 1e-6"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(lost_at(0), "no reply"), (lost_at(1), "no reply"), (lost_at(2), "no reply"), (OtherToken, "another message")],
)
def test_a_node_that_is_lost_takes_nothing_with_it(make_config, fleet_of, serve, put_in, kind, reason):
    served = serve(make_config(**SECURE), fleet_of(kind))
    _, release = served.run(0)
    note, entry = (entry for entry in served.ledger.entries if entry.type in ("note", "event"))
    assert (release.withheld, entry.facts["shares"], entry.facts["rejected"]) == (False, 4, 2)
    assert all(reason in item["reason"] for item in note.facts["first"])


def test_a_vector_of_the_wrong_shape_counts_as_lost(make_config, fleet_of, serve):
    served = serve(make_config(**SECURE), fleet_of(Short))
    served.run(0)
    *_, entry = served.ledger.events()
    assert entry.facts["shares"] == 4


def test_two_lost_nodes_of_three_reveal_nothing(make_config, fleet_of, serve):
    class Two(Watched):
        def fault(self, stage, node, found):
            return [] if node != BAD and stage >= 2 else found

    fleet = fleet_of(Two)
    served = serve(make_config(**SECURE), fleet)
    _, release = served.run(0)
    assert release.withheld
    assert all(stage < 3 for stage, _ in fleet.replies)


def test_devices_forget_a_round_and_do_not_answer_for_another(make_config, fleet_of, serve):
    fleet = fleet_of(Watched)
    served = serve(make_config(**SECURE), fleet)
    for number in range(2):
        _, release = served.run(number)
        assert not release.withheld
    assert all(not [name for name in state if name.startswith("secagg")] for state in fleet._states.values())
    old = secure_messages.write({"token": "x", "stage": 3, "round": "old"}, {}, clients=np.array([0]))
    with pytest.raises(DataError, match="not in this round"):
        secure_node.answer_stage(fleet.nodes[100], old, fleet._states[100])
    strange = secure_messages.write({"token": "x", "stage": 0, "round": "r"}, {}, clients=np.array([5]))
    with pytest.raises(DataError, match="not on this node"):
        secure_node.answer_stage(fleet.nodes[100], strange, fleet._states[100])


def test_the_engine_yields_sums_only(make_config, fleet_of, serve):
    served = serve(make_config(**SECURE), fleet_of(Watched))
    cohort = served.server.cohort(0)
    blocks = list(served.engine.run_cohort(served.server.weights, cohort))
    assert [type(block) for block in blocks] == [SecureSum]
    assert served.engine.name == "test, secure aggregation"
    assert served.engine.clipping_path.startswith("device")
