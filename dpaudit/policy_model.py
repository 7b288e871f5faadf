"""What a policy file can say: frozen models in which unknown keys are errors."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dpaudit.records import Relation, Unit

CODES = (
    "DPA001", "DPA002", "DPA003", "DPA004", "DPA005", "DPA007", "DPA101", "DPA102", "DPA103", "DPA104", "DPA105",
    "DPA201", "DPA202", "DPA203", "DPA204", "DPA205", "DPA301", "DPA302", "DPA303", "DPA304", "DPA306", "DPA307",
    "DPA401", "DPA402",
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
    require_fire_drill: bool = Field(
        False, strict=True, description="Whether evidence without a fire drill is inconclusive (DPA105)."
    )
    fire_drill_max_age_days: Days = Field(30, description="Oldest fire drill that counts (DPA105).")


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
    require_alive: bool = Field(
        False, strict=True, description="Whether attacks must have been seen to win on a model without noise (DPA203)."
    )
    require_worst_group: bool = Field(
        False, strict=True, description="Whether evidence must say how the worst-off group fares (DPA204)."
    )


class Signer(Section):
    """Somebody who may seal evidence."""

    name: Text = Field(description="Who it is; shown in the verdict.")
    public_key: Annotated[str, Field(min_length=50, max_length=2000)] = Field(
        description="Public key in PEM (Ed25519 or ECDSA P-256)."
    )


class EvidencePolicy(Section):
    """What the evidence must be like."""

    max_age_days: Days = Field(90, description="Oldest evidence, and training, that counts (DPA301).")
    require_training_date: bool = Field(
        False, strict=True, description="Whether evidence that does not date the training is inconclusive (DPA301)."
    )
    require_model: bool = Field(
        False, strict=True, description="Whether a gate that is not shown the released model is inconclusive (DPA302)."
    )
    require_provenance: bool = Field(
        False, strict=True, description="Whether evidence must say which code made it (DPA303)."
    )
    require_clean_tree: bool = Field(
        False, strict=True, description="Whether that code must have been committed without further changes (DPA303)."
    )
    require_signature: bool = Field(
        False, strict=True, description="Whether evidence without a valid seal of a signer is inconclusive (DPA304)."
    )
    signer: tuple[Signer, ...] = Field((), description="Who may seal evidence (DPA304).")
    allow_configured_seed: bool = Field(
        False,
        strict=True,
        description="Whether noise from a configured, hence predictable, seed is accepted (DPA307). Never with strict.",
    )


class BaselinePolicy(Section):
    """How much worse than the released model a release may be."""

    required: bool = Field(
        False, strict=True, description="Whether a gate without a baseline is inconclusive (DPA401)."
    )
    epsilon_slack: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=True)] = Field(
        0.0, description="Relative increase of the spent epsilon that is allowed."
    )
    tpr_slack: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.0, description="Increase of a true-positive rate that is allowed, beyond both confidence intervals."
    )


class BudgetPolicy(Section):
    """What all releases about the same people may spend together."""

    epsilon: Positive | None = Field(None, description="Largest epsilon of all releases composed (DPA402).")
    releases: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (), description="Digests of the evidence of every earlier release about these people."
    )


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
    profile: Literal["strict", "standard", "research", "demonstration"] = Field("standard", description="Base values.")
    claim: ClaimPolicy = ClaimPolicy()
    audit: AuditPolicy = AuditPolicy()
    attacks: AttacksPolicy = AttacksPolicy()
    evidence: EvidencePolicy = EvidencePolicy()
    baseline: BaselinePolicy = BaselinePolicy()
    budget: BudgetPolicy = BudgetPolicy()
    waivers: WaiverPolicy = WaiverPolicy()
    waiver: tuple[Waiver, ...] = Field((), description="Waivers.")

    @model_validator(mode="after")
    def _strict_is_strict(self) -> Self:
        if self.profile == "strict" and self.evidence.allow_configured_seed:
            raise ValueError(
                "evidence.allow_configured_seed = true is refused by the profile strict: noise from a seed that "
                "stands in a file protects nobody who is not kept from reading it"
            )
        return self
