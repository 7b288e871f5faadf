"""Recorded cohorts are replayed with the run's own engine, at example and at client level."""

import dataclasses

import numpy as np
import pytest

from dpaudit import config
from dpaudit.federated import engine
from dpaudit.federated.data import prepare
from dpaudit.pipeline.cohort_check import check_cohorts
from dpaudit.records import Status

CONFIG = """
[run]
name = "small"
seed = 1
[claim]
epsilon = 6.0
delta = 1e-5
unit = "{unit}"
[data]
source = "digits"
[partition]
clients = 30
alpha = 1.0
[model]
hidden = [8]
[training]
algorithm = "{algorithm}"
rounds = 5
client_sampling_rate = 0.3
clip_norm = 2.0
server_learning_rate = 1.0
[canaries]
count = 0
[audit]
attacks = ["loss"]
"""


@pytest.fixture(params=["example", "client"])
def job(request):
    algorithm = {"example": "dp-fedsgd", "client": "dp-fedavg"}[request.param]
    settings = config.parse(CONFIG.format(unit=request.param, algorithm=algorithm))
    data = prepare(settings, root=1)
    units = len(data.train.y) if request.param == "example" else data.clients
    return settings, data, np.random.default_rng(0).random((6, units)) < 0.3


def test_the_engine_computes_on_the_recorded_units(job):
    settings, data, participation = job
    result = check_cohorts(settings, data, participation, root=1)
    assert result.status == Status.PASS, result.detail
    assert result.n == 3


def test_an_engine_that_ignores_its_cohort_fails(job, monkeypatch):
    settings, data, participation = job
    for kind in (engine.FedSgdEngine, engine.FedAvgEngine):
        honest = kind.run_cohort

        def run(self, weights, cohort, honest=honest):
            first = np.arange(cohort.units.size)
            for block in honest(self, weights, dataclasses.replace(cohort, units=first)):
                yield dataclasses.replace(block, units=cohort.units[block.units])

        monkeypatch.setattr(kind, "run_cohort", run)
    result = check_cohorts(settings, data, participation, root=1)
    assert result.status == Status.FAIL
    assert result.refuted


def test_a_run_in_which_nobody_took_part_is_inconclusive(job):
    settings, data, participation = job
    assert check_cohorts(settings, data, np.zeros_like(participation), root=1).status == Status.INCONCLUSIVE
