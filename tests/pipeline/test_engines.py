"""The whole job with another engine gives the same verdict; engines by name and with options."""

import datetime as dt

import pytest

from dpaudit import config, pipeline
from dpaudit.errors import UsageError
from dpaudit.pipeline import engines
from dpaudit.pipeline.progress import choose
from dpaudit.policy import load_policy

CONFIG = """
[run]
name = "small"
seed = 11
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
rounds = 12
client_sampling_rate = 0.5
clip_norm = 1.0
[canaries]
count = 200
[audit]
attacks = ["loss"]
power_trials = 20
reference_models = 0
"""


@pytest.mark.parametrize(
    ("unit", "algorithm"),
    [pytest.param("example", "dp-fedsgd", marks=pytest.mark.slow), ("client", "dp-fedavg")],
)
def test_the_audit_over_flower_gives_the_verdict_in_process(tmp_path, unit, algorithm):
    pytest.importorskip("flwr")
    settings = config.parse(CONFIG.format(unit=unit, algorithm=algorithm))
    found = {}
    for engine in ("in-process", "flower-loopback"):
        out = pipeline.run(
            settings, tmp_path / engine, policy=load_policy("demonstration"), resume=False, today=dt.date(2026, 11, 28),
            reporter=choose(quiet=True), engine=engine,
        )  # fmt: skip
        checks = {check.id: check.status for check in out.evidence.checks}
        findings = {(item.rule, item.status) for item in out.verdict.findings}
        bounds = [(bound.method, bound.epsilon) for bound in out.evidence.bounds]
        found[engine] = (out.verdict.status, findings, checks, bounds, out.accounting.epsilon_pld)
    assert found["flower-loopback"] == found["in-process"]
    assert any(name.startswith("step.") for name in found["in-process"][2])


def test_half_the_noise_is_found_over_flower_too(tmp_path):
    """Planted: the server adds half of what the ledger says; the step test sees it through Flower's messages."""
    pytest.importorskip("flwr")
    settings = config.parse(CONFIG.format(unit="client", algorithm="dp-fedavg"))
    out = pipeline.run(
        pipeline.with_fault(settings, noise_factor=0.5), tmp_path / "out", policy=load_policy("demonstration"),
        resume=False, today=dt.date(2026, 11, 28), reporter=choose(quiet=True), engine="flower-loopback",
    )  # fmt: skip
    assert out.verdict.status == "fail"
    assert any(check.id.startswith("step.") and check.status == "fail" for check in out.evidence.checks)


def test_an_engine_has_a_name_and_perhaps_options():
    assert engines.parse_engine("in-process") == engines.EngineChoice(name="in-process")
    assert engines.parse_engine("flower:nodes=4,timeout=30") == engines.EngineChoice(
        name="flower", nodes=4, timeout=30.0
    )
    for text in (
        "flowers", "in-process:nodes=2", "flower:nodes=0", "flower:timeout=0", "flower:timeout=nan", "flower:speed=9",
        "flower:nodes=two", "flower-loopback:nodes=2",
    ):  # fmt: skip
        with pytest.raises(UsageError):
            engines.parse_engine(text)


def test_what_does_not_run_over_flower_is_refused_before_anything_starts(tmp_path):
    pytest.importorskip("flwr")
    text = CONFIG.format(unit="client", algorithm="dp-fedavg")
    settings = config.parse(text)
    other = settings.training.model_copy(update={"algorithm": "dp-local"})
    with (
        pytest.raises(UsageError, match="does not run over Flower"),
        engines.open_engine("flower", settings.model_copy(update={"training": other}), None, root=1),
    ):
        pass
