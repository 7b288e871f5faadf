"""The policy of the gate: a profile, tightened or loosened by a file, with waivers; unknown keys are errors.

Looked for in this order: the name or path that is given, `./dpaudit.toml`, `[tool.dpaudit]` in `./pyproject.toml`,
else the profile `standard`. A file states only what differs from its profile; lists replace the profile's,
except that `waivers.never` can only grow.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dpaudit import serialize
from dpaudit._toml import locate, problems_of
from dpaudit.errors import ConfigError, DataError
from dpaudit.records import Relation, Unit

PROFILES = ("strict", "standard", "research")
CODES = (
    "DPA001", "DPA002", "DPA003", "DPA004", "DPA005", "DPA007", "DPA101", "DPA102", "DPA103", "DPA104",
    "DPA201", "DPA202", "DPA205", "DPA301", "DPA306",
)  # fmt: skip
"""Codes that a waiver can name: every rule that judges evidence."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(gt=0, lt=1, strict=True)]
Power = Annotated[float, Field(gt=0, le=1, strict=True)]
Days = Annotated[int, Field(ge=0, le=36_500, strict=True)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Sampler = Literal["poisson", "without-replacement", "shuffle", "none"]
Acceptable = Literal["assumption-free", "independent-canaries", "gaussian"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClaimPolicy(Section):
    """What may be claimed, and how the claim is checked."""

    epsilon: Positive | None = Field(None, description="Largest epsilon that may be claimed (DPA001).")
    delta: Share | None = Field(None, description="Largest delta that may be claimed (DPA004).")
    unit: Unit | None = Field(None, description="Unit of privacy that must be claimed (DPA005).")
    neighbouring: Relation | None = Field(None, description="Neighbouring relation that must be claimed (DPA005).")
    sampler: Sampler | None = Field(None, description="Sampler that must have run (DPA003).")
    recompute: bool = Field(True, strict=True, description="Whether only a recomputed claim counts (DPA001).")
    accept_rdp: bool = Field(
        False, strict=True, description="Whether Renyi accounting may support a claim that PLD cannot account for."
    )
    require_two_accountants: bool = Field(
        False, strict=True, description="Whether a missing second accountant is inconclusive (DPA002)."
    )


class AuditPolicy(Section):
    """How strong the audit must be."""

    confidence: Annotated[float, Field(gt=0.5, lt=1, strict=True)] = Field(
        0.95, description="Least confidence of a lower bound that counts."
    )
    min_power: Power = Field(0.8, description="Least power of the audit (DPA103), compared with its lower limit.")
    detect_factor: Annotated[float, Field(gt=1, le=100, strict=True)] = Field(
        2.0, description="Factor on the claimed epsilon at which the power is asked."
    )
    families: tuple[Acceptable, ...] = Field(
        ("assumption-free", "independent-canaries", "gaussian"),
        min_length=1,
        description="Families of assumptions whose lower bounds count (DPA101).",
    )
    methods: tuple[Text, ...] | None = Field(
        None, min_length=1, description="Estimation methods that count; every method when left out."
    )
    checks: tuple[Text, ...] = Field(
        ("noise.", "clip.", "sampling."), min_length=1, description="Prefixes of checks that must be present."
    )
    coin_significance: Share = Field(1e-4, description="Significance of the test that canary coins are fair (DPA104).")


class Ceiling(Section):
    """A ceiling on the true-positive rate of attacks at one false-positive rate."""

    attack: Text = Field("*", description="Name of an attack; * means every attack.")
    fpr: Share = Field(description="False-positive rate.")
    tpr: Share | Literal["proven"] = Field(description="Largest true-positive rate, or what the accounting proves.")
    compare: Literal["upper", "point"] = Field(
        "upper", description="What is compared: upper confidence limit or estimate."
    )
    min_non_members: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="Fewer non-members are too few; 10 / fpr when left out."
    )
    required: bool = Field(False, strict=True, description="Whether a ceiling that cannot be judged is inconclusive.")


class AttacksPolicy(Section):
    """What attacks may achieve."""

    required: bool = Field(True, strict=True, description="Whether evidence without attacks is inconclusive.")
    ceiling: tuple[Ceiling, ...] = Field((), description="Ceilings on attacks (DPA201).")


class EvidencePolicy(Section):
    """What the evidence must be like."""

    max_age_days: Days = Field(90, description="Oldest evidence that counts (DPA301).")


class WaiverPolicy(Section):
    """What waivers may do."""

    max_days: Annotated[int, Field(ge=1, le=90, strict=True)] = Field(
        90, description="Longest waiver, in days from today."
    )
    warn_days: Days = Field(14, description="Waivers that end sooner are announced.")
    never: tuple[Text, ...] = Field((), description="Rules that cannot be waived, besides those of the profile.")

    @field_validator("never")
    @classmethod
    def _known(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [rule for rule in rules if rule not in CODES]:
            raise ValueError(f"waivers.never names {unknown[0]!r}, which is no rule; see `dpaudit rules`")
        return rules


class Waiver(Section):
    """A finding that somebody answers for, until a date."""

    rule: Text = Field(description="Code of the rule.")
    model: Text | None = Field(None, description="Name of the model; * stands for anything. Every model when left out.")
    until_value: Annotated[float, Field(allow_inf_nan=False, strict=True)] | None = Field(
        None, description="The waiver holds only up to this measured value."
    )
    reason: Annotated[str, Field(min_length=10, max_length=500)] = Field(description="Why, in a sentence.")
    ticket: Text = Field(description="Where the repair is tracked.")
    owner: Text = Field(description="Who answers for it.")
    expires: date = Field(description="Last day on which it holds.")

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        if rule not in CODES:
            raise ValueError(f"waiver.rule {rule!r} is no rule that can be waived; see `dpaudit rules`")
        return rule


class PolicyFile(Section):
    """A policy file."""

    schema_version: Literal[1] = Field(1, description="Version of this format.")
    profile: Literal["strict", "standard", "research"] = Field("standard", description="Base values.")
    claim: ClaimPolicy = ClaimPolicy()
    audit: AuditPolicy = AuditPolicy()
    attacks: AttacksPolicy = AttacksPolicy()
    evidence: EvidencePolicy = EvidencePolicy()
    waivers: WaiverPolicy = WaiverPolicy()
    waiver: tuple[Waiver, ...] = Field((), description="Waivers.")


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
