"""Canary families through the whole pipeline: the example as it is shipped, its evidence, gate, report and attack."""

import json
from pathlib import Path

import numpy as np
import pytest

from dpaudit import config, evidence
from dpaudit.cli import main
from dpaudit.federated.data import prepare
from dpaudit.pipeline.run import run
from dpaudit.policy import load_policy
from dpaudit.records import Status

pytest.importorskip("tensorflow")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits_canaries.toml"
NAMES = {"random", "chosen", "device-id", "mislabelled", "blank"}


class Quiet:
    """A reporter that says nothing."""

    def stage(self, _text):
        """Nothing."""

    def rounds(self, *_numbers):
        """Nothing."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    wanted = config.load(EXAMPLE)
    fewer = {"training": wanted.training.model_copy(update={"rounds": 12}),
             "audit": wanted.audit.model_copy(update={"power_trials": 10})}  # fmt: skip
    out = tmp_path_factory.mktemp("run") / "out"
    wanted = wanted.model_copy(update=fewer)
    return run(wanted, out, policy=load_policy("demonstration"), resume=False, today=None, reporter=Quiet()), out


def test_every_family_has_a_bound_with_its_share_of_the_error(outcome):
    bundle = outcome[0].evidence
    assert {bound.canaries for bound in bundle.bounds} == NAMES | {None}
    assert sum(1 - bound.confidence for bound in bundle.bounds) == pytest.approx(0.05)
    for bound in bundle.bounds:
        if bound.canaries is not None:
            assert bound.family.value == "assumption-free"
            assert bound.details["error_shared_among"] == len(bundle.bounds) == 7
            assert bound.n_member == bundle.coins[bound.canaries].sum()
            assert bundle.scores[bound.canaries].shape == bundle.coins[bound.canaries].shape
    known = {power.canaries: power.power for power in bundle.powers if power.method == "one-run-max"}
    assert {name for name, power in known.items() if power is None} == {"device-id", "mislabelled", "blank"}
    assert bundle.training["canary_families"]["device-id"] == {"kind": "feature", "count": 200}
    assert bundle.ledger.facts["canary_families"] == bundle.training["canary_families"]


def test_the_gate_judges_all_of_them(outcome):
    findings = {finding.rule: finding for finding in outcome[0].verdict.findings}
    assert findings["DPA101"].status == Status.PASS
    assert findings["DPA104"].status == Status.PASS
    assert "1410 canaries" in findings["DPA104"].message
    assert findings["DPA102"].status == Status.PASS, findings["DPA102"].message


def test_the_evidence_reads_back_and_the_report_names_the_families(outcome):
    from dpaudit.reports import html, markdown_report, view

    bundle, verdict = evidence.read_evidence(outcome[1]), outcome[0].verdict
    assert {bound.label for bound in bundle.bounds} >= {f"one-run-max on {name} canaries" for name in NAMES}
    assert [row[0] for row in view.canaries(bundle).rows] == ["Dirac canaries", *sorted(NAMES)]
    for text in (markdown_report.render(bundle, verdict), html.render(bundle, verdict)):
        assert "one-run-max on device-id canaries" in text
        assert "an example with a private feature" in text


def test_the_released_model_is_attacked_with_records_as_people_have_them(outcome, tmp_path, capsys):
    """Its 200 private inputs are 0 in use: records of 64 pixels do, in the folder of a run or with an option."""
    out, wanted = outcome[1], config.load(EXAMPLE)
    data = prepare(wanted, root=wanted.run.seed)
    assert data.holdout.x.shape[1] == 264
    for name, part in (("in", data.train), ("out", data.holdout)):
        np.savez(tmp_path / f"{name}.npz", x=part.x[:60, :64], y=part.y[:60])
    asked = ["attack", "--members", str(tmp_path / "in.npz"), "--non-members", str(tmp_path / "out.npz"),
             "--attack", "loss", "--no-control", "--json"]  # fmt: skip

    def attack(*more):
        code = main.run([*asked, *map(str, more)])
        return code, capsys.readouterr().out

    found = [attack(out), attack(out / "model.keras", "--private-features", 200)]
    assert [code for code, _ in found] == [0, 0]
    assert len({json.loads(text)["attacks"][0]["auc"] for _, text in found}) == 1
    code, text = attack(out / "model.keras")
    assert code == 2
    assert "(60, 64)" in text
