"""The attack stage of a whole run: every kind of attack, the checks beside them, and what is kept private."""

import json
import stat

import pytest

from dpaudit import config, pipeline
from dpaudit.pipeline.progress import Quiet
from dpaudit.policy import load_policy
from dpaudit.records import Status

pytest.importorskip("tensorflow")
pytestmark = pytest.mark.slow
ATTACKS = ("loss", "lira", "rmia", "population", "quantile", "gradient-norm", "label-robustness", "gradient-alignment")
TEXT = f"""
[run]
name = "attacks"
seed = 5

[claim]
epsilon = 8.0
delta = 1e-5
unit = "example"

[data]
source = "digits"
holdout_fraction = 0.4

[partition]
clients = 10
kind = "iid"

[model]
hidden = [16]

[training]
algorithm = "dp-fedsgd"
rounds = 30
client_sampling_rate = 0.5
example_sampling_rate = 0.2
server_learning_rate = 1.0

[canaries]
count = 200

[audit]
methods = ["one-run"]
attacks = {json.dumps(ATTACKS)}
reference_models = 4
augmented_queries = 2
power_trials = 5
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("attacks") / "run"
    outcome = pipeline.run(
        config.parse(TEXT), out, policy=load_policy("standard"), resume=False, today=None, reporter=Quiet()
    )
    return out, outcome.evidence


def test_every_attack_gives_a_result_with_ceilings_or_says_why(finished):
    _, evidence = finished
    by_name = {result.attack: result for result in evidence.attacks}
    assert tuple(by_name) == ATTACKS
    failed = by_name.pop("gradient-alignment")
    assert failed.auc is None
    assert "earlier snapshot" in failed.reason
    for result in by_name.values():
        assert result.auc_ci[0] < result.auc < result.auc_ci[1]
        assert result.auc_ci[0] < result.auc_ceiling
        assert 0.5 < result.auc_ceiling <= 1
        assert result.advantage_ceiling > 0
        assert all(point.ceiling is not None for point in result.tpr_at_fpr)
        assert result.n_non_member == 360  # the other half of 719 is the population
        assert result.n_member == 1078


def test_the_checks_beside_the_attacks(finished):
    _, evidence = finished
    checks = {check.id: check for check in evidence.checks if check.id.startswith("attack.")}
    assert set(checks) == {"attack.comparable", "attack.alive", "attack.worst_group"}
    worst = checks["attack.worst_group"]
    assert worst.status == Status.PASS
    assert worst.statistic < worst.threshold == pytest.approx(evidence.attacks[0].auc_ceiling)
    assert checks["attack.alive"].statistic is not None


def test_who_is_exposed_stays_private(finished):
    out, _ = finished
    path = out / "private" / "exposed_records.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert {record["attack"] for record in document["records"]} == set(ATTACKS) - {"gradient-alignment"}
    assert {group["grouping"] for group in document["groups"]} == {"everyone", "class", "typicality"}
    assert list((out / "private" / "reference-models").glob("*.npz"))
    assert not list((out / "evidence").rglob("*exposed*"))
