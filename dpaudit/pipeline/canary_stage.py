"""The canary stage of a run: every set of canaries is scored, joined with its coins, bounded and checked."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.config import RunConfig
from dpaudit.fanout import Executor
from dpaudit.federated.canary_log import FamilyView, family_coins, family_participation, open_family
from dpaudit.federated.run_files import (
    TrainingRun,
    load_canary_participation,
    load_client_noise,
    load_coins,
    load_model_noise,
    load_slots,
)
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import canary_audit, checks, local_checks, per_step
from dpaudit.pipeline.design import Design
from dpaudit.pipeline.family_audit import audit_family, methods_of
from dpaudit.pipeline.releases import releases_of
from dpaudit.records import Bound, CheckResult, PowerResult

Bools = NDArray[np.bool_]
SIMULATIONS = "private/simulated-audits"
DIRAC, DIRAC_COINS = "canaries", "coins"
"""Names of the scores and of the coins of the Dirac canaries in the evidence; families have their own."""
_NOT_KNOWN = (
    "with secure aggregation nobody knows a sum without its noise, so that the noise on the model's own coordinates "
    "cannot be tested; the coordinates of the canaries carry the same shares"
)


@dataclass(slots=True, kw_only=True)
class CanaryResults:
    """What goes into the evidence; `scores` and `coins` by set of canaries."""

    bounds: list[Bound] = field(default_factory=list)
    powers: list[PowerResult] = field(default_factory=list)
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    coins: dict[str, Bools] = field(default_factory=dict)
    checks: list[CheckResult] = field(default_factory=list)


def audit_canaries(
    config: RunConfig, design: Design, run: TrainingRun, ledger: PrivacyLedger, *, root: int, executor: Executor
) -> CanaryResults:
    """Audit the Dirac canaries and every family of a run; without any, the results are empty.

    Simulations of the power run on `executor`; those that are done are kept in the folder of the run.
    """
    found = CanaryResults()
    if not config.canaries.total:
        return found
    among = bounds_that_share(config)
    inflation = checks.promised_noise(ledger) / design.noise_multiplier
    simulation = {"inflation": inflation, "executor": executor, "cache": run.out / SIMULATIONS}
    if config.canaries.count:
        _audit_dirac(found, canary_audit.sharing_error(config, among=among), design, run, ledger, root, simulation)
    views = [open_family(run.out, family.name, run.rounds_done) for family in config.canaries.family]
    found.checks += _check_participation(config, run, views)
    for view in views:
        audited = audit_family(config, design, run, ledger, view, among=among, root=root, **simulation)
        found.bounds += audited.bounds
        found.powers += audited.powers
        found.scores[view.name], found.coins[view.name] = audited.scores, audited.coins
    return found


def bounds_that_share(config: RunConfig) -> int:
    """Return among how many bounds the error of the audit is shared: all of them, once there are families.

    Without families each keeps it whole, as the bounds of one set of canaries always did.
    """
    families = len(config.canaries.family)
    dirac = len(config.audit.methods) if config.canaries.count else 0
    return dirac + families * len(methods_of(config)) if families else 1


def _audit_dirac(
    found: CanaryResults,
    config: RunConfig,
    design: Design,
    run: TrainingRun,
    ledger: PrivacyLedger,
    root: int,
    simulation: dict[str, Any],
) -> None:
    releases = releases_of(config, run, ledger, load_canary_participation(run.out))
    view = canary_audit.CanaryView(observations=releases.observations, eligible=releases.eligible)
    scores, coins = canary_audit.score_canaries(config, design, view), load_coins(run.out)
    squares, parameters = load_model_noise(run.out)
    found.bounds += canary_audit.lower_bounds(config, canary_audit.join(scores, coins), root=root)
    found.powers += canary_audit.power(config, design, view, root=root, **simulation)
    if per_step.METHOD in config.audit.methods:
        slots, released = design.slots, releases.released
        values, present = np.asarray(releases.observations)[released], releases.present[released]
        found.bounds.append(per_step.lower_bound(config, values, present, root=root, slots=slots))
        found.powers.append(per_step.power(config, present, root=root, slots=slots, **simulation))
    found.scores[DIRAC], found.coins[DIRAC_COINS] = scores, coins
    of_model = (squares[releases.plain], 0 if config.training.secure_aggregation else parameters)
    if releases.partial:
        found.checks += local_checks.check_noise(
            ledger, releases, coins, run.canary_client, client_noise=load_client_noise(run.out), model_noise=of_model,
            promised=checks.promised_noise(ledger), significance=checks.NOISE_SHARE,
        )  # fmt: skip
        return
    more = None if np.all(releases.inflation == 1) else releases.inflation
    noise = checks.check_noise(ledger, view, coins, releases.present, of_model, more)
    if config.training.secure_aggregation:
        noise = [replace(check, detail=_NOT_KNOWN) if check.id == "noise.model" else check for check in noise]
    found.checks += noise


def _check_participation(config: RunConfig, run: TrainingRun, views: list[FamilyView]) -> list[CheckResult]:
    """Check the participation of the canaries of all sets together: one sampler is said to choose them all."""
    slots = load_slots(run.out)
    return checks.check_canaries(
        config,
        eligible=np.hstack([run.canary_eligible(), *(view.eligible for view in views)]),
        coins=np.concatenate([load_coins(run.out), *(family_coins(run.out, view.name) for view in views)]),
        participation=np.hstack(
            [load_canary_participation(run.out), *(family_participation(run.out, view) for view in views)]
        ),
        chosen=None if slots is None else slots[1][:, run.units :],
    )
