"""The whole job: train, account, audit, attack, verify, write evidence, judge. The one place that knows every part."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import accounting, evidence, gate, serialize
from dpaudit.config import RunConfig
from dpaudit.events import Event, SelfComposed
from dpaudit.fanout import Executor, open_executor
from dpaudit.federated.data import FederatedData, prepare
from dpaudit.federated.engine import MakeRunner
from dpaudit.federated.run_files import TrainingRun, load_participation, load_slots, open_run
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import (
    checks,
    cohort_check,
    engines,
    environment,
    local_checks,
    membership,
    provenance,
    step_check,
)
from dpaudit.pipeline.canary_audit import join
from dpaudit.pipeline.canary_stage import DIRAC, DIRAC_COINS, CanaryResults, audit_canaries
from dpaudit.pipeline.design import Design, check_delta, epsilon_after, ledger_facts, make_design
from dpaudit.pipeline.fire_drill import hold_drill
from dpaudit.pipeline.progress import Reporter
from dpaudit.pipeline.releases import client_ids
from dpaudit.pipeline.workspace import Workspace, fix_noise, open_workspace
from dpaudit.policy import Policy
from dpaudit.records import AccountingSummary, CheckResult, Claim, ScoreSet, Unit, Verdict


class Federation(Protocol):
    """Clients that hold the training data themselves: what the server knows of them, and how they are reached."""

    @property
    def data(self) -> FederatedData:
        """The hold-out, and in `train` who holds how many examples, without features and labels."""

    def engine(self) -> AbstractContextManager[MakeRunner]:
        """Return what makes the engine, and ends what it started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run produced: the bundle, the accounting behind the verdict, and the verdict."""

    evidence: evidence.Evidence
    accounting: AccountingSummary
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training with everything that later stages need."""

    config: RunConfig
    workspace: Workspace
    design: Design
    data: FederatedData
    run: TrainingRun
    seconds: float
    engine: str = engines.IN_PROCESS

    @property
    def units(self) -> int:
        """Number of protected units in training."""
        return protected_units(self.config, self.data)


def protected_units(config: RunConfig, data: FederatedData) -> int:
    """Return how many examples, or clients, the claim protects."""
    if config.claim.unit == Unit.CLIENT or data.train.client is None:
        return data.clients
    return len(data.train.client)  # labels may be with the clients alone


def train(
    config: RunConfig,
    out: Path,
    *,
    resume: bool,
    reporter: Reporter,
    engine: str = engines.IN_PROCESS,
    federation: Federation | None = None,
) -> Trained:
    """Train (or finish training) into `out`; the ledger there says at every moment what was spent.

    `engine` names where clients are computed; see `dpaudit.pipeline.engines`. In a `federation` the clients hold the
    training data, and it brings the engine.
    """
    started = time.monotonic()
    reporter.stage("loading data")
    workspace = open_workspace(config, out, resume=resume)
    data = prepare(config, root=workspace.root) if federation is None else federation.data
    check_delta(config, protected_units(config, data))
    reporter.stage("fixing the noise")
    design = _fix_design(config, workspace, slots=protected_units(config, data) + config.canaries.total)
    workspace = fix_noise(config, workspace, design.noise_multiplier)
    reporter.stage(f"training with noise multiplier {design.noise_multiplier:.4f}")
    opened = (
        engines.open_engine(engine, config, data, root=workspace.root) if federation is None else federation.engine()
    )
    with opened as make_runner:
        _train_rounds(config, workspace, design, data, resume=resume, reporter=reporter, make_runner=make_runner)
    return Trained(
        config=config,
        workspace=workspace,
        design=design,
        data=data,
        run=open_run(out),
        seconds=time.monotonic() - started,
        engine=engine,
    )


def _fix_design(config: RunConfig, workspace: Workspace, *, slots: int) -> Design:
    if workspace.noise_multiplier is None:
        return make_design(config, slots=slots)
    fixed = config.model_copy(
        update={"training": config.training.model_copy(update={"noise_multiplier": workspace.noise_multiplier})}
    )
    return make_design(fixed, slots=slots)


def _train_rounds(
    config: RunConfig,
    workspace: Workspace,
    design: Design,
    data: FederatedData,
    *,
    resume: bool,
    reporter: Reporter,
    make_runner: MakeRunner,
) -> None:
    from dpaudit.federated.trainer import train as train_federated

    spent = epsilon_after(design, config.claim.delta)
    train_federated(
        config,
        data,
        root=workspace.root,
        out=workspace.out,
        noise_multiplier=design.noise_multiplier,
        resume=resume,
        progress=lambda done, total: reporter.rounds(done, total, spent(done)),
        ledger_facts=ledger_facts(config, design),
        epsilon_after=spent,
        make_runner=make_runner,
    )


def audit(trained: Trained, *, policy: Policy, today: date | None, reporter: Reporter) -> Outcome:
    """Account, audit, attack and verify a finished training; write the evidence and judge it."""
    settings = trained.config.audit
    with open_executor(settings.backend, processes=settings.processes, ray_address=settings.ray_address) as executor:
        return _audit(trained, policy=policy, today=today, reporter=reporter, executor=executor)


def _audit(trained: Trained, *, policy: Policy, today: date | None, reporter: Reporter, executor: Executor) -> Outcome:
    config, root = trained.config, trained.workspace.root
    reporter.stage("accounting from the ledger")
    ledger = PrivacyLedger.open(trained.workspace.ledger)
    summary = accounting.summarize(ledger, delta=config.claim.delta, relation=config.claim.relation)
    reporter.stage("auditing with canaries")
    canaries = audit_canaries(config, trained.design, trained.run, ledger, root=root, executor=executor)
    reporter.stage("verifying noise, clip, sampling and ledger")
    results = [*canaries.checks, *_verify(trained, ledger)]
    reporter.stage("attacking the model")
    pool = membership.make_pool(config, trained.data, root=root)
    observed = membership.observe(
        config, trained.design, trained.data, pool, trained.run.model, root=root, executor=executor
    )
    attacks, attack_scores = membership.run_attacks(config, observed, pool, summary, root=root)
    results += membership.check_attacks(config, pool, attack_scores, summary, trained.workspace.out, root=root)
    summary = replace(summary, assumptions=accounting.verified_by(summary.assumptions, results))
    reporter.stage("writing evidence")
    bundle = _write(trained, summary, canaries, results, attacks, attack_scores, policy)
    verdict = gate.evaluate(bundle, policy, today=today or datetime.now(UTC).date(), recomputed=summary)
    return Outcome(evidence=bundle, accounting=summary, verdict=verdict)


def _check_sampling(trained: Trained, participation: NDArray[np.bool_]) -> list[CheckResult]:
    config, run, owner = trained.config, trained.run, client_ids(trained.data)
    if config.training.local_steps:
        return local_checks.check_sampling(config, run, participation, owner, significance=checks.SAMPLING_SHARE)
    return checks.check_sampling(
        config,
        eligible=run.eligible,
        participation=participation,
        client_of=owner,
        slots=load_slots(trained.workspace.out),
        root=trained.workspace.root,
    )


def _verify(trained: Trained, ledger: PrivacyLedger) -> list[Any]:
    run, participation = trained.run, load_participation(trained.workspace.out)
    sampling = _check_sampling(trained, participation)
    replayed = cohort_check.check_cohorts(trained.config, trained.data, participation, root=trained.workspace.root)

    def test_step(settings: RunConfig) -> list[CheckResult]:
        return step_check.check_training_step(
            settings,
            trained.data,
            noise_multiplier=trained.design.noise_multiplier,
            promised=checks.promised_noise(ledger),
            significance=checks.STEP_SHARE,
            root=trained.workspace.root,
            make_runner=engines.step_engine(trained.engine),
        )

    recorded = checks.check_ledger(
        ledger,
        planned_noise=trained.design.noise_multiplier,
        rounds_run=run.rounds_done,
        noise_draws=run.noise_draws,
    )
    step, drill = test_step(trained.config), hold_drill(trained.config, test_step)
    return [*sampling, replayed, *recorded, *step, checks.check_model(run), *drill]


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


def _write(
    trained: Trained,
    summary: AccountingSummary,
    canaries: CanaryResults,
    results: list[Any],
    attacks: tuple[Any, ...],
    attack_scores: dict[str, ScoreSet],
    policy: Policy,
) -> evidence.Evidence:
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


def run(
    config: RunConfig,
    out: Path,
    *,
    policy: Policy,
    resume: bool,
    today: date | None,
    reporter: Reporter,
    engine: str = engines.IN_PROCESS,
) -> Outcome:
    """Do the whole job; see the module docstring of `workspace` for what lies where afterwards."""
    trained = train(config, out, resume=resume, reporter=reporter, engine=engine)
    return audit(trained, policy=policy, today=today, reporter=reporter)


def with_fault(config: RunConfig, *, noise_factor: float) -> RunConfig:
    """Return the same configuration with noise that is `noise_factor` times what the ledger will say."""
    fault = config.demonstration.model_copy(update={"noise_factor": noise_factor})
    named = config.run.model_copy(update={"name": f"{config.run.name} (planted fault)"})
    return config.model_copy(update={"demonstration": fault, "run": named})
