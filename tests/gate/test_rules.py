"""Every rule, every status: what is planted in an honest bundle, and what the rule must say of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dpaudit import events as ev
from dpaudit.evidence import Evidence
from dpaudit.gate import evaluate
from dpaudit.policy import parse_policy
from dpaudit.policy_model import CODES
from dpaudit.records import (
    BoundStatus,
    Direction,
    Family,
    Finding,
    RatePoint,
    Relation,
    Status,
    Unit,
)
from dpaudit.rules import CATALOGUE, RULES

Change = Callable[[ModuleType, Evidence], dict[str, Any]]
PASS, FAIL, UNCLEAR, IDLE = Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.NOT_RUN


@pytest.fixture(scope="module")
def honest(factory: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return factory.make(tmp_path_factory.mktemp("honest"))


def ask(factory: ModuleType, bundle: Evidence, rule: str, policy: str = "", *, recompute: bool = True) -> Finding:
    chosen = parse_policy(policy, source="test")
    fresh = factory.fresh(bundle) if recompute and bundle.ledger is not None else None
    verdict = evaluate(bundle, chosen, today=factory.TODAY, recomputed=fresh)
    (finding,) = [finding for finding in verdict.findings if finding.rule == rule]
    assert (finding.fix is not None) == (finding.status in (FAIL, UNCLEAR, Status.WAIVED))
    return finding


def claimed(**changes: Any) -> Change:
    return lambda _, e: {"claim": replace(e.claim, **changes)}


def accounted(**changes: Any) -> Change:
    return lambda _, e: {"accounting": replace(e.accounting, **changes)}


def logged(**facts: Any) -> Change:
    """Another ledger, with accounting that was made from it."""

    def change(f: ModuleType, _: Evidence) -> dict[str, Any]:
        ledger = f.write_ledger(None, **facts)
        return {"ledger": ledger, "accounting": f.summary_of(ledger)}

    return change


def checked(identity: str, **changes: Any) -> Change:
    """One check with another result."""

    def change(f: ModuleType, e: Evidence) -> dict[str, Any]:
        return {"checks": tuple(f.check(identity, **changes) if c.id == identity else c for c in e.checks)}

    return change


def unchecked(*prefixes: str) -> Change:
    return lambda _, e: {"checks": tuple(c for c in e.checks if not c.id.startswith(prefixes))}


def bounded(*bounds: dict[str, Any]) -> Change:
    return lambda f, _: {"bounds": tuple(f.bound(**changes) for changes in bounds)}


def powered(**changes: Any) -> Change:
    return lambda f, _: {"powers": (f.power(**changes),)}


def with_family(
    inside: int | None,
    outside: int,
    *,
    on_file: tuple[int, int] | None = None,
    power: float | None = 0.1,
    **changes: Any,
) -> Change:
    """The Dirac canaries, whose power is left out, and a family of random directions with so many in and out."""
    tossed = on_file or (inside or 0, outside)
    values = {"method": "one-run", "family": Family.ASSUMPTION_FREE, "epsilon": 0.4, "canaries": "random", **changes}
    interval = None if power is None else (0.9 * power, power)

    def change(f: ModuleType, e: Evidence) -> dict[str, Any]:
        family = f.bound(**values, n_member=inside, n_non_member=outside)
        known = {"power": power, "power_ci": interval, "reason": None if power is not None else "not simulated"}
        result = f.power(method="one-run", family=Family.ASSUMPTION_FREE, canaries="random", **known)
        coins = {**e.coins, "random": np.arange(sum(tossed)) < tossed[0]}
        return {"bounds": (*e.bounds, family), "powers": (result,), "coins": coins}

    return change


def attacked(*attacks: dict[str, Any]) -> Change:
    return lambda f, _: {"attacks": tuple(f.attack(**changes) for changes in attacks)}


def trained(**changes: Any) -> Change:
    return lambda _, e: {"training": {k: v for k, v in {**e.training, **changes}.items() if v is not None}}


def dated(*, evidence: int = 0, training: int = 0) -> Change:
    """Evidence and training so many days older than they are."""

    def change(f: ModuleType, e: Evidence) -> dict[str, Any]:
        when = (f.CREATED - timedelta(days=training)).isoformat()
        return {"created": f.CREATED - timedelta(days=evidence), "training": {**e.training, "trained_at": when}}

    return change


def made_by(**changes: Any) -> Change:
    """Other code."""
    code = {"commit": "0123456789abcdef", "dirty": False, **changes}
    return lambda *_: {"provenance": {"code": code}}


def nothing(_: ModuleType, __: Evidence) -> dict[str, Any]:
    return {}


def low(value: float) -> dict[str, Any]:
    return {"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=value + 0.05, ci=(value, value + 0.1)),)}


EVENT = ev.Gaussian(noise_multiplier=1.0)
NO_LEDGER: Change = lambda *_: {"ledger": None}  # noqa: E731
RATES = {"kind": "poisson", "client_rate": 0.5, "example_rate": 0.2, "dropout_rate": 0.05}
NESTED = ev.PubliclySampled(sampling_rate=0.5, event=ev.PoissonSampled(sampling_rate=0.2, event=EVENT))
CEILING = "[[attacks.ceiling]]\nfpr = 0.01\n"

CASES: list[tuple[str, str, Change, str, Status]] = [
    ("DPA001", "honest", nothing, "", PASS),
    ("DPA001", "claims less than was spent", claimed(epsilon=5.0), "", FAIL),
    ("DPA001", "claims a hair less than was spent", claimed(epsilon=5.4126), "", FAIL),
    ("DPA001", "claims more than the policy allows", nothing, "[claim]\nepsilon = 3.0", FAIL),
    ("DPA001", "no ledger", NO_LEDGER, "", UNCLEAR),
    ("DPA001", "stored accounting is better than the ledger's", accounted(epsilon_pld=1.0), "", FAIL),
    (
        "DPA001",
        "stored ceilings are lower",
        accounted(tpr_ceilings=((0.001, 0.002), (0.01, 0.02), (0.1, 0.2))),
        "",
        FAIL,
    ),
    ("DPA001", "stored rounds are lower", accounted(epsilon_over_rounds=((1, 0.1), (2, 0.2))), "", FAIL),
    ("DPA001", "stored PLD is a little better", accounted(epsilon_pld=5.38), "", FAIL),
    ("DPA001", "stored RDP is of another release", accounted(epsilon_rdp=5.99), "", PASS),
    ("DPA001", "stored RDP is much better", accounted(epsilon_rdp=5.5), "", FAIL),
    ("DPA001", "stored for another ledger", accounted(ledger_digest="0" * 64), "", FAIL),
    ("DPA001", "stored for another relation", accounted(relation=Relation.REPLACE_ONE), "", FAIL),
    ("DPA001", "stored nothing, recomputed all", lambda *_: {"accounting": None}, "", PASS),
    ("DPA001", "claim at another delta", claimed(delta=1e-6), "", UNCLEAR),
    ("DPA001", "claim for another relation", claimed(relation=Relation.REPLACE_ONE), "", UNCLEAR),
    ("DPA002", "honest", nothing, "", PASS),
    ("DPA003", "honest", nothing, "", PASS),
    ("DPA003", "shuffled, accounted as poisson", logged(sampler="shuffle"), "", FAIL),
    ("DPA003", "fixed order, accounted as poisson", logged(sampler="none"), "", FAIL),
    ("DPA003", "not recorded", logged(sampler=None), "", UNCLEAR),
    ("DPA003", "not recorded, and not needed", logged(sampler=None, event=EVENT), "", PASS),
    (
        "DPA003",
        "not recorded, but asked for",
        logged(sampler=None, event=EVENT),
        '[claim]\nsampler = "poisson"',
        UNCLEAR,
    ),
    ("DPA003", "another than the policy's", nothing, '[claim]\nsampler = "shuffle"', FAIL),
    ("DPA003", "two levels, as accounted", logged(sampler=RATES, event=NESTED), "", PASS),
    (
        "DPA003",
        "two levels, accounted as one with the product of the rates",
        logged(sampler=RATES, event=ev.PoissonSampled(sampling_rate=0.1, event=EVENT)),
        "",
        FAIL,
    ),
    ("DPA003", "one of two levels shuffled", logged(sampler={"client": "poisson", "example": "shuffle"}), "", UNCLEAR),
    (
        "DPA003",
        "composed, one part shuffled",
        logged(
            event=ev.Composed(
                events=(NESTED, ev.SelfComposed(count=2, event=ev.ShuffledBatches(event=EVENT, batches=3)))
            )
        ),
        "",
        FAIL,
    ),
    (
        "DPA003",
        "without replacement, accounted so",
        logged(
            sampler="without_replacement",
            event=ev.SampledWithoutReplacement(population=100, sample_size=10, event=EVENT),
        ),
        "",
        PASS,
    ),
    (
        "DPA003",
        "truncated accounting of plain poisson",
        logged(
            event=ev.TruncatedPoissonGaussian(dataset_size=9, sampling_rate=0.1, max_batch_size=3, noise_multiplier=1)
        ),
        "",
        FAIL,
    ),
    ("DPA003", "no ledger", NO_LEDGER, "", UNCLEAR),
    ("DPA004", "honest", nothing, "", PASS),
    ("DPA004", "delta = 1/N", trained(units=100_000), "", FAIL),
    ("DPA004", "delta above the policy's", nothing, "[claim]\ndelta = 1e-6", FAIL),
    ("DPA004", "N unknown", trained(units=None), "", UNCLEAR),
    ("DPA004", "N is a truth value", trained(units=True), "", UNCLEAR),
    ("DPA004", "N only in the ledger, and large", logged(units=1_000_000), "", FAIL),
    ("DPA005", "honest", nothing, "", PASS),
    ("DPA005", "claimed for clients", claimed(unit=Unit.CLIENT), "", FAIL),
    ("DPA005", "claimed for replacing", claimed(relation=Relation.REPLACE_ONE), "", FAIL),
    ("DPA005", "policy asks for clients", nothing, '[claim]\nunit = "client"', FAIL),
    ("DPA005", "policy asks for replacing", nothing, '[claim]\nneighbouring = "replace-one"', FAIL),
    ("DPA005", "unit not recorded", logged(unit=None), "", UNCLEAR),
    ("DPA005", "relation not recorded", logged(relation=None), "", UNCLEAR),
    ("DPA005", "no ledger", NO_LEDGER, "", UNCLEAR),
    ("DPA007", "honest", nothing, "", PASS),
    ("DPA007", "noise rejected", checked("noise.scale", status=FAIL, refuted="noise 0.9"), "", FAIL),
    ("DPA007", "clip rejected", checked("clip.contribution", status=FAIL), "", FAIL),
    ("DPA007", "could not tell", checked("noise.shape", status=UNCLEAR), "", UNCLEAR),
    ("DPA007", "skipped", checked("noise.shape", status=IDLE), "", UNCLEAR),
    ("DPA007", "said to be waived by the evidence", checked("noise.shape", status=Status.WAIVED), "", UNCLEAR),
    ("DPA007", "passes against its own p-value", checked("noise.scale", p_value=1e-9), "", UNCLEAR),
    ("DPA007", "no noise check", unchecked("noise."), "", UNCLEAR),
    ("DPA007", "no clip check", unchecked("clip."), "", UNCLEAR),
    ("DPA007", "no checks", lambda *_: {"checks": ()}, "", UNCLEAR),
    ("DPA007", "none, and none asked", unchecked("noise.", "clip."), '[audit]\nchecks = ["sampling."]', IDLE),
    ("DPA101", "honest", nothing, "", PASS),
    ("DPA101", "above the claim", bounded({"epsilon": 6.5}), "", FAIL),
    ("DPA101", "a hair above the claim", bounded({"epsilon": 6.000_001}), "", FAIL),
    ("DPA101", "exactly the claim", bounded({"epsilon": 6.0}), "", PASS),
    ("DPA101", "one of two above", bounded({}, {"method": "one-run", "epsilon": 7.0}), "", FAIL),
    ("DPA101", "a family's above", with_family(60, 40, epsilon=7.0), "", FAIL),
    (
        "DPA101",
        "a family's above, with too little confidence",
        with_family(60, 40, epsilon=7.0, confidence=0.9),
        "",
        PASS,
    ),
    ("DPA101", "heuristic above", bounded({"epsilon": 9.0, "family": Family.HEURISTIC}), "", UNCLEAR),
    ("DPA101", "credible above, another within", bounded({}, {"epsilon": 9.0, "family": Family.CREDIBLE}), "", PASS),
    ("DPA101", "family not accepted", nothing, '[audit]\nfamilies = ["gaussian"]', UNCLEAR),
    ("DPA101", "method not accepted", nothing, '[audit]\nmethods = ["bayes"]', UNCLEAR),
    ("DPA101", "assumption refuted", bounded({"status": BoundStatus.ASSUMPTION_REFUTED, "epsilon": 9.0}), "", UNCLEAR),
    ("DPA101", "no number", bounded({"epsilon": None, "reason": "too few"}), "", UNCLEAR),
    ("DPA101", "another delta, within", bounded({"delta": 1e-6}), "", UNCLEAR),
    ("DPA101", "another delta, above", bounded({}, {"delta": 1e-6, "epsilon": 9.0}), "", UNCLEAR),
    ("DPA101", "another relation", bounded({"relation": Relation.REPLACE_ONE, "epsilon": 9.0}), "", UNCLEAR),
    ("DPA101", "too little confidence", bounded({"confidence": 0.9, "epsilon": 9.0}), "", UNCLEAR),
    ("DPA101", "no confidence", bounded({"confidence": None, "epsilon": 9.0}), "", UNCLEAR),
    (
        "DPA101",
        "an upper bound is no lower bound",
        bounded({"direction": Direction.UPPER, "epsilon": 9.0}),
        "",
        UNCLEAR,
    ),
    ("DPA101", "no audit", bounded(), "", UNCLEAR),
    ("DPA102", "honest", nothing, "", PASS),
    ("DPA102", "sampling rejected", checked("sampling.rate", status=FAIL), "", FAIL),
    ("DPA102", "ledger rejected", checked("ledger.rounds", status=FAIL), "", FAIL),
    ("DPA102", "no sampling check", unchecked("sampling."), "", UNCLEAR),
    ("DPA102", "no ledger check, strict", unchecked("ledger."), 'profile = "strict"', UNCLEAR),
    ("DPA102", "an unknown check rejects", lambda f, e: {"checks": (*e.checks, f.check("own", status=FAIL))}, "", FAIL),
    (
        "DPA102",
        "an unknown check crashed",
        lambda f, e: {"checks": (*e.checks, f.check("own", status=UNCLEAR))},
        "",
        UNCLEAR,
    ),
    ("DPA103", "honest", nothing, "", PASS),
    ("DPA103", "too weak", powered(power=0.5, power_ci=(0.4, 0.6)), "", UNCLEAR),
    ("DPA103", "enough, but not with confidence", powered(power=0.82, power_ci=(0.73, 0.89)), "", UNCLEAR),
    ("DPA103", "no interval", powered(power_ci=None), "", UNCLEAR),
    ("DPA103", "an interval that does not hold the power", powered(power=0.2), "", UNCLEAR),
    ("DPA103", "no trials", powered(trials=0), "", UNCLEAR),
    ("DPA103", "not simulated", lambda *_: {"powers": ()}, "", UNCLEAR),
    ("DPA103", "crashed", powered(power=None, reason="cannot calibrate"), "", UNCLEAR),
    ("DPA103", "family not accepted", powered(family=Family.HEURISTIC), "", UNCLEAR),
    ("DPA103", "of a method that gave no bound", powered(method="gdp"), "", UNCLEAR),
    ("DPA103", "of a family that gave no bound", powered(canaries="random"), "", UNCLEAR),
    ("DPA103", "of a family that gave one", with_family(60, 40, power=0.97), "", PASS),
    ("DPA103", "of a family, not known", with_family(60, 40, power=None), "", UNCLEAR),
    ("DPA103", "for a smaller claim", powered(claim_epsilon=3.0, alternative_epsilon=6.0), "", UNCLEAR),
    ("DPA103", "against a farther alternative", powered(alternative_epsilon=20.0), "", UNCLEAR),
    ("DPA103", "against a nearer alternative", powered(alternative_epsilon=9.0), "", PASS),
    ("DPA103", "for a larger claim", powered(claim_epsilon=7.0), "", PASS),
    ("DPA103", "a smaller factor is asked", nothing, "[audit]\ndetect_factor = 1.5", UNCLEAR),
    ("DPA104", "honest", nothing, "", PASS),
    ("DPA104", "unfair coins", bounded({"n_member": 600, "n_non_member": 400}), "", FAIL),
    ("DPA104", "all in", bounded({"n_member": 1000, "n_non_member": 0}), "", FAIL),
    ("DPA104", "none", bounded({"n_member": 0, "n_non_member": 0}), "", UNCLEAR),
    ("DPA104", "not recorded", bounded({"n_member": None}), "", UNCLEAR),
    ("DPA104", "negative", bounded({"n_member": -5, "n_non_member": 5}), "", UNCLEAR),
    ("DPA104", "no audit", bounded(), "", UNCLEAR),
    ("DPA104", "two worlds, no coins", bounded({"method": "gdp", "n_member": 9, "n_non_member": 99}), "", IDLE),
    ("DPA104", "unfair file of coins", lambda *_: {"coins": {"coins": np.arange(1000) < 600}}, "", FAIL),
    ("DPA104", "a file of coins that holds none", lambda *_: {"coins": {"coins": np.arange(1000)}}, "", UNCLEAR),
    ("DPA104", "a family beside the others", with_family(60, 40), "", PASS),
    ("DPA104", "a family with unfair coins", with_family(95, 5), "", FAIL),
    ("DPA104", "a family with other coins than its file", with_family(60, 40, on_file=(61, 39)), "", FAIL),
    ("DPA104", "a family's coins of which no bound speaks", with_family(60, 40, canaries=None), "", FAIL),
    ("DPA104", "a family whose bound counts nothing", with_family(None, 40), "", UNCLEAR),
    ("DPA201", "no ceiling", nothing, "", IDLE),
    ("DPA201", "below", nothing, CEILING + "tpr = 0.05\nmin_non_members = 400", PASS),
    ("DPA201", "estimate below, upper limit above", nothing, CEILING + "tpr = 0.02\nmin_non_members = 400", FAIL),
    (
        "DPA201",
        "the policy compares estimates",
        nothing,
        CEILING + 'tpr = 0.02\nmin_non_members = 400\ncompare = "point"',
        PASS,
    ),
    ("DPA201", "below what is proven", nothing, CEILING + 'tpr = "proven"\nmin_non_members = 400', PASS),
    ("DPA201", "too few, required", nothing, CEILING + "tpr = 0.05\nrequired = true", UNCLEAR),
    ("DPA201", "too few, not required", nothing, CEILING + "tpr = 0.05", IDLE),
    ("DPA201", "no such attack, required", nothing, CEILING + 'attack = "rmia"\ntpr = 0.05\nrequired = true', UNCLEAR),
    (
        "DPA201",
        "no such rate, required",
        nothing,
        "[[attacks.ceiling]]\nfpr = 0.02\ntpr = 0.05\nrequired = true",
        UNCLEAR,
    ),
    ("DPA201", "no attack, required", attacked(), CEILING + "tpr = 0.05\nrequired = true", UNCLEAR),
    (
        "DPA201",
        "a rate without interval",
        attacked({"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=0.001),)}),
        CEILING + "tpr = 0.05\nmin_non_members = 9\nrequired = true",
        UNCLEAR,
    ),
    (
        "DPA201",
        "an interval that does not hold its rate",
        attacked({"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=0.9, ci=(0.0, 0.01)),)}),
        CEILING + "tpr = 0.05\nmin_non_members = 9\nrequired = true",
        UNCLEAR,
    ),
    ("DPA202", "honest", nothing, "", PASS),
    ("DPA202", "lower limit above what is proven", attacked(low(0.2)), "", FAIL),
    ("DPA202", "lower limit below what is proven", attacked(low(0.12)), "", PASS),
    ("DPA202", "one of two attacks above", attacked({}, low(0.2)), "", FAIL),
    ("DPA202", "no attack", attacked(), "", UNCLEAR),
    ("DPA202", "no attack, and none asked", attacked(), "[attacks]\nrequired = false", IDLE),
    ("DPA202", "an attack crashed", attacked({}, {"auc": None, "reason": "out of memory"}), "", UNCLEAR),
    ("DPA202", "no interval", attacked({"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=0.02),)}), "", UNCLEAR),
    ("DPA202", "no rates", attacked({"tpr_at_fpr": ()}), "", UNCLEAR),
    (
        "DPA202",
        "above, but members differ without the model",
        lambda f, e: {**attacked(low(0.2))(f, e), **checked("attack.comparable", status=FAIL)(f, e)},
        "",
        UNCLEAR,
    ),
    ("DPA205", "honest", nothing, "", PASS),
    ("DPA205", "not comparable", checked("attack.comparable", status=FAIL), "", UNCLEAR),
    ("DPA205", "not checked", unchecked("attack."), "", UNCLEAR),
    ("DPA205", "no attack", attacked(), "", IDLE),
    ("DPA301", "honest", nothing, "", PASS),
    ("DPA301", "old", lambda f, _: {"created": f.CREATED - timedelta(days=90)}, "", FAIL),
    ("DPA301", "just not too old", dated(evidence=87, training=87), "", PASS),
    ("DPA301", "old training, fresh evidence (a resumed audit)", dated(training=90), "", FAIL),
    ("DPA301", "training not dated", trained(trained_at=None), "", PASS),
    (
        "DPA301",
        "training not dated, but asked for",
        trained(trained_at=None),
        "[evidence]\nrequire_training_date = true",
        UNCLEAR,
    ),
    ("DPA301", "training dated with nonsense", trained(trained_at="yesterday"), "", UNCLEAR),
    ("DPA301", "training dated without a zone", trained(trained_at="2026-11-20T11:50:00"), "", UNCLEAR),
    ("DPA301", "training dated with a number", trained(trained_at=20261120), "", UNCLEAR),
    ("DPA301", "evidence made before the training ended", dated(training=-3), "", FAIL),
    ("DPA301", "training from the future", dated(evidence=-30, training=-30), "", FAIL),
    ("DPA301", "from the future", lambda f, _: {"created": f.CREATED + timedelta(days=30)}, "", FAIL),
    ("DPA306", "honest", nothing, "", PASS),
    ("DPA306", "a round is missing", logged(rounds=29), "", FAIL),
    ("DPA306", "a round too many", logged(rounds=31), "", FAIL),
    ("DPA306", "rounds unknown", trained(rounds=None), "", UNCLEAR),
    ("DPA306", "rounds are no number", trained(rounds="30"), "", UNCLEAR),
    ("DPA306", "no ledger", NO_LEDGER, "", UNCLEAR),
    ("DPA105", "drill inside the evidence", nothing, "", PASS),
    ("DPA105", "drill not caught", checked("drill.half-noise", status=FAIL), "", FAIL),
    ("DPA105", "drill not possible", checked("drill.half-noise", status=UNCLEAR), "", UNCLEAR),
    ("DPA105", "drill caught by nothing", checked("drill.half-noise", statistic=0.0), "", UNCLEAR),
    ("DPA105", "drill caught in word only", checked("drill.half-noise", statistic=None), "", UNCLEAR),
    ("DPA105", "drill skipped", checked("drill.half-noise", status=IDLE), "", UNCLEAR),
    ("DPA105", "no drill", unchecked("drill."), "", IDLE),
    ("DPA105", "no drill, asked for", unchecked("drill."), "[audit]\nrequire_fire_drill = true", UNCLEAR),
    ("DPA105", "no drill, asked for as a check", unchecked("drill."), '[audit]\nchecks = ["drill."]', UNCLEAR),
    ("DPA203", "alive", nothing, "", PASS),
    ("DPA203", "alive in word only", checked("attack.alive", statistic=0.4), "", UNCLEAR),
    ("DPA203", "alive without a number", checked("attack.alive", statistic=None), "", UNCLEAR),
    ("DPA204", "below in word only", checked("attack.worst_group", statistic=0.9), "", UNCLEAR),
    ("DPA204", "below nothing", checked("attack.worst_group", threshold=None), "", UNCLEAR),
    ("DPA203", "dead", checked("attack.alive", status=FAIL), "", UNCLEAR),
    ("DPA203", "not tried", checked("attack.alive", status=UNCLEAR), "", UNCLEAR),
    ("DPA203", "not there", unchecked("attack.alive"), "", IDLE),
    ("DPA203", "not there, asked for", unchecked("attack.alive"), "[attacks]\nrequire_alive = true", UNCLEAR),
    ("DPA203", "not there, asked for as a check", unchecked("attack.alive"), '[audit]\nchecks = ["attack."]', UNCLEAR),
    ("DPA203", "no attacks", attacked(), "", IDLE),
    ("DPA204", "below the ceiling", nothing, "", PASS),
    ("DPA204", "above the ceiling", checked("attack.worst_group", status=FAIL), "", FAIL),
    ("DPA204", "groups too small", checked("attack.worst_group", status=UNCLEAR), "", UNCLEAR),
    ("DPA204", "not there", unchecked("attack.worst_group"), "", IDLE),
    (
        "DPA204",
        "not there, asked for",
        unchecked("attack.worst_group"),
        "[attacks]\nrequire_worst_group = true",
        UNCLEAR,
    ),
    ("DPA303", "honest", nothing, "", PASS),
    ("DPA303", "not recorded", lambda *_: {"provenance": None}, "", IDLE),
    (
        "DPA303",
        "not recorded, asked for",
        lambda *_: {"provenance": None},
        "[evidence]\nrequire_provenance = true",
        UNCLEAR,
    ),
    ("DPA303", "no commit, asked for", made_by(commit=None), "[evidence]\nrequire_provenance = true", UNCLEAR),
    ("DPA303", "changed tree", made_by(dirty=True), "[evidence]\nrequire_clean_tree = true", FAIL),
    ("DPA303", "perhaps changed tree", made_by(dirty=None), "[evidence]\nrequire_clean_tree = true", UNCLEAR),
    ("DPA303", "changed tree that nobody minds", made_by(dirty=True), "", PASS),
    ("DPA303", "planted fault", trained(noise_factor_planted=0.5), "", FAIL),
    ("DPA303", "planted nonsense", trained(noise_factor_planted="none"), "", FAIL),
    ("DPA307", "entropy", nothing, "", PASS),
    ("DPA307", "configured", trained(seed_origin="configured"), "", FAIL),
    ("DPA307", "configured, in research", trained(seed_origin="configured"), 'profile = "research"', IDLE),
    ("DPA307", "configured, strict", trained(seed_origin="configured"), 'profile = "strict"', FAIL),
    ("DPA307", "not recorded", trained(seed_origin=None), "", UNCLEAR),
    ("DPA307", "something else", trained(seed_origin="moonlight"), "", UNCLEAR),
]


@pytest.mark.parametrize(("rule", "what", "change", "policy", "expected"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_status(
    factory: ModuleType, honest: Evidence, *, rule: str, what: str, change: Change, policy: str, expected: Status
) -> None:
    bundle = factory.edited(honest, **change(factory, honest))
    finding = ask(factory, bundle, rule, policy)
    assert finding.status == expected, finding.message


def test_every_rule_is_tested_in_every_status_it_can_have() -> None:
    never_fails = {"DPA103", "DPA203", "DPA205"}
    tested = {(rule, status) for rule, _, _, _, status in CASES}
    other = {
        (rule, status)
        for rule in ("DPA002", "DPA302", "DPA304", "DPA401", "DPA402")
        for status in (PASS, FAIL, UNCLEAR)
    }  # tested below
    for rule in RULES:
        assert (rule.code, PASS) in tested | other
        assert (rule.code, FAIL) in tested | other or rule.code in never_fails
        assert (rule.code, UNCLEAR) in tested | other


def test_codes_of_rules_and_policy_agree() -> None:
    assert tuple(rule.code for rule in RULES) == CODES
    assert len({rule.code for rule in CATALOGUE}) == len(CATALOGUE)
    for rule in CATALOGUE:
        assert all([rule.title, rule.question.endswith("?"), rule.fails, rule.inconclusive, rule.why, rule.fix])
        assert len(rule.title) < 23  # the column of the text output


def test_not_recomputed_is_inconclusive_unless_the_policy_says_so(factory: ModuleType, honest: Evidence) -> None:
    assert ask(factory, honest, "DPA001", recompute=False).status == UNCLEAR
    allowed = "[claim]\nrecompute = false"
    finding = ask(factory, honest, "DPA001", allowed, recompute=False)
    assert finding.status == PASS
    assert "not recomputed" not in finding.message
    assert "stored" in finding.message
    worse = factory.edited(honest, accounting=replace(honest.accounting, epsilon_pld=6.2))
    assert ask(factory, worse, "DPA001", allowed, recompute=False).status == FAIL
    other = factory.edited(honest, accounting=replace(honest.accounting, ledger_digest="0" * 64))
    assert ask(factory, other, "DPA001", allowed, recompute=False).status == UNCLEAR
    none = factory.edited(honest, accounting=None)
    assert ask(factory, none, "DPA001", allowed, recompute=False).status == UNCLEAR


def judged(factory: ModuleType, bundle: Evidence, rule: str, policy: str = "", **recomputed: Any) -> Finding:
    """Judge with recomputed and stored accounting that agree and are changed alike."""
    summary = replace(factory.fresh(bundle), **recomputed)
    verdict = evaluate(
        factory.edited(bundle, accounting=summary),
        parse_policy(policy, source="test"),
        today=factory.TODAY,
        recomputed=summary,
    )
    return next(finding for finding in verdict.findings if finding.rule == rule)


def test_without_pld_only_the_policy_can_let_rdp_support_the_claim(factory: ModuleType, honest: Evidence) -> None:
    gone = {"epsilon_pld": None, "reasons": {"epsilon_pld": "no PLD of a tree"}}
    finding = judged(factory, honest, "DPA001", **gone)
    assert finding.status == UNCLEAR
    assert "no PLD of a tree" in finding.message
    assert judged(factory, honest, "DPA001", "[claim]\naccept_rdp = true", **gone).status == PASS
    assert judged(factory, honest, "DPA001", "[claim]\naccept_rdp = true", **gone, epsilon_rdp=7.0).status == FAIL


@pytest.mark.parametrize(
    ("changes", "policy", "expected"),
    [
        ({"epsilon_rdp": 5.0}, "", FAIL),
        ({"epsilon_rdp": None}, "", IDLE),
        ({"epsilon_rdp": None}, 'profile = "strict"', UNCLEAR),
        ({"epsilon_pld": None}, 'profile = "strict"', UNCLEAR),
        ({"epsilon_rdp": 5.413}, "", PASS),
    ],
)
def test_accountants(
    factory: ModuleType, honest: Evidence, changes: dict[str, Any], policy: str, expected: Status
) -> None:
    assert judged(factory, honest, "DPA002", policy, **changes).status == expected


def test_a_recomputation_of_something_else_does_not_count(factory: ModuleType, honest: Evidence) -> None:
    for change in ({"delta": 1e-3}, {"relation": Relation.REPLACE_ONE}, {"ledger_digest": None}):
        verdict = evaluate(
            factory.edited(honest, accounting=None),
            parse_policy("", source="test"),
            today=factory.TODAY,
            recomputed=replace(factory.fresh(honest), **change),
        )
        assert verdict.findings[0].status == UNCLEAR, change


def test_repeated_unnumbered_and_torn_rounds(factory: ModuleType, honest: Evidence) -> None:
    ledger = factory.write_ledger(None, rounds=29)
    ledger.record(EVENT, round=29)
    assert ask(factory, factory.edited(honest, ledger=ledger), "DPA306").status == FAIL
    ledger = factory.write_ledger(None, rounds=29)
    ledger.record(EVENT, round=31)
    assert ask(factory, factory.edited(honest, ledger=ledger), "DPA306").status == FAIL
    ledger = factory.write_ledger(None, rounds=29)
    ledger.record(EVENT)
    assert ask(factory, factory.edited(honest, ledger=ledger), "DPA306").status == UNCLEAR
    ledger = factory.write_ledger(None)
    ledger.torn_bytes = 7
    assert ask(factory, factory.edited(honest, ledger=ledger), "DPA306").status == UNCLEAR


@pytest.mark.parametrize(
    ("before", "policy", "expected"),
    [
        (nothing, "", PASS),
        (accounted(epsilon_pld=5.0), "", FAIL),
        (accounted(epsilon_pld=5.3), "[baseline]\nepsilon_slack = 0.05", PASS),
        (accounted(epsilon_pld=5.0), "[baseline]\nepsilon_slack = 0.05", FAIL),
        (accounted(epsilon_pld=None), "", UNCLEAR),
        (lambda *_: {"accounting": None}, "", UNCLEAR),
        (claimed(delta=1e-6), "", UNCLEAR),
        (claimed(unit=Unit.CLIENT), "", UNCLEAR),
        (attacked({"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=0.001, ci=(0.0, 0.01)),)}), "", FAIL),
        (attacked({"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=0.001, ci=(0.0, 0.012)),)}), "", PASS),
        (
            attacked({"tpr_at_fpr": (RatePoint(fpr=0.01, tpr=0.001, ci=(0.0, 0.01)),)}),
            "[baseline]\ntpr_slack = 0.01",
            PASS,
        ),
        (attacked(), "", PASS),
    ],
)
def test_regression(factory: ModuleType, honest: Evidence, before: Change, policy: str, expected: Status) -> None:
    released = factory.edited(honest, **before(factory, honest))
    verdict = evaluate(
        honest,
        parse_policy(policy, source="test"),
        today=factory.TODAY,
        recomputed=factory.fresh(honest),
        baseline=released,
    )
    finding = next(finding for finding in verdict.findings if finding.rule == "DPA401")
    assert finding.status == expected, finding.message
    assert verdict.digests["baseline"] == released.digest


def test_a_required_baseline(factory: ModuleType, honest: Evidence) -> None:
    assert ask(factory, honest, "DPA401").status == IDLE
    assert ask(factory, honest, "DPA401", "[baseline]\nrequired = true").status == UNCLEAR


def test_messages_quote_what_was_refuted(factory: ModuleType, honest: Evidence) -> None:
    change = checked("noise.scale", status=FAIL, detail="standard deviation 0.45", refuted="noise multiplier 0.9")
    message = ask(factory, factory.edited(honest, **change(factory, honest)), "DPA007").message
    assert "standard deviation 0.45" in message
    assert "noise multiplier 0.9" in message


def test_close_numbers_are_written_so_that_they_differ(factory: ModuleType, honest: Evidence) -> None:
    change = bounded({"epsilon": 6.000_01})
    message = ask(factory, factory.edited(honest, **change(factory, honest)), "DPA101").message
    assert "6.00001" in message
