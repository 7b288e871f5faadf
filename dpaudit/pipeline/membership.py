"""The membership-inference stage: attacks see outputs and their own reference models; membership is joined here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, estimation, serialize
from dpaudit.attacks import comparable, registry
from dpaudit.attacks.augment import augmented
from dpaudit.attacks.base import GRADIENTS, LABEL_QUERIES, POPULATION, REFERENCE_MODELS, Observed
from dpaudit.attacks.ceilings import ceiling_of, with_ceiling
from dpaudit.attacks.membership import scores_of, split
from dpaudit.attacks.subset import with_population
from dpaudit.config import RunConfig
from dpaudit.errors import DpauditError
from dpaudit.fanout import Executor
from dpaudit.federated.data import FederatedData
from dpaudit.federated.models import load_model, logits_of
from dpaudit.federated.reference import References, train_references
from dpaudit.federated.run_files import predict_logits
from dpaudit.pipeline import exposure
from dpaudit.pipeline.alive import check_alive
from dpaudit.pipeline.design import Design
from dpaudit.records import AccountingSummary, AttackResult, CheckResult, ScoreSet, Unit

FPRS = (0.1, 0.01, 0.001)
REFERENCES = "private/reference-models"
EXPOSED = "private/exposed_records.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Members (training data) followed by non-members (hold-out): inputs, labels, unit of each example, membership.

    `known` (units,) marks hold-out units that the attacker knows to be outside: they are the population of attacks
    that need one, and are not attacked. `holder` (examples,) is the client of each example, -1 for a client that
    trained on none; None where the hold-out does not say, or where clients are the units.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    unit: NDArray[np.int64] | None
    is_member: NDArray[np.bool_]
    known: NDArray[np.bool_]
    classes: int
    holder: NDArray[np.int64] | None = None

    @property
    def of_example(self) -> NDArray[np.int64]:
        """The unit of each example."""
        return np.arange(len(self.y)) if self.unit is None else self.unit

    @property
    def attacked(self) -> NDArray[np.bool_]:
        """Membership of the units under attack."""
        return self.is_member[~self.known]


def needs_of(config: RunConfig) -> frozenset[str]:
    """Return what the configured attacks need to observe."""
    return frozenset(need for name in config.audit.attacks for need in registry.make(name).needs)


def make_pool(config: RunConfig, data: FederatedData, *, root: int) -> Pool:
    """Stack training and hold-out data; for client-level privacy a unit is a whole device.

    Where a configured attack needs a population, half of the hold-out units become it.
    """
    x = np.concatenate([data.train.x, data.holdout.x])
    y = np.concatenate([data.train.y, data.holdout.y])
    unit: NDArray[np.int64] | None = None
    holder: NDArray[np.int64] | None = None
    if config.claim.unit == Unit.EXAMPLE:
        is_member, holder = np.arange(len(x)) < len(data.train.x), _holders(data)
    else:
        if data.train.client is None or data.holdout.client is None:
            raise DpauditError("client-level data came without client ids.")
        _, train_unit = np.unique(data.train.client, return_inverse=True)
        _, holdout_unit = np.unique(data.holdout.client, return_inverse=True)
        members = int(train_unit.max()) + 1
        unit = np.concatenate([train_unit, holdout_unit + members]).astype(np.int64)
        is_member = np.arange(int(unit.max()) + 1) < members
    known = np.zeros(is_member.size, dtype=np.bool_)
    if POPULATION in needs_of(config):
        outside = _rng.stream(root, "attack-population").permutation(np.flatnonzero(~is_member))
        known[outside[: outside.size // 2]] = True
    return Pool(x=x, y=y, unit=unit, is_member=is_member, known=known, classes=data.train.classes, holder=holder)


def _holders(data: FederatedData) -> NDArray[np.int64] | None:
    """Return the client of each example where training and hold-out data both say it."""
    if data.train.client is None or data.holdout.client is None:
        return None
    return np.concatenate([data.train.client, data.holdout.client]).astype(np.int64)


def observe(
    config: RunConfig,
    design: Design,
    data: FederatedData,
    pool: Pool,
    model: Path,
    *,
    root: int,
    executor: Executor | None = None,
) -> Observed:
    """Query the released model on the pool, and train the attacker's reference models, on `executor`."""
    needs, facts = needs_of(config), dict[str, Any]()
    references = None
    if config.audit.reference_models and REFERENCE_MODELS in needs:
        references = train_references(
            config,
            data,
            root=root,
            noise_multiplier=design.noise_multiplier,
            count=config.audit.reference_models,
            cache=model.parent / REFERENCES,
            executor=executor,
        )
        facts |= {"reference_logits": references.logits(pool.x), "reference_in": references.inside}
    if needs & {LABEL_QUERIES, GRADIENTS}:
        facts |= _by_model(model, pool, needs)
    if config.audit.augmented_queries:
        facts |= _augmented(config.audit.augmented_queries, model, pool, references, root=root)
    logits = predict_logits(model, pool.x)
    whole = Observed(logits=logits, labels=pool.y, unit=pool.unit, x=pool.x, **facts)
    return with_population(whole, pool.known) if pool.known.any() else whole


def _by_model(path: Path, pool: Pool, needs: frozenset[str]) -> dict[str, Any]:
    """Return what takes the released model itself: an oracle of labels, gradients."""
    model = load_model(path)
    facts: dict[str, Any] = {"label_oracle": lambda x: logits_of(model, x).argmax(axis=1)}
    if GRADIENTS in needs:
        from dpaudit.attacks.gradients import gradient_facts

        facts |= gradient_facts(model, pool.x, pool.y)
    return facts


def _augmented(copies: int, path: Path, pool: Pool, references: References | None, *, root: int) -> dict[str, Any]:
    """Query target and reference models on altered copies of the records."""
    altered = list(augmented(pool.x, copies=copies, seed=_rng.seed_of(root, "attack-augmentation")))
    facts: dict[str, Any] = {"augmented_logits": np.stack([predict_logits(path, x) for x in altered])}
    if references is not None:
        facts["reference_augmented"] = np.stack([references.logits(x) for x in altered], axis=1)
    return facts


def run_attacks(
    config: RunConfig, observed: Observed, pool: Pool, summary: AccountingSummary, *, root: int
) -> tuple[tuple[AttackResult, ...], dict[str, ScoreSet]]:
    """Run every configured attack; one that cannot run becomes a result without AUC that says why."""
    results, scores = [], {}
    ceiling = ceiling_of(summary)
    for name in config.audit.attacks:
        attack = registry.make(name)
        try:
            scores[name] = split(scores_of(name, observed), pool.attacked)
        except DpauditError as error:
            results.append(AttackResult(attack=name, threat_model=attack.threat_model, auc=None, reason=str(error)))
            continue
        result = estimation.summarise_attack(
            scores[name],
            attack=name,
            threat_model=attack.threat_model,
            fprs=FPRS,
            confidence=config.audit.confidence,
            seed=_rng.seed_of(root, "attack-intervals"),
        )
        results.append(with_ceiling(result, ceiling))
    return tuple(results), scores


def check_attacks(
    config: RunConfig, pool: Pool, scores: dict[str, ScoreSet], summary: AccountingSummary, out: Path, *, root: int
) -> list[CheckResult]:
    """Return the checks beside the attacks: comparable sides, live attacks, the worst group.

    The most exposed members are written to private/exposed_records.json, for the auditor's eyes only.
    """
    attacked, ceiling = pool.attacked, ceiling_of(summary)
    values = {name: _joined(sides, attacked) for name, sides in scores.items()}
    results = exposure.group_results(values, attacked, groupings_of(pool))
    exposed = exposure.exposed_records(values, attacked)
    document = {"schema": "dpaudit.exposed-records/v1", "records": exposed, "groups": results}
    serialize.write_atomic(out / EXPOSED, serialize.dumps(document), mode=0o600)
    control = check_alive(
        config.model,
        pool.x,
        pool.y,
        pool.unit,
        tuple(scores),
        classes=pool.classes,
        root=root,
        references=min(config.audit.reference_models, 16),
    )
    return [
        check_comparable(pool, root=root),
        *([control] if config.audit.attacks else []),
        *([exposure.worst_group(results, None if ceiling is None else ceiling.auc())] if config.audit.attacks else []),
    ]


def _joined(sides: ScoreSet, is_member: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = np.empty(is_member.size)
    values[is_member], values[~is_member] = sides.member, sides.non_member
    return values


def groupings_of(pool: Pool) -> dict[str, NDArray[np.generic]]:
    """Return the groups of the units under attack, from records and labels alone, never from membership.

    class: the (commonest) label of a unit. typicality: the quarter of units that lie farthest from the mean of their
    class, and the others. size, where units hold several examples: more or fewer than the median. client, where the
    data say which client holds each hold-out example, too (`federated.data.prepare`): only then does a client have
    non-members of its own to be compared with. Clients that were dealt out have none; and where clients are the units
    each is but one.
    """
    unit, units = pool.of_example, pool.is_member.size
    counts = np.zeros((units, pool.classes), dtype=np.int64)
    np.add.at(counts, (unit, pool.y), 1)
    flat = pool.x.reshape(len(pool.x), -1).astype(np.float64)
    means = np.stack([flat[pool.y == c].mean(axis=0) if (pool.y == c).any() else flat[0] for c in range(pool.classes)])
    sizes = counts.sum(axis=1)
    away = np.bincount(unit, weights=np.linalg.norm(flat - means[pool.y], axis=1), minlength=units) / sizes
    found: dict[str, NDArray[Any]] = {
        "class": counts.argmax(axis=1),
        "typicality": np.where(away > np.quantile(away, 0.75), "far from its class", "near its class"),
    }
    if pool.unit is not None and sizes.min() < sizes.max():
        found["size"] = np.where(sizes > np.median(sizes), "large", "small")
    if pool.unit is None and pool.holder is not None:
        found["client"] = np.where(pool.holder < 0, "not in training", pool.holder.astype(np.str_))
    return {name: values[~pool.known] for name, values in found.items()}


def check_comparable(pool: Pool, *, root: int) -> CheckResult:
    """Check that members and non-members cannot be told apart without the model."""
    if pool.unit is None:
        return comparable.check_comparable(pool.x, pool.y, pool.is_member, seed=_rng.seed_of(root, "comparable"))
    member = pool.is_member[pool.unit]
    return comparable.check_comparable(pool.x, pool.y, member, unit=pool.unit, seed=_rng.seed_of(root, "comparable"))
