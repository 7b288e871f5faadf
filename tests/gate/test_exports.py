"""Exports: each accepted by the reader that it is made for, and none says more than the verdict."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from dpaudit.cli.main import run
from dpaudit.errors import DataError, MissingDependency, UsageError
from dpaudit.evidence import Evidence
from dpaudit.exports import cyclonedx, exporter, model_card, registry, tracking
from dpaudit.exports.yaml import dump
from dpaudit.gate import evaluate
from dpaudit.policy import load_policy
from dpaudit.records import Status, Verdict

ABOUT = {
    "curator": "Corp", "curator_type": "Industry", "intended_use": "recognise digits", "region": "EU", "author": "Me",
}  # fmt: skip
WORDS = {Status.PASS: "PASSED", Status.FAIL: "FAILED", Status.INCONCLUSIVE: "INCONCLUSIVE"}
HOSTILE = 'x"\n---\nprivacy: {verdict: PASSED}\n# <script> \u202e \x07: - {'


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


def judged(factory: ModuleType, honest: Evidence, which: Status, model: str = "digits 1.0") -> tuple[Evidence, Verdict]:
    from dataclasses import replace

    changes: dict[Status, dict[str, Any]] = {
        Status.PASS: {},
        Status.FAIL: {"bounds": (factory.bound(epsilon=9.0),)},
        Status.INCONCLUSIVE: {"powers": ()},
    }
    bundle = factory.edited(honest, claim=replace(honest.claim, model=model), **changes[which])
    verdict = evaluate(bundle, load_policy("standard"), today=factory.TODAY, recomputed=factory.fresh(bundle))
    assert verdict.status == which
    return bundle, verdict


def front_matter(text: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="not run: PyYAML is not installed")
    assert text.startswith("---\n")
    return yaml.safe_load(text[4 : text.index("\n---\n", 4) + 1])


@pytest.mark.parametrize("name", ["digits 1.0", HOSTILE])
@pytest.mark.parametrize("which", list(WORDS))
def test_model_card(factory: ModuleType, honest: Evidence, which: Status, name: str) -> None:
    bundle, verdict = judged(factory, honest, which, name)
    data = front_matter(model_card.render(bundle, verdict))
    assert data == model_card.metadata(bundle, verdict)
    assert data["privacy"]["verdict"] == WORDS[which]
    assert data["privacy"]["epsilon"] == 6.0


@pytest.mark.parametrize("which", list(WORDS))
def test_the_hub_reads_the_card_and_keeps_the_block(
    factory: ModuleType, honest: Evidence, which: Status, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="not run: huggingface_hub is not installed")
    bundle, verdict = judged(factory, honest, which)
    card = hub.ModelCard(model_card.render(bundle, verdict))
    assert card.data.model_name == "digits 1.0"
    metrics = {result.metric_type for result in card.data.eval_results}
    assert metrics == {"epsilon", "epsilon_lower_bound", "tpr_at_fpr"}
    card.save(tmp_path / "README.md")
    again = hub.ModelCard.load(tmp_path / "README.md")
    assert again.data.to_dict()["privacy"] == model_card.metadata(bundle, verdict)["privacy"]
    assert WORDS[which] in again.text


@pytest.mark.parametrize("name", ["digits 1.0", HOSTILE])
@pytest.mark.parametrize("which", list(WORDS))
def test_cyclonedx_is_strictly_valid(factory: ModuleType, honest: Evidence, which: Status, name: str) -> None:
    pytest.importorskip("cyclonedx", reason="not run: cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    bundle, verdict = judged(factory, honest, which, name)
    text = cyclonedx.render(bundle, verdict)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"bomFormat"', '"bomFormatt"')) is not None
    document = json.loads(text)
    (mapping,) = document["declarations"]["attestations"][0]["map"]
    score = {Status.PASS: 1.0, Status.FAIL: 0.0}.get(which)
    assert mapping.get("conformance", {}).get("score") == score
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": factory.MODEL}]
    assert text == cyclonedx.render(bundle, verdict)


@pytest.mark.parametrize("which", list(WORDS))
def test_registry_record(factory: ModuleType, honest: Evidence, which: Status) -> None:
    yaml = pytest.importorskip("yaml", reason="not run: PyYAML is not installed")
    bundle, verdict = judged(factory, honest, which)
    data = yaml.safe_load(registry.render(bundle, verdict, ABOUT))
    schema = json.loads((Path(__file__).parent / "registry_schema.json").read_text())
    validator = jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
    assert list(validator.iter_errors(data)) == []
    assert list(validator.iter_errors({**data, "mu": 1.0}))
    assert WORDS[which] in data["deployment"]["basic"]["description"]
    assert data["deployment"]["administrative"]["status"] == "Draft"
    assert data["deployment"]["privacy_loss"]["privacy_parameters"] == {"epsilon": 6.0, "delta": 1e-5}


@pytest.mark.parametrize("change", [{"curator": ""}, {"curator_type": "Cult"}, {"author": ""}])
def test_a_registry_record_needs_what_evidence_does_not_hold(
    factory: ModuleType, honest: Evidence, change: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        registry.record(*judged(factory, honest, Status.PASS), {**ABOUT, **change})


class Tracker:
    """Records what is logged, as mlflow would be called."""

    def __init__(self, *, active: bool) -> None:
        self.active, self.calls = active, []

    def active_run(self) -> object:
        return object() if self.active else None

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: self.calls.append((name, arguments, options))


@pytest.mark.parametrize("active", [True, False])
def test_mlflow(factory: ModuleType, honest: Evidence, tmp_path: Path, active: bool) -> None:
    bundle, verdict = judged(factory, honest, Status.FAIL)
    tracker = Tracker(active=active)
    tracking.log(bundle, verdict, report=tmp_path / "r.html", mlflow=tracker)
    names = [name for name, _, _ in tracker.calls]
    inner = ["log_metrics", "set_tags", "log_artifact"]
    assert names == (inner if active else ["start_run", *inner, "end_run"])
    logged = next(arguments[0] for name, arguments, _ in tracker.calls if name == "log_metrics")
    assert logged["dp.claim.epsilon"] == 6.0
    assert logged["dp.audit.epsilon_lower_bound"] == 9.0
    assert "dp.attack.lira.tpr_at_fpr_0.001" not in logged  # could not be measured: left out, never 0
    told = next(arguments[0] for name, arguments, _ in tracker.calls if name == "set_tags")
    assert told["dpaudit.verdict"] == "FAILED"
    assert all(isinstance(value, str) for value in told.values())


def test_without_mlflow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(MissingDependency, match=r"dpaudit\[mlflow\]"):
        tracking.client()
    with pytest.raises(UsageError):
        exporter("docx")


def test_yaml_is_what_pyyaml_reads() -> None:
    yaml = pytest.importorskip("yaml", reason="not run: PyYAML is not installed")
    value = {
        "a b": [1, 1.5, 1e-5, 1e300, True, None, "yes", "1e-5", "", HOSTILE, "é", [], {}, [[1], {"x": [2]}]],
        "nested": {"on": {"y": "n"}},
    }
    assert yaml.safe_load(dump(value)) == value
    with pytest.raises(DataError):
        dump({"x": object()})
    with pytest.raises(ValueError, match="JSON"):
        dump({"x": float("nan")})


def test_the_command(factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = factory.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("dpaudit.toml").write_text("[claim]\nrecompute = false\n")
    about = [word for key, value in ABOUT.items() for word in ("--about", f"{key}={value}")]
    for kind, name in (("hf-card", "model-card.md"), ("cyclonedx", "model.cdx.json"), ("zip", "evidence.zip")):
        assert run(["export", kind, str(bundle.root)]) == 0
        assert Path(name).stat().st_size > 500
    assert run(["export", "dp-registry", str(bundle.root), *about]) == 0
    assert run(["gate", "evidence.zip", "--now", "2026-11-23"]) == 0
    for arguments in (
        ["export", "dp-registry", str(bundle.root)],
        ["export", "dp-registry", str(bundle.root), "--about", "curator"],
        ["export", "docx", str(bundle.root)],
        ["export", "hf-card", "nowhere"],
        ["export", "zip", str(bundle.root), "-o", "evidence.tar"],
        ["export", "zip", str(bundle.root), "-o", str(bundle.root / "x.zip")],
        ["export", "hf-card", str(bundle.root), "-o", str(bundle.root / "x.md")],
    ):
        assert run(arguments) == 2, arguments
    Path("mine.zip").write_text("mine")
    assert run(["export", "zip", str(bundle.root), "-o", "mine.zip"]) == 2
    assert Path("mine.zip").read_text() == "mine"
