"""A synthetic but realistic evidence bundle, and ways to make it worse; loaded by tests/conftest.py."""

from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dpaudit import events as ev
from dpaudit import evidence, gdp
from dpaudit.ledger import PrivacyLedger
from dpaudit.policy import load_policy
from dpaudit.records import (
    AccountingSummary,
    Assumption,
    AssumptionStatus,
    AttackResult,
    Bound,
    CheckResult,
    Claim,
    Direction,
    Family,
    PowerResult,
    RatePoint,
    Relation,
    ScoreSet,
    Status,
    Unit,
)

TODAY = date(2026, 11, 23)
CREATED = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ROUNDS, EPSILON, DELTA, MU = 30, 6.0, 1e-5, 1.2
RELATION = Relation.ADD_OR_REMOVE_ONE
MODEL, COMMIT = "a" * 64, "0123456789abcdef0123456789abcdef01234567"


def write_ledger(
    path: Path | None, *, rounds: int = ROUNDS, event: ev.Event | None = None, **facts: Any
) -> PrivacyLedger:
    header = {
        "unit": Unit.EXAMPLE,
        "relation": RELATION,
        "sampler": "poisson",
        "clip_norm": 1.0,
        "noise_multiplier": 0.9,
        **facts,
    }
    ledger = PrivacyLedger(path, **{key: value for key, value in header.items() if value is not None})
    event = event or ev.PoissonSampled(sampling_rate=0.1, event=ev.Gaussian(noise_multiplier=0.9))
    for number in range(1, rounds + 1):
        ledger.record(event, round=number)
    return ledger


def summary_of(ledger: PrivacyLedger, **changes: Any) -> AccountingSummary:
    """A trade-off of mu-GDP stands in for the accountants: exact, and fast."""
    return AccountingSummary(**{**_numbers(), "ledger_digest": ledger.digest, **changes})


@cache
def _numbers() -> dict[str, Any]:
    fprs = np.unique(np.concatenate([np.geomspace(1e-4, 1, 60), np.linspace(0, 1, 41)]))
    spent = gdp.gdp_epsilon(MU, DELTA)
    return {
        "delta": DELTA,
        "relation": RELATION,
        "epsilon_pld": spent,
        "epsilon_rdp": spent * 1.1,
        "epsilon_no_amplification": spent * 4,
        "mu": MU,
        "mu_regret": 0.004,
        "profile": tuple((d, gdp.gdp_epsilon(MU, d)) for d in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)),
        "trade_off": tuple((float(x), float(fnr_at(x))) for x in fprs),
        "tpr_ceilings": tuple((x, 1 - float(fnr_at(x))) for x in (0.001, 0.01, 0.1)),
        "epsilon_over_rounds": tuple(
            (n, float(gdp.gdp_epsilon(MU * (n / ROUNDS) ** 0.5, DELTA))) for n in range(1, ROUNDS + 1)
        ),
        "assumptions": (
            Assumption(
                id="sampler",
                text="Every example is sampled by its own secret coin.",
                status=AssumptionStatus.VERIFIED,
                evidence="check sampling.rate",
            ),
            Assumption(id="server", text="The server that adds the noise is trusted."),
        ),
        "library": "dp-accounting 0.6.0",
    }


def fnr_at(fpr: float) -> float:
    from scipy.special import ndtr, ndtri

    return float(ndtr(ndtri(1 - fpr) - MU)) if 0 < fpr < 1 else 1.0 - fpr


def bound(**changes: Any) -> Bound:
    values: dict[str, Any] = {
        "method": "mean-shift",
        "family": Family.INDEPENDENT_CANARIES,
        "direction": Direction.LOWER,
        "epsilon": 2.4,
        "mu": 0.7,
        "delta": DELTA,
        "relation": RELATION,
        "confidence": 0.95,
        "n_member": 502,
        "n_non_member": 498,
    }
    return Bound(**{**values, **changes})


OWN_NUMBERS = {
    "attack.alive": {"statistic": 0.9, "threshold": 0.5, "p_value": None, "significance": 0.01},
    "attack.worst_group": {"statistic": 0.52, "threshold": 0.8, "p_value": None, "significance": 0.05},
    "drill.half-noise": {"statistic": 2.0, "threshold": 1.0, "p_value": None, "significance": None},
}


def check(identity: str, **changes: Any) -> CheckResult:
    changes = {**OWN_NUMBERS.get(identity, {}), **changes}
    values: dict[str, Any] = {
        "id": identity,
        "status": Status.PASS,
        "statistic": 1.01,
        "threshold": 1.2,
        "p_value": 0.4,
        "significance": 0.002,
        "detail": f"{identity} is as recorded",
        "n": 15000,
    }
    return CheckResult(**{**values, **changes})


def attack(name: str = "lira", **changes: Any) -> AttackResult:
    values: dict[str, Any] = {
        "attack": name,
        "threat_model": "black box with reference models",
        "auc": 0.56,
        "auc_ci": (0.53, 0.59),
        "tpr_at_fpr": (
            RatePoint(fpr=0.1, tpr=0.14, ci=(0.11, 0.17)),
            RatePoint(fpr=0.01, tpr=0.018, ci=(0.011, 0.028)),
            RatePoint(fpr=0.001, tpr=None, reason="too few non-members: 450"),
        ),
        "balanced_accuracy": 0.54,
        "advantage": 0.08,
        "n_member": 1347,
        "n_non_member": 450,
    }
    return AttackResult(**{**values, **changes})


def power(**changes: Any) -> PowerResult:
    values: dict[str, Any] = {
        "method": "mean-shift",
        "family": Family.INDEPENDENT_CANARIES,
        "claim_epsilon": EPSILON,
        "factor": 2.0,
        "alternative_epsilon": 2 * EPSILON,
        "power": 0.97,
        "power_ci": (0.915, 0.994),
        "trials": 100,
        "largest_certifiable_epsilon": 30.0,
    }
    return PowerResult(**{**values, **changes})


CHECKS = (
    "noise.scale",
    "noise.shape",
    "noise.reuse",
    "clip.contribution",
    "sampling.rate",
    "ledger.rounds",
    "attack.comparable",
    "attack.alive",
    "attack.worst_group",
    "drill.half-noise",
)


def parts(folder: Path, **changes: Any) -> dict[str, Any]:
    """Everything that write_evidence takes, for an honest run; `changes` replaces parts."""
    path = folder / "ledger.jsonl"
    ledger = PrivacyLedger.open(path) if path.exists() else write_ledger(path)
    rng = np.random.default_rng(7)
    coins = rng.random(1000) < 0.5
    canary_scores = rng.standard_normal(1000) + np.where(coins, 0.7, 0.0)
    lira = ScoreSet(member=rng.standard_normal(1347) + 0.2, non_member=rng.standard_normal(450))
    values: dict[str, Any] = {
        "claim": Claim(epsilon=EPSILON, delta=DELTA, unit=Unit.EXAMPLE, relation=RELATION, model="digits 1.0"),
        "ledger_path": path,
        "accounting": summary_of(ledger),
        "bounds": (bound(), bound(method="one-run", family=Family.ASSUMPTION_FREE, epsilon=1.1, mu=None, guesses=200)),
        "attacks": (attack("loss", auc=0.53, auc_ci=(0.5, 0.56)), attack()),
        "checks": tuple(check(name) for name in CHECKS),
        "powers": (power(), power(method="one-run", family=Family.ASSUMPTION_FREE, power=0.2, power_ci=(0.13, 0.29))),
        "training": {
            "name": "digits",
            "algorithm": "dp-fedsgd",
            "rounds": ROUNDS,
            "clients": 50,
            "units": 1347,
            "unit": "example",
            "sampler": "PoissonSampled",
            "clip_norm": 1.0,
            "noise_multiplier": 0.9,
            "noise_draws": ROUNDS,
            "holdout_accuracy": 0.913,
            "seconds": 14.2,
            "aggregator": "gaussian",
            "canaries": 1000,
            "data": "digits",
            "seed_origin": "os-entropy",
            "trained_at": "2026-11-20T11:50:00+00:00",
            "model_sha256": MODEL,
        },
        "policy": load_policy("standard").facts,
        "provenance": {
            "code": {"commit": COMMIT, "dirty": False},
            "config_sha256": "c" * 64,
            "command": "dpaudit run digits.toml --out runs/digits",
        },
        "environment": {"dpaudit": "0.1.0", "python": "3.11.2", "packages": {"numpy": "2.4.6", "tensorflow": None}},
        "curves": {
            "canaries": evidence.curve_of(ScoreSet(member=canary_scores[coins], non_member=canary_scores[~coins])),
            "lira": evidence.curve_of(lira),
        },
        "scores": {"canaries": canary_scores},
        "coins": coins,
        "created": CREATED,
    }
    return {**values, **changes}


def make(folder: Path, **changes: Any) -> evidence.Evidence:
    """Write a bundle below `folder` and return it."""
    return evidence.write_evidence(folder / "evidence", **parts(folder, **changes))


def real(folder: Path, **changes: Any) -> evidence.Evidence:
    """A bundle whose accounting is what the accountants really give for its ledger."""
    from dpaudit import accounting

    path = folder / "ledger.jsonl"
    summary = accounting.summarize(write_ledger(path), delta=DELTA, relation=RELATION)
    return make(folder, **{"accounting": summary, **changes})


def fresh(bundle: evidence.Evidence) -> AccountingSummary:
    """What recomputation gives for an honest bundle."""
    assert bundle.ledger is not None
    return summary_of(bundle.ledger)


def edited(bundle: evidence.Evidence, **changes: Any) -> evidence.Evidence:
    """A bundle in memory with other content, for rules that read only the record."""
    return replace(bundle, **changes)
