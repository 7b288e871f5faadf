"""The whole job: train, account, audit, attack, verify, write evidence, judge. The one place that knows every part."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpaudit import accounting, evidence, gate
from dpaudit.config import RunConfig
from dpaudit.fanout import Executor, open_executor
from dpaudit.federated.data import FederatedData, prepare
from dpaudit.federated.engine import MakeRunner
from dpaudit.federated.run_files import load_participation, load_slots, open_run
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import (
    checks,
    cohort_check,
    engines,
    local_checks,
    membership,
    step_check,
)
from dpaudit.pipeline.bundle import write_bundle
from dpaudit.pipeline.canary_stage import audit_canaries
from dpaudit.pipeline.design import Design, check_delta, epsilon_after, ledger_facts, make_design
from dpaudit.pipeline.fire_drill import hold_drill
from dpaudit.pipeline.progress import Reporter
from dpaudit.pipeline.releases import client_ids
from dpaudit.pipeline.trained import Trained, protected_units
from dpaudit.pipeline.workspace import Workspace, fix_noise, open_workspace
from dpaudit.policy import Policy
from dpaudit.records import AccountingSummary, CheckResult, Verdict


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
    bundle = write_bundle(trained, summary, canaries, results, attacks, attack_scores, policy)
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
