"""The policy of the gate: a profile, tightened or loosened by a file, with waivers; unknown keys are errors.

Looked for in this order: the name or path that is given, `./dpaudit.toml`, `[tool.dpaudit]` in `./pyproject.toml`,
else the profile `standard`. A file states only what differs from its profile; lists replace the profile's,
except that `waivers.never` can only grow.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpaudit import serialize
from dpaudit._toml import locate, problems_of
from dpaudit.errors import ConfigError, DataError
from dpaudit.policy_model import (
    AttacksPolicy,
    AuditPolicy,
    BaselinePolicy,
    BudgetPolicy,
    ClaimPolicy,
    EvidencePolicy,
    PolicyFile,
    Waiver,
    WaiverPolicy,
)

PROFILES = ("strict", "standard", "research", "demonstration")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An effective policy: every value after the profile was applied, where it came from, and its digest.

    `own` holds the values that the file set; `lines` maps dotted keys of the file to lines.
    """

    values: PolicyFile
    source: str
    digest: str
    own: Mapping[str, Any]
    lines: Mapping[str, int]

    @property
    def facts(self) -> dict[str, Any]:
        """What evidence keeps of the policy that it was judged under: profile, digest and every value."""
        return {"profile": self.profile, "digest": self.digest, "values": self.values.model_dump(mode="json")}

    @property
    def profile(self) -> str:
        """Name of the base profile."""
        return self.values.profile

    @property
    def claim(self) -> ClaimPolicy:
        """What may be claimed."""
        return self.values.claim

    @property
    def audit(self) -> AuditPolicy:
        """How strong the audit must be."""
        return self.values.audit

    @property
    def attacks(self) -> AttacksPolicy:
        """What attacks may achieve."""
        return self.values.attacks

    @property
    def evidence(self) -> EvidencePolicy:
        """What the evidence must be like."""
        return self.values.evidence

    @property
    def baseline(self) -> BaselinePolicy:
        """How much worse than the released model a release may be."""
        return self.values.baseline

    @property
    def budget(self) -> BudgetPolicy:
        """What all releases about the same people may spend."""
        return self.values.budget

    @property
    def waivers(self) -> WaiverPolicy:
        """What waivers may do."""
        return self.values.waivers

    @property
    def waiver(self) -> tuple[Waiver, ...]:
        """The waivers."""
        return self.values.waiver


def load_policy(name_or_path: str | Path | None = None) -> Policy:
    """Return the effective policy of a profile or a file; see the module for where it is looked for.

    Raises: ConfigError with every problem and its line, DataError if there is no such profile or file.
    """
    if name_or_path is None:
        return _discover()
    if str(name_or_path) in PROFILES:
        return parse_policy(f'profile = "{name_or_path}"', source=f"profile {name_or_path}")
    path = Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        known = ", ".join(PROFILES)
        raise DataError(
            f"{str(name_or_path)!r} is neither a profile ({known}) nor a policy file that can be read: {error}."
        ) from error
    return parse_policy(text, source=str(path), table="tool.dpaudit" if path.name == "pyproject.toml" else "")


def _discover() -> Policy:
    if Path("dpaudit.toml").is_file():
        return load_policy("dpaudit.toml")
    project = Path("pyproject.toml")
    if project.is_file():
        text = project.read_text(encoding="utf-8", errors="replace")
        if "tool.dpaudit" in text.replace('"', "").replace(" ", ""):
            return load_policy(project)
    return load_policy("standard")


def parse_policy(text: str, *, source: str, table: str = "") -> Policy:
    """Parse the text of a policy; `table` is the dotted table that holds it. Raises: ConfigError with every problem."""
    try:
        raw: Any = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(source, [f"not valid TOML: {error}"]) from error
    lines = locate(text)
    for part in filter(None, table.split(".")):
        raw = raw.get(part, {}) if isinstance(raw, dict) else {}
    if table:
        lines = {key.removeprefix(f"{table}."): number for key, number in lines.items() if key.startswith(f"{table}.")}
    own = _validated(raw, source, lines)
    profile = own.profile
    base = tomllib.loads(files("dpaudit").joinpath(f"data/policy-{profile}.toml").read_text(encoding="utf-8"))
    merged = _merge(base, raw)
    merged["profile"] = profile
    merged["waivers"]["never"] = sorted({*base["waivers"]["never"], *own.waivers.never})
    values = _validated(merged, source, lines)
    digest = serialize.sha256_bytes(serialize.dumps(values.model_dump(mode="json")).encode())
    return Policy(values=values, source=source, digest=digest, own=raw, lines=lines)


def _validated(raw: Any, source: str, lines: Mapping[str, int]) -> PolicyFile:
    try:
        return PolicyFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(source, problems_of(error, PolicyFile, lines)) from error


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the file's values over the profile's, table by table; lists are replaced."""
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of policy files."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **PolicyFile.model_json_schema()}
