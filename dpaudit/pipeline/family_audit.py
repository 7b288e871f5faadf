"""The audit of canary families: scores that never saw a coin, bounds that assume nothing about scores, their power.

A bound holds whatever the family is and whatever else moves along its directions, because all it rests on is that each
coin was fair, independent of the others, and that the run is as private as claimed: scores are computed from what the
server released, from directions that everybody may know, and from nothing else. The noise that the rounds of a tree
share is no exception, as the release of the whole tree is what the claim is about.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.attacks import canary
from dpaudit.config import GRADIENT_KINDS, RunConfig
from dpaudit.federated.canary_log import FamilyView, family_coins, family_participation
from dpaudit.federated.run_files import TrainingRun
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import canary_audit
from dpaudit.pipeline.design import Design, secret_sampling_rate
from dpaudit.pipeline.releases import mean_over_nodes, noise_inflation, over_nodes, seen_as_eligible, tree_starts
from dpaudit.records import Bound, PowerResult, Scalar, ScoreSet

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
FALLBACK = "one-run-max"
NO_POWER = (
    "what {kind} canaries add depends on the model that they train, which a weaker mechanism would train otherwise; "
    "train with a planted fault to see the power"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is read of a family, coins apart, as releases with independent noise, (releases, m) each."""

    observations: Floats
    sizes: Floats
    eligible: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyAudit:
    """What the audit of one family gives: `scores` and `coins` are (m,)."""

    name: str
    bounds: tuple[Bound, ...]
    powers: tuple[PowerResult, ...]
    scores: NDArray[np.float64]
    coins: Bools


def methods_of(config: RunConfig) -> tuple[str, ...]:
    """Return the methods that read families: the configured ones that assume nothing about scores, or one that does."""
    return tuple(m for m in canary_audit.score_methods(config) if m.startswith("one-run")) or (FALLBACK,)


def observed(config: RunConfig, run: TrainingRun, ledger: PrivacyLedger, view: FamilyView) -> Observed:
    """Return what is scored: rounds as they stand, or sums over the nodes of a tree (dp-ftrl)."""
    eligible = seen_as_eligible(config, run.out, view.eligible, slot=view.slot)
    if config.training.algorithm != "dp-ftrl":
        shown = _released(ledger, len(eligible))
        return Observed(observations=view.observations[shown], sizes=view.sizes[shown], eligible=eligible[shown])
    starts = tree_starts(ledger, len(eligible))
    return Observed(
        observations=over_nodes(np.asarray(view.observations), starts),
        sizes=mean_over_nodes(np.asarray(view.sizes), eligible, starts),
        eligible=over_nodes(eligible, starts) > 0,
    )


def _released(ledger: PrivacyLedger, rounds: int) -> Bools | slice:
    """Return which rounds released anything, as an index; all of them as a slice, which copies nothing."""
    shown = ~np.isnan(noise_inflation(ledger, rounds))
    return slice(None) if shown.all() else shown


def scores_of(config: RunConfig, design: Design, found: Observed) -> NDArray[np.float64]:
    """Return one score per canary; the coins are not an input."""
    return canary.background_scores(
        found.observations,
        found.sizes,
        found.eligible,
        noise_multiplier=design.noise_multiplier,
        secret_sampling_rate=secret_sampling_rate(config),
    )


def audit_family(
    config: RunConfig,
    design: Design,
    run: TrainingRun,
    ledger: PrivacyLedger,
    view: FamilyView,
    *,
    among: int,
    root: int,
    **simulation: Any,
) -> FamilyAudit:
    """Score a family, join the scores with its coins, and bound epsilon.

    Args:
        config: the run.
        design: its mechanism.
        run: what the training left.
        ledger: its ledger.
        view: the family.
        among: how many bounds share the error of the audit.
        root: root seed.
        **simulation: `inflation`, `executor` and `cache`, as for `canary_audit.power`.
    """
    found, methods = observed(config, run, ledger, view), methods_of(config)
    scores, coins = scores_of(config, design, found), family_coins(run.out, view.name)
    shared, split = canary_audit.sharing_error(config, among=among), canary_audit.join(scores, coins)
    seed = _rng.seed_of(root, f"estimation/{view.name}")
    bounds = canary_audit.bounds_of(shared, methods, split, seed=seed)
    facts: dict[str, Scalar] = {"canary_kind": view.kind, "error_shared_among": among}
    if view.kind in GRADIENT_KINDS:
        present = family_participation(run.out, view)
        rest, power_seed = _rest(config, ledger, found, present), _rng.seed_of(root, f"power/{view.name}")
        powers = _powers(shared, design, found, rest, seed=power_seed, **simulation)
    else:
        powers = tuple(canary_audit.no_power(shared, m, NO_POWER.format(kind=view.kind)) for m in methods)
    return FamilyAudit(
        name=view.name,
        bounds=tuple(replace(b, canaries=view.name, details={**b.details, **facts}) for b in bounds),
        powers=tuple(replace(p, canaries=view.name) for p in powers),
        scores=scores,
        coins=coins,
    )


def _rest(config: RunConfig, ledger: PrivacyLedger, found: Observed, present: Bools) -> NDArray[np.float64]:
    """Return what is left of the observations without the canaries' own part: noise, real units, other canaries."""
    if config.training.algorithm == "dp-ftrl":
        there: NDArray[Any] = over_nodes(present, tree_starts(ledger, len(present)))
    else:
        there = present[_released(ledger, len(present))]
    return np.asarray(found.observations - found.sizes * there, dtype=np.float64)


def others(rest: NDArray[np.float64], noise_multiplier: float) -> tuple[float, float]:
    """Return two variances of what others add along the canaries' directions: the lasting part, and the rest of it.

    Two components of variance (of a canary over all releases, and of single releases), less that of the noise.
    """
    releases = len(rest)
    single = float(rest.var(axis=1).mean())
    lasting = (releases * float(rest.mean(axis=0).var()) - single) / (releases - 1) if releases > 1 else 0.0
    lasting = max(0.0, lasting)
    return lasting, max(0.0, single - lasting - noise_multiplier**2)


def _powers(
    config: RunConfig, design: Design, found: Observed, rest: NDArray[np.float64], *, seed: int, **simulation: Any
) -> tuple[PowerResult, ...]:
    """Simulate the audit with weaker noise, and with others adding as much as they did in this run."""
    lasting, passing = others(rest, simulation["inflation"] * design.noise_multiplier)
    simulate = partial(
        simulated_scores, config=config, design=design, sizes=np.asarray(found.sizes), eligible=found.eligible,
        lasting=lasting, passing=passing,
    )  # fmt: skip
    return canary_audit.powers_of(config, design, methods_of(config), simulate, seed=seed, **simulation)


def simulated_scores(
    rng: np.random.Generator,
    *,
    config: RunConfig,
    design: Design,
    sizes: Floats,
    eligible: Bools,
    lasting: float,
    passing: float,
    noise_multiplier: float,
) -> ScoreSet:
    """Draw the scores that this audit would see if the noise really were `noise_multiplier`; see `others`."""
    canaries = eligible.shape[1]
    coins = np.asarray(rng.random(canaries) < 0.5)
    present = eligible & coins & (rng.random(eligible.shape, dtype=np.float32) < secret_sampling_rate(config))
    seen = rng.standard_normal(eligible.shape) * np.sqrt(noise_multiplier**2 + passing)
    seen += sizes * present + rng.standard_normal(canaries) * np.sqrt(lasting)
    scores = scores_of(config, design, Observed(observations=seen, sizes=sizes, eligible=eligible))
    return canary_audit.join(scores, coins)
