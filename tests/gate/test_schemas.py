"""The published JSON Schemas: what is generated, valid themselves, and true of what is really written."""

import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from dpaudit.cli.main import run
from dpaudit.errors import UsageError
from dpaudit.schemas import GENERATORS, published


@pytest.mark.parametrize("name", list(GENERATORS))
def test_published_is_what_is_generated(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(published(name))
    assert schema == json.loads(json.dumps(GENERATORS[name]()))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert run(["policy", "schema", name]) == 0
    assert json.loads(capsys.readouterr().out) == schema
    with pytest.raises(UsageError):
        published("ledgerr")


def test_a_bundle_fits_its_schema(factory: ModuleType, tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(published("evidence")))
    for folder in (factory.make(tmp_path).root, Path(__file__).parents[1] / "evidence" / "v1"):
        document = {path.name: json.loads(path.read_bytes()) for path in folder.glob("*.json")}
        assert list(validator.iter_errors(document)) == []
        assert list(validator.iter_errors({**document, "claim.json": {"epsilon": "6"}}))
        assert list(validator.iter_errors({**document, "manifest.json": {}}))


@pytest.mark.parametrize("changes", [{}, {"powers": ()}, {"bounds": ()}])
def test_a_verdict_fits_its_schema(
    factory: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(published("verdict")))
    bundle = factory.make(tmp_path, **changes)
    (tmp_path / "p.toml").write_text("[claim]\nrecompute = false\n")
    run(["gate", str(bundle.root), "--policy", str(tmp_path / "p.toml"), "--now", "2026-11-23", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert list(validator.iter_errors(document)) == []
    assert list(validator.iter_errors({**document, "status": "passed"}))
