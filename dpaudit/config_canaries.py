"""The section of a run configuration that says which canaries are planted."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpaudit.config_fields import Count, Positive, Section

FamilyKind = Literal["random", "chosen", "feature", "mislabelled", "blank"]
GRADIENT_KINDS = ("random", "chosen")
"""Kinds of canaries that are directions of the model; the other kinds are examples."""
_RESERVED = ("canaries", "coins")


class CanaryFamily(Section):
    """A set of canaries beside the Dirac canaries; see docs/canary-audit.md for the kinds."""

    kind: FamilyKind
    count: Annotated[int, Field(ge=1, le=100_000)]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    """Of its files and bounds; the kind if it is left out."""
    norm_factor: Positive = 10.0
    """Raw length of a `random` or `chosen` canary in clip norms; above 1, so that clipping is under test too."""
    coordinates: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Of `chosen` canaries in the model's weight vector, one each; drawn at random if left out."""
    value: Positive = 16.0
    """Of the private feature of `feature` canaries, whose other features are 0."""
    examples: Count | None = None
    """Client level: examples that a data canary holds; 1 if left out (`mislabelled`: all that its device holds)."""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_kind(cls, body: object) -> object:
        if isinstance(body, dict) and "name" not in body and isinstance(body.get("kind"), str):
            return {**body, "name": body["kind"]}
        return body

    @property
    def is_data(self) -> bool:
        """Whether the canaries are examples (else directions of the model)."""
        return self.kind not in GRADIENT_KINDS

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        belongs = {
            "norm_factor": GRADIENT_KINDS,
            "coordinates": ("chosen",),
            "value": ("feature",),
            "examples": ("feature", "mislabelled", "blank"),
        }
        for key, kinds in belongs.items():
            if key in self.model_fields_set and getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(f"{key} belongs to canaries of kind {' or '.join(kinds)}; this family is {self.kind}")
        if self.name in _RESERVED:
            raise ValueError(f"a canary family cannot be called {self.name!r}: the Dirac canaries' files are")
        if self.coordinates is not None and not len(self.coordinates) == len(set(self.coordinates)) == self.count:
            raise ValueError(f"coordinates of {self.name!r} must be {self.count} different numbers, one each")
        return self


class CanarySection(Section):
    """Dirac canaries (`count`; 0 for none) and families of other kinds, each canary in or out by its own coin.

    Without any canary there is no audit, and the gate is inconclusive.
    """

    count: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    norm_factor: Positive = 10.0
    """A canary's raw contribution in clip norms: above 1, so that clipping is under test too."""
    family: Annotated[tuple[CanaryFamily, ...], Field(max_length=16)] = ()

    @property
    def total(self) -> int:
        """Number of canaries of all kinds, in or out."""
        return self.count + sum(family.count for family in self.family)

    @property
    def private_features(self) -> int:
        """Number of features that are appended to every example for `feature` canaries."""
        return sum(family.count for family in self.family if family.kind == "feature")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [family.name for family in self.family]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two canary families are called {twice[0]!r}; give each a name of its own")
        return self
