"""What attacks on a given model see: records from files, outputs of the model, the attacker's own models."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.attacks import registry, targets
from dpaudit.attacks.augment import augmented
from dpaudit.attacks.base import EARLIER_MODEL, GRADIENTS, LABEL_QUERIES, Observed
from dpaudit.attacks.files import Examples, flags, read_arrays, read_examples, unit_numbers
from dpaudit.attacks.groups import Groupings, read_groups
from dpaudit.config import ModelSection
from dpaudit.errors import DataError, UsageError
from dpaudit.fanout import Executor
from dpaudit.federated import canary_log


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `dpaudit attack MODEL` was asked: files of records, and how to attack.

    `shadow_models` are trained on the records by the attacker, as multi-layer perceptrons with layers `hidden`.
    `groups` names groups to judge by themselves. `private_features` zeros are appended to every record: the inputs that
    a model has for `feature` canaries; None asks the folder of the run.
    """

    model: str
    members: Path
    non_members: Path
    population: Path | None = None
    groups: Path | None = None
    references: Path | None = None
    earlier_model: str | None = None
    attacks: tuple[str, ...] = ()
    shadow_models: int = 0
    hidden: tuple[int, ...] = (64,)
    augmented_queries: int = 0
    outputs: str = "auto"
    label: str = "label"
    batch_size: int = 1024
    seed: int = 0
    private_features: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was seen of the model, membership of the units apart, and the records for the checks beside the attacks."""

    observed: Observed
    is_member: NDArray[np.bool_]
    x: NDArray[Any]
    y: NDArray[np.int64]
    unit: NDArray[np.int64] | None
    classes: int
    groups: Groupings = field(default_factory=dict)


def needs_of(attacks: tuple[str, ...]) -> frozenset[str]:
    """Return what the named attacks need."""
    return frozenset(need for name in attacks for need in registry.make(name).needs)


def observe(request: Request, *, executor: Executor | None = None) -> Subject:
    """Read the files, query the model, train shadow models; nothing of membership goes into what attacks see.

    Shadow models are trained on `executor` (`dpaudit.fanout`), if there are many; None for here.

    Raises: UsageError or DataError for files, models or outputs that cannot be used.
    """
    members, others = (_read(path, request) for path in (request.members, request.non_members))
    known = None if request.population is None else _read(request.population, request)
    sides = [members, others, *([] if known is None else [known])]
    _same_shape(sides)
    x, y, unit = _joined(members, others)
    n = len(y)
    number, by_unit = unit_numbers("the records", unit, np.arange(n) < len(members.y))
    groups = {} if request.groups is None else read_groups(request.groups, records=n, unit=number)
    model = targets.load_target(request.model, batch_size=request.batch_size)
    logits = targets.query(model, sides, kind=request.outputs)
    classes = logits.shape[1]
    facts: dict[str, Any] = {"x": x}
    needs = needs_of(request.attacks)
    if LABEL_QUERIES in needs:
        facts["label_oracle"] = targets.label_oracle(model, kind=request.outputs)
    if needs & {GRADIENTS, EARLIER_MODEL}:
        facts |= _white_box(request, x, y)
    plain = Observed(logits=logits[:n], labels=y, unit=number, **facts)
    observed = _with_references(request, plain, model, classes, known, logits[n:], executor)
    return Subject(observed=observed, is_member=by_unit, x=x, y=y, unit=number, classes=classes, groups=groups)


def _read(path: Path, request: Request) -> Examples:
    """Read records, and give them the inputs that the model has for canaries."""
    found = read_examples(path, label=request.label)
    zeros = request.private_features
    zeros = canary_log.private_features(Path(request.model)) if zeros is None else zeros
    if not zeros:
        return found
    if found.x.ndim != 2:
        raise UsageError(f"private features can be appended to vectors; the records of {path} are none.")
    return replace(found, x=np.pad(found.x, ((0, 0), (0, zeros))))


def _same_shape(sides: list[Examples]) -> None:
    shapes = {side.x.shape[1:] for side in sides}
    if len(shapes) > 1:
        raise DataError(f"the files must hold records of one shape; got {', '.join(map(str, sorted(shapes)))}.")


def _joined(members: Examples, others: Examples) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any] | None]:
    if (members.unit is None) != (others.unit is None):
        raise UsageError("either both files of records hold 'unit', or neither.")
    x, y = np.concatenate([members.x, others.x]), np.concatenate([members.y, others.y])
    joined = None if members.unit is None or others.unit is None else np.concatenate([members.unit, others.unit])
    return x, y, joined


def _white_box(request: Request, x: NDArray[Any], y: NDArray[np.int64]) -> dict[str, Any]:
    from dpaudit.attacks.gradients import gradient_facts

    paths = [targets.keras_path(name) for name in (request.model, request.earlier_model) if name is not None]
    if None in paths:
        raise UsageError("white-box attacks need .keras files: the weights, not only what the model answers.")
    model, *earlier = (targets.load_keras(path) for path in paths if path is not None)
    return dict(gradient_facts(model, x, y, earlier=earlier[0] if earlier else None))


Reference = Callable[[NDArray[Any]], NDArray[np.float32]]


def _with_references(
    request: Request, plain: Observed, model: targets.Model, classes: int, known: Examples | None,
    known_logits: NDArray[np.float64], executor: Executor | None,
) -> Observed:  # fmt: skip
    """Add reference models (from a file, or trained here), altered copies and the population."""
    population = None
    if known is not None:
        population = Observed(logits=known_logits, labels=known.y, unit=_units_of(known), x=known.x)
    if request.references is not None and request.shadow_models:
        raise UsageError("--references and --shadow-models exclude each other: give outputs of models, or train some.")
    if request.references is not None:
        plain = replace(plain, **_from_file(request.references))
    reference: Reference | None = None
    if request.shadow_models:
        reference, inside = _shadow_models(request, plain, classes, executor)
        plain = replace(plain, reference_logits=reference(_numbers(plain.x)), reference_in=inside)
        if population is not None:
            outside = np.zeros((request.shadow_models, population.units), dtype=np.bool_)
            outputs = reference(_numbers(population.x))
            population = replace(population, reference_logits=outputs, reference_in=outside)
    if request.augmented_queries:
        copies = list(augmented(_numbers(plain.x), copies=request.augmented_queries, seed=request.seed))
        asked = np.stack([targets.query_records(model, copy, kind=request.outputs) for copy in copies])
        many = None if reference is None else np.stack([reference(copy) for copy in copies], axis=1)
        if reference is None and plain.reference_logits is not None:
            raise UsageError("--augmented-queries needs --shadow-models: a file of references has no altered copies.")
        plain = replace(plain, augmented_logits=asked, reference_augmented=many)
    return replace(plain, population=population)


def _units_of(side: Examples) -> NDArray[np.int64] | None:
    return None if side.unit is None else np.unique(side.unit, return_inverse=True)[1].astype(np.int64)


def _numbers(x: NDArray[Any] | None) -> NDArray[np.float32]:
    try:
        wide = np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"records must be numbers to train on or to alter; got {np.asarray(x).dtype}.") from error
    if not np.isfinite(wide).all():
        raise DataError("records hold NaN or infinity: no model can be trained on them. Fill or drop them.")
    return wide


def _from_file(path: Path) -> dict[str, Any]:
    arrays = read_arrays(path)
    missing = {"reference_logits", "reference_in"} - set(arrays)
    if missing:
        raise UsageError(f"{path} has no array {' and '.join(sorted(missing))}.")
    inside = flags(path, "reference_in", arrays["reference_in"])
    return {"reference_logits": arrays["reference_logits"], "reference_in": inside}


def _shadow_models(
    request: Request, seen: Observed, classes: int, executor: Executor | None
) -> tuple[Reference, NDArray[np.bool_]]:
    """Train the attacker's models on balanced halves of the units, many at once."""
    from dpaudit.federated.reference import balanced_masks
    from dpaudit.federated.twins import train_twins

    rng = _rng.stream(request.seed, "shadow-masks")
    inside = balanced_masks(rng, models_count=request.shadow_models, units=seen.units)
    of_example = inside if seen.unit is None else inside[:, seen.unit]
    section = ModelSection(hidden=request.hidden)
    labels = seen.labels.astype(np.int32)
    x = _numbers(seen.x)
    twins = train_twins(section, x, labels, of_example, classes=classes, root=request.seed, executor=executor)
    return twins.logits, inside
