"""The example of a user's own campaign: an honest trainer is not refuted, a broken one is, and nothing is run twice."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "campaign.py"


@pytest.fixture(scope="module")
def campaign():
    spec = importlib.util.spec_from_file_location("dpaudit_example_campaign", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_campaign_refutes_the_broken_trainer_and_goes_on(campaign, tmp_path, monkeypatch):
    claim, honest = campaign.run("serial", tmp_path, trainings=120)
    assert honest.epsilon <= claim
    _, broken = campaign.run("serial", tmp_path, trainings=120, actual=1.0)
    assert broken.epsilon > claim
    assert broken.confidence == 0.95
    again = []
    monkeypatch.setattr(campaign.estimation, "estimate", lambda *a, **o: again.append(a))
    monkeypatch.setattr(campaign._rng, "stream", _without_noise(campaign._rng.stream))
    campaign.run("serial", tmp_path, trainings=120, actual=1.0)  # every result is kept: no training draws noise
    assert again[0][0].size + again[0][1].size == 120


def _without_noise(stream):
    def without(root, purpose, *indices):
        assert purpose != "noise"
        return stream(root, purpose, *indices)

    return without
