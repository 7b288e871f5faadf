"""Attacks on a model that was trained anywhere: run all, keep what runs, check that the result means something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import estimation
from dpaudit.attacks import comparable, registry
from dpaudit.attacks.base import LABEL_QUERIES, Observed
from dpaudit.attacks.ceilings import Ceiling, with_ceiling
from dpaudit.attacks.files import Given
from dpaudit.attacks.groups import read_groups
from dpaudit.attacks.membership import scores_of, split
from dpaudit.config import ModelSection
from dpaudit.errors import DpauditError, UsageError
from dpaudit.pipeline import alive, exposure
from dpaudit.pipeline.attack_inputs import Subject
from dpaudit.records import AttackResult, CheckResult, ScoreSet, Status

THREAT_MODEL_OF_SCORES = "scores that were computed elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How results are summarised: rates, confidence, seed, and the ceiling of what is proven, if anything is."""

    fprs: tuple[float, ...] = (0.1, 0.01, 0.001)
    confidence: float = 0.95
    seed: int = 0
    ceiling: Ceiling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackReport:
    """Results and checks; `scores` by attack, joined with membership, for `dpaudit estimate`."""

    attacks: tuple[AttackResult, ...]
    checks: tuple[CheckResult, ...]
    groups: tuple[exposure.GroupResult, ...]
    exposed: tuple[exposure.ExposedRecord, ...]
    scores: Mapping[str, ScoreSet]


def possible(observed: Observed) -> tuple[str, ...]:
    """Return the attacks that what was observed allows; those that query altered records run only by name."""
    made = {name: registry.make(name).needs for name in registry.names()}
    return tuple(name for name, needs in made.items() if needs <= observed.has and LABEL_QUERIES not in needs)


def attack_subject(
    subject: Subject, attacks: Sequence[str], measure: Measure, *, control: bool, hidden: tuple[int, ...] = (64,)
) -> AttackReport:
    """Run attacks on a model that was queried; one that cannot run becomes a result that says why.

    Args:
        subject: what was seen, and membership apart.
        attacks: names; empty means all that can run.
        measure: how to summarise.
        control: whether to train a twin and try the attacks on it.
        hidden: layers of that twin.
    """
    wanted = tuple(attacks) or possible(subject.observed)
    results, values = _run(subject.observed, subject.is_member, wanted, measure)
    groupings = {"class": _class_of_units(subject), **subject.groups}
    groups = exposure.group_results(values, subject.is_member, groupings)
    ceiling = None if measure.ceiling is None else measure.ceiling.auc()
    checks = [_comparable(subject, measure.seed)]
    if control:
        section, names = ModelSection(hidden=hidden), tuple(values)
        checks.append(_control(subject, section, names, measure.seed))
    checks.append(exposure.worst_group(groups, ceiling))
    return AttackReport(
        attacks=results,
        checks=tuple(checks),
        groups=groups,
        exposed=exposure.exposed_records(values, subject.is_member),
        scores={name: split(own, subject.is_member) for name, own in values.items()},
    )


def _control(subject: Subject, section: ModelSection, names: tuple[str, ...], seed: int) -> CheckResult:
    models = 0 if subject.observed.reference_logits is None else len(subject.observed.reference_logits)
    return alive.check_alive(
        section,
        subject.x,
        subject.y,
        subject.unit,
        names,
        classes=subject.classes,
        root=seed,
        references=min(models, 16),
    )


def attack_outputs(
    given: Given, path: Path, attacks: Sequence[str], measure: Measure, *, groups: Path | None = None
) -> AttackReport:
    """Run attacks on a file of outputs (or summarise its finished scores); `groups` is read by `groups.read_groups`.

    No record is at hand, so neither the comparison of the sides nor a control can run: the checks say so.

    Raises: UsageError when attacks are named for finished scores; DataError for groups that do not fit.
    """
    if given.scores is not None:
        if attacks:
            raise UsageError(f"{path} holds finished scores; --attack needs logits and labels.")
        return _of_scores(given.scores, given, groups, measure)
    if given.observed is None or given.is_member is None:
        raise UsageError("there is nothing to attack.")
    seen = given.observed
    named = {} if groups is None else read_groups(groups, records=len(seen.labels), unit=seen.unit)
    wanted = tuple(attacks) or possible(seen)
    results, values = _run(seen, given.is_member, wanted, measure)
    known = {"class": seen.labels} if seen.unit is None else {}
    return _of_outputs(results, values, given.is_member, {**known, **named}, measure)


def _of_scores(sides: ScoreSet, given: Given, groups: Path | None, measure: Measure) -> AttackReport:
    """Summarise finished scores, in the order of the rows of their file."""
    name = given.name or "scores"
    values = np.empty(sides.member.size + sides.non_member.size)
    rows = np.arange(values.size) if given.rows is None else given.rows
    values[rows] = np.concatenate([sides.member, sides.non_member])
    member = np.isin(np.arange(values.size), rows[: sides.member.size])
    named = {} if groups is None else read_groups(groups, records=values.size, unit=None)
    result = _summary(sides, name, THREAT_MODEL_OF_SCORES, measure)
    return _of_outputs((result,), {name: values}, member, named, measure)


def _of_outputs(
    results: tuple[AttackResult, ...],
    values: Mapping[str, NDArray[np.float64]],
    is_member: NDArray[np.bool_],
    groupings: Mapping[str, NDArray[Any]],
    measure: Measure,
) -> AttackReport:
    groups = exposure.group_results(values, is_member, groupings)
    ceiling = None if measure.ceiling is None else measure.ceiling.auc()
    missing = "a file of outputs holds no records, so that this could not be checked; attack the model itself"
    silent = [
        CheckResult(id=identity, status=Status.INCONCLUSIVE, detail=missing)
        for identity in (comparable.CHECK_ID, alive.CHECK_ID)
    ]
    return AttackReport(
        attacks=results,
        checks=(*silent, exposure.worst_group(groups, ceiling)),
        groups=groups,
        exposed=exposure.exposed_records(values, is_member),
        scores={name: split(own, is_member) for name, own in values.items()},
    )


def _run(
    observed: Observed, is_member: NDArray[np.bool_], wanted: Sequence[str], measure: Measure
) -> tuple[tuple[AttackResult, ...], dict[str, NDArray[np.float64]]]:
    results, values = [], {}
    for name in wanted:
        threat_model = registry.make(name).threat_model
        try:
            scores = scores_of(name, observed)
            results.append(_summary(split(scores, is_member), name, threat_model, measure))
            values[name] = scores
        except DpauditError as error:
            results.append(AttackResult(attack=name, threat_model=threat_model, auc=None, reason=str(error)))
    return tuple(results), values


def _summary(scores: ScoreSet, name: str, threat_model: str, measure: Measure) -> AttackResult:
    result = estimation.summarise_attack(
        scores,
        attack=name,
        threat_model=threat_model,
        fprs=measure.fprs,
        confidence=measure.confidence,
        seed=measure.seed,
    )
    return with_ceiling(result, measure.ceiling)


def _class_of_units(subject: Subject) -> NDArray[np.int64]:
    """Return the (commonest) class of each unit."""
    if subject.unit is None:
        return subject.y
    counts = np.zeros((int(subject.unit.max()) + 1, subject.classes), dtype=np.int64)
    np.add.at(counts, (subject.unit, subject.y), 1)
    return np.asarray(counts.argmax(axis=1))


def _comparable(subject: Subject, seed: int) -> CheckResult:
    """Check the two files against each other; a check that cannot run is inconclusive, with the reason."""
    member = subject.is_member if subject.unit is None else subject.is_member[subject.unit]
    try:
        return comparable.check_comparable(subject.x, subject.y, member, unit=subject.unit, seed=seed)
    except (DpauditError, ValueError) as error:
        return CheckResult(id=comparable.CHECK_ID, status=Status.INCONCLUSIVE, detail=str(error))
