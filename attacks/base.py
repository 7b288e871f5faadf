"""The protocol of an attack, and the only thing an attack sees.

An attack turns what an attacker observed into one score per privacy unit, higher meaning "more likely a member".
`Observed` has no field for who was a member of the target: the join with membership happens in
`dpaudit.attacks.membership`, which only the pipeline calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError

Floats = NDArray[np.float64]

OUTPUTS = "outputs"
REFERENCE_MODELS = "reference-models"
OUT_MODELS = "out-models"  # for every unit a reference model that never saw it
POPULATION = "population"
POPULATION_RECORDS = "population-records"
RECORDS = "records"
LABEL_QUERIES = "label-queries"
GRADIENTS = "gradients"
EARLIER_MODEL = "earlier-model"
NEEDS = frozenset({
    OUTPUTS, REFERENCE_MODELS, OUT_MODELS, POPULATION, POPULATION_RECORDS, RECORDS, LABEL_QUERIES, GRADIENTS,
    EARLIER_MODEL,
})  # fmt: skip

LabelOracle = Callable[[NDArray[Any]], NDArray[np.integer]]
"""Answers records (m, ...) with the classes that the target predicts, (m,): all that a label-only attacker gets."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What an attacker saw of a target model.

    Attributes:
        logits: outputs of the target before the softmax, shape (n, classes), finite.
        labels: true classes, integers in [0, classes), shape (n,).
        unit: the privacy unit of each example, integers 0..units-1 each used at least once, shape (n,); None when
            every example is its own unit. The score of a unit is the mean over its examples.
        reference_logits: outputs of models that the attacker trained, shape (R, n, classes), or None.
        reference_in: whether reference model r was trained on unit u, shape (R, units): the attacker's knowledge of
            the attacker's own models. None without reference models.
        augmented_logits: outputs of the target on A altered copies of the records, shape (A, n, classes), or None.
        reference_augmented: the same of the reference models, shape (R, A, n, classes), or None.
        population: the same observations on records that the attacker knows to be no members, or None. They are not
            among the records under attack.
        x: the records themselves, shape (n, ...), or None.
        label_oracle: answers new records with predicted classes, or None.
        gradient_norm: norm of the gradient of the loss on each record at the target's weights, shape (n,), or None.
        gradient_alignment: cosine of each record's gradient at an earlier snapshot of the model and the descent from
            there to the target, shape (n,), or None.

    Raises:
        DataError: shapes that do not fit, labels out of range, NaN or infinite outputs.
    """

    logits: NDArray[np.floating]
    labels: NDArray[np.integer]
    unit: NDArray[np.integer] | None = None
    reference_logits: NDArray[np.floating] | None = None
    reference_in: NDArray[np.bool_] | None = None
    augmented_logits: NDArray[np.floating] | None = None
    reference_augmented: NDArray[np.floating] | None = None
    population: "Observed | None" = None
    x: NDArray[Any] | None = None
    label_oracle: LabelOracle | None = None
    gradient_norm: NDArray[np.floating] | None = None
    gradient_alignment: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        _check_outputs(self.logits, self.labels)
        _check_units(self.unit, len(self.labels))
        _check_references(self.reference_logits, self.reference_in, self.logits.shape, self.units)
        _check_augmented(self)
        _check_population(self)
        n = len(self.labels)
        if self.x is not None and (self.x.ndim < 1 or len(self.x) != n):
            raise DataError(f"x must hold one record per label, {n}; got shape {self.x.shape}.")
        for name, values in (("gradient_norm", self.gradient_norm), ("gradient_alignment", self.gradient_alignment)):
            if values is not None:
                if values.shape != (n,):
                    raise DataError(f"{name} must have shape ({n},); got {values.shape}.")
                check_finite(name, values)

    @property
    def has(self) -> frozenset[str]:
        """What of `NEEDS` was observed."""
        known = self.population
        found = {
            OUTPUTS: True,
            REFERENCE_MODELS: self.reference_logits is not None,
            OUT_MODELS: self.reference_in is not None and not self.reference_in.all(axis=0).any(),
            POPULATION: known is not None,
            POPULATION_RECORDS: known is not None and known.x is not None and self.x is not None,
            RECORDS: self.x is not None,
            LABEL_QUERIES: self.label_oracle is not None and self.x is not None,
            GRADIENTS: self.gradient_norm is not None,
            EARLIER_MODEL: self.gradient_alignment is not None,
        }
        return frozenset(need for need, present in found.items() if present)

    @cached_property
    def units(self) -> int:
        """Number of privacy units."""
        return len(self.labels) if self.unit is None else int(self.unit.max()) + 1

    def of_units(self, values: NDArray[np.floating]) -> Floats:
        """Average per-example values over the examples of each unit: (..., n) becomes (..., units)."""
        wide = np.asarray(values, dtype=np.float64)
        if self.unit is None:
            return wide
        sizes = np.bincount(self.unit, minlength=self.units)
        rows = wide.reshape(-1, wide.shape[-1])
        sums = np.stack([np.bincount(self.unit, weights=row, minlength=self.units) for row in rows])
        return (sums / sizes).reshape(*wide.shape[:-1], self.units)


@runtime_checkable
class Attack(Protocol):
    """A membership-inference attack."""

    @property
    def name(self) -> str:
        """Name in the registry and in reports."""

    @property
    def threat_model(self) -> str:
        """What the attacker must be able to do, in a sentence."""

    @property
    def needs(self) -> frozenset[str]:
        """What must be observed, out of `NEEDS`."""

    def score(self, observed: Observed) -> Floats:
        """Return one score per unit, shape (units,), higher meaning more likely a member."""


def _check_outputs(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise DataError(f"logits must have shape (examples, classes) with at least 2 classes; got {logits.shape}.")
    if len(logits) == 0:
        raise DataError("logits hold no example; an attack needs at least 1.")
    if labels.shape != (len(logits),):
        raise DataError(f"labels must have shape ({len(logits)},), one per row of logits; got {labels.shape}.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels must be whole numbers (classes); got {labels.dtype}.")
    outside = np.flatnonzero((labels < 0) | (labels >= logits.shape[1]))
    if len(outside):
        first = int(outside[0])
        raise DataError(
            f"labels must lie in [0, {logits.shape[1]}), the classes of the model; {len(outside)} do not, "
            f"the first is {int(labels[first])} at index {first}."
        )
    check_finite("logits", logits)


def check_finite(name: str, values: NDArray[np.floating]) -> None:
    """Raise DataError if any value is NaN or infinite."""
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise DataError(f"{name} must be finite; {bad} of {values.size} values are NaN or infinite. Repair the model.")


def _check_units(unit: NDArray[np.integer] | None, examples: int) -> None:
    if unit is None:
        return
    if unit.shape != (examples,) or not np.issubdtype(unit.dtype, np.integer):
        raise DataError(
            f"unit must hold one whole number per example, shape ({examples},); got {unit.shape} {unit.dtype}."
        )
    if unit.min() < 0 or np.bincount(unit).min() == 0:
        raise DataError(
            "unit must number the privacy units 0, 1, 2, ... without gaps; use numpy.unique(..., return_inverse=True)."
        )


def _check_references(
    logits: NDArray[np.floating] | None, inside: NDArray[np.bool_] | None, target: tuple[int, ...], units: int
) -> None:
    if logits is None and inside is None:
        return
    if logits is None or inside is None:
        raise DataError("reference_logits and reference_in belong together; one of them is missing.")
    if logits.ndim != 3 or logits.shape[1:] != target:
        raise DataError(f"reference_logits must have shape (models, {target[0]}, {target[1]}); got {logits.shape}.")
    if inside.shape != (len(logits), units) or inside.dtype != np.bool_:
        raise DataError(
            f"reference_in must be bool of shape ({len(logits)}, {units}); got {inside.dtype} {inside.shape}."
        )
    check_finite("reference_logits", logits)


def _check_augmented(seen: Observed) -> None:
    one, many = seen.augmented_logits, seen.reference_augmented
    if one is None:
        if many is not None:
            raise DataError("reference_augmented needs augmented_logits of the target; they are missing.")
        return
    if one.ndim != 3 or one.shape[1:] != seen.logits.shape or len(one) == 0:
        raise DataError(f"augmented_logits must have shape (queries, *{seen.logits.shape}); got {one.shape}.")
    check_finite("augmented_logits", one)
    if seen.reference_logits is None and many is None:
        return
    models = 0 if seen.reference_logits is None else len(seen.reference_logits)
    if many is None or many.shape != (models, *one.shape):
        got = None if many is None else many.shape
        raise DataError(f"reference_augmented must have shape {(models, *one.shape)}; got {got}.")
    check_finite("reference_augmented", many)


def _check_population(seen: Observed) -> None:
    known = seen.population
    if known is None:
        return
    if known.logits.shape[1] != seen.logits.shape[1]:
        raise DataError(
            f"the population's logits must have {seen.logits.shape[1]} classes; got {known.logits.shape[1]}."
        )
    models = [len(one.reference_logits) for one in (seen, known) if one.reference_logits is not None]
    if len(set(models)) > 1:
        raise DataError(f"the population must be seen by the same reference models, {models[0]}; got {models[1]}.")
    if known.x is not None and seen.x is not None and known.x.shape[1:] != seen.x.shape[1:]:
        raise DataError(f"population records must have shape {seen.x.shape[1:]}; got {known.x.shape[1:]}.")


def population_of(observed: Observed, attack: str) -> Observed:
    """Return what was seen of records that are known to be no members; raise DataError when there are none."""
    if observed.population is None:
        raise DataError(
            f"the attack {attack!r} needs a population: records that the attacker knows to be no members. Give some."
        )
    return observed.population


def references_of(observed: Observed, attack: str) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Return the reference models' logits and who was in them; raise DataError when there are none."""
    if observed.reference_logits is None or observed.reference_in is None:
        raise DataError(f"the attack {attack!r} needs reference models; none were observed. Give their outputs too.")
    return observed.reference_logits, observed.reference_in
