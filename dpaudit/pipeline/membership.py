"""The membership-inference stage: attacks see outputs and their own reference models; membership is joined here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, estimation
from dpaudit.attacks import comparable, registry
from dpaudit.attacks.base import Observed
from dpaudit.attacks.membership import split
from dpaudit.config import RunConfig
from dpaudit.errors import DpauditError
from dpaudit.federated.data import FederatedData
from dpaudit.federated.reference import reference_logits
from dpaudit.federated.run_files import predict_logits
from dpaudit.pipeline.design import Design
from dpaudit.records import AttackResult, CheckResult, ScoreSet, Unit

FPRS = (0.1, 0.01, 0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Members (training data) followed by non-members (hold-out): inputs, labels, unit of each example, membership."""

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    unit: NDArray[np.int64] | None
    is_member: NDArray[np.bool_]


def make_pool(config: RunConfig, data: FederatedData) -> Pool:
    """Stack training and hold-out data; for client-level privacy a unit is a whole device."""
    x = np.concatenate([data.train.x, data.holdout.x])
    y = np.concatenate([data.train.y, data.holdout.y])
    if config.claim.unit == Unit.EXAMPLE:
        return Pool(x=x, y=y, unit=None, is_member=np.arange(len(x)) < len(data.train.x))
    if data.train.client is None or data.holdout.client is None:
        raise DpauditError("client-level data came without client ids.")
    _, train_unit = np.unique(data.train.client, return_inverse=True)
    _, holdout_unit = np.unique(data.holdout.client, return_inverse=True)
    members = int(train_unit.max()) + 1
    unit = np.concatenate([train_unit, holdout_unit + members])
    return Pool(x=x, y=y, unit=unit, is_member=np.arange(unit.max() + 1) < members)


def observe(config: RunConfig, design: Design, data: FederatedData, pool: Pool, model: Path, *, root: int) -> Observed:
    """Query the released model on the pool, and train the attacker's reference models."""
    reference, inside = None, None
    if config.audit.reference_models:
        reference, inside = reference_logits(
            config,
            data,
            root=root,
            noise_multiplier=design.noise_multiplier,
            count=config.audit.reference_models,
        )
    return Observed(
        logits=predict_logits(model, pool.x),
        labels=pool.y,
        unit=pool.unit,
        reference_logits=reference,
        reference_in=inside,
    )


def run_attacks(
    config: RunConfig, observed: Observed, pool: Pool, *, root: int
) -> tuple[tuple[AttackResult, ...], dict[str, ScoreSet]]:
    """Run every configured attack; one that cannot run becomes a result without AUC that says why."""
    results, scores = [], {}
    for name in config.audit.attacks:
        attack = registry.make(name)
        try:
            scores[name] = split(attack.score(observed), pool.is_member)
        except DpauditError as error:
            results.append(AttackResult(attack=name, threat_model=attack.threat_model, auc=None, reason=str(error)))
            continue
        results.append(
            estimation.summarise_attack(
                scores[name],
                attack=name,
                threat_model=attack.threat_model,
                fprs=FPRS,
                confidence=config.audit.confidence,
                seed=_rng.seed_of(root, "attack-intervals"),
            )
        )
    return tuple(results), scores


def check_comparable(pool: Pool, *, root: int) -> CheckResult:
    """Check that members and non-members cannot be told apart without the model."""
    if pool.unit is None:
        return comparable.check_comparable(pool.x, pool.y, pool.is_member, seed=_rng.seed_of(root, "comparable"))
    member = pool.is_member[pool.unit]
    return comparable.check_comparable(pool.x, pool.y, member, unit=pool.unit, seed=_rng.seed_of(root, "comparable"))
