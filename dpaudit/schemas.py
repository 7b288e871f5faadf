"""The JSON Schemas of what dpaudit reads and writes for others; published in the package as `data/schema-*.json`.

They are generated from the records themselves. A test compares the published files with what is generated, so that a
change of a record cannot go unnoticed; `python -m dpaudit.schemas` writes them again.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from dpaudit import evidence, serialize
from dpaudit.errors import UsageError
from dpaudit.evidence_manifest import FACTS, LAYOUTS, MANIFEST_KEYS, OPTIONAL_FACTS
from dpaudit.policy import policy_schema
from dpaudit.records import Claim, Finding, Status

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _of(kind: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    schema: dict[str, Any] = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
    return schema


def _with_definitions(properties: dict[str, dict[str, Any]], **rest: Any) -> dict[str, Any]:
    """Join schemas of several parts into one document, their definitions side by side."""
    definitions: dict[str, Any] = {}
    for part in properties.values():
        definitions |= part.pop("$defs", {})
    return {"$schema": DIALECT, "type": "object", "properties": properties, "$defs": definitions, **rest}


def evidence_schema() -> dict[str, Any]:
    """Return the schema of a bundle: one property for each JSON file, named as the file."""
    parts = {f"{name}.json": _of(kind) for name, kind in evidence.RECORDS.items()}
    facts = {"type": "object", "description": "Facts: any JSON but NaN, infinities and numbers beyond 64 bits."}
    parts |= {f"{name}.json": dict(facts) for name in (*FACTS, *OPTIONAL_FACTS)}
    file = {
        "type": "object",
        "required": ["sha256", "bytes"],
        "additionalProperties": False,
        "properties": {"sha256": _DIGEST, "bytes": {"type": "integer", "minimum": 0}},
    }
    names = sorted(evidence.KNOWN - {"manifest.json"})
    parts["manifest.json"] = {
        "type": "object",
        "required": sorted(MANIFEST_KEYS),
        "additionalProperties": False,
        "properties": {
            "schema": {"enum": list(LAYOUTS)},
            "created": {"type": "string", "format": "date-time"},
            "dpaudit": {"type": "string"},
            "digest": _DIGEST,
            "files": {"type": "object", "propertyNames": {"enum": names}, "additionalProperties": file},
        },
    }
    return _with_definitions(parts, title="dpaudit evidence bundle", additionalProperties=False)


def verdict_schema() -> dict[str, Any]:
    """Return the schema of the document of `dpaudit gate --json`."""
    parts: dict[str, dict[str, Any]] = {
        "schema": {"const": "dpaudit.gate/v1"},
        "status": {"enum": [Status.PASS.value, Status.FAIL.value, Status.INCONCLUSIVE.value]},
        "findings": _of(tuple[Finding, ...]),
        "digests": {"type": "object", "additionalProperties": _DIGEST},
        "date": {"type": "string", "format": "date"},
        "profile": {"type": "string"},
        "claim": _of(Claim),
        "exit_code": {"enum": [0, 1, 3]},
        "written": {"type": "array", "items": {"type": "string"}},
    }
    required = ["schema", "status", "findings", "digests", "date", "profile", "claim"]
    return _with_definitions(parts, title="verdict of dpaudit gate", required=required)


GENERATORS = {"policy": policy_schema, "evidence": evidence_schema, "verdict": verdict_schema}


def published(name: str) -> str:
    """Return a published schema as text; raise UsageError if there is none of that name."""
    if name not in GENERATORS:
        raise UsageError(f"there is no schema {name!r}; the schemas are {', '.join(GENERATORS)}.")
    return files("dpaudit").joinpath(f"data/schema-{name}.json").read_text(encoding="utf-8")


def publish(folder: Path) -> None:
    """Write every schema into a folder."""
    for name, generate in GENERATORS.items():
        serialize.write_atomic(folder / f"schema-{name}.json", serialize.dumps(generate()) + "\n")


if __name__ == "__main__":
    publish(Path(__file__).parent / "data")
