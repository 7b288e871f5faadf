"""The evidence of a run: what the stages found, and the facts of the training, as one bundle."""

from typing import Any

from dpaudit import evidence, serialize
from dpaudit.config import RunConfig
from dpaudit.events import Event, SelfComposed
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import environment, provenance
from dpaudit.pipeline.canary_audit import join
from dpaudit.pipeline.canary_stage import DIRAC, DIRAC_COINS, CanaryResults
from dpaudit.pipeline.trained import Trained
from dpaudit.policy import Policy
from dpaudit.records import AccountingSummary, Claim, ScoreSet


def _sampler(event: Event) -> str:
    """Return the name of an event's outermost sampler; local steps are composed of events that have one."""
    return _sampler(event.event) if isinstance(event, SelfComposed) else type(event).__name__


def _training_facts(trained: Trained) -> dict[str, Any]:
    config, digest = trained.config, PrivacyLedger.open(trained.workspace.ledger).digest
    return {
        "name": config.run.name,
        "algorithm": config.training.algorithm,
        "rounds": trained.run.rounds_done,
        "clients": trained.data.clients,
        "units": trained.units,
        "unit": config.claim.unit,
        "sampler": _sampler(trained.design.round_event),
        "client_sampling_rate": config.training.client_sampling_rate,
        "example_sampling_rate": config.training.example_sampling_rate,
        "clip_norm": config.training.clip_norm,
        "noise_multiplier": trained.design.noise_multiplier,
        **({"local_steps": config.training.local_steps} if config.training.local_steps else {}),
        "noise_draws": trained.run.noise_draws,
        "noise_factor_planted": config.demonstration.noise_factor,
        "ledger_digest": digest,
        "trained_at": provenance.trained_at(trained.workspace.out, trained.run.model, ledger_digest=digest),
        "model_sha256": serialize.sha256_file(trained.run.model),
        "aggregator": config.training.aggregator,
        "canaries": config.canaries.count,
        **canary_families(config),
        "holdout_accuracy": trained.run.holdout_accuracy,
        "classes": trained.data.train.classes,
        "data": trained.data.train.name,
        "seed_origin": "os-entropy" if config.run.seed == "os-entropy" else "configured",
        "seconds": round(trained.seconds, 2),
    }


def canary_families(config: RunConfig) -> dict[str, Any]:
    """Return the families of canaries as a fact of the training, and how many inputs the model has for them."""
    named = {family.name: {"kind": family.kind, "count": family.count} for family in config.canaries.family}
    extra = config.canaries.private_features
    return {**({"canary_families": named} if named else {}), **({"private_features": extra} if extra else {})}


def write_bundle(
    trained: Trained,
    summary: AccountingSummary,
    canaries: CanaryResults,
    results: list[Any],
    attacks: tuple[Any, ...],
    attack_scores: dict[str, ScoreSet],
    policy: Policy,
) -> evidence.Evidence:
    """Write the evidence of a run into its workspace."""
    claim = trained.config.claim
    curves = {name: evidence.curve_of(scores) for name, scores in attack_scores.items()}
    if DIRAC in canaries.scores:
        split = join(canaries.scores[DIRAC], canaries.coins[DIRAC_COINS])
        if min(split.member.size, split.non_member.size) > 0:
            curves[DIRAC] = evidence.curve_of(split)
    return evidence.write_evidence(
        trained.workspace.evidence,
        claim=Claim(
            epsilon=claim.epsilon,
            delta=claim.delta,
            unit=claim.unit,
            relation=claim.relation,
            model=trained.config.run.name,
        ),
        ledger_path=trained.workspace.ledger,
        accounting=summary,
        bounds=tuple(canaries.bounds),
        attacks=attacks,
        checks=tuple(results),
        powers=tuple(canaries.powers),
        training=_training_facts(trained),
        environment=environment.describe(),
        curves=curves,
        scores=canaries.scores,
        coins=canaries.coins,
        policy=policy.facts,
        provenance=provenance.describe(trained.config),
    )
