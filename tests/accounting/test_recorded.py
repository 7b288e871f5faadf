"""Facts in a ledger that contradict its events: no number is given that is no bound."""

import pytest

from dpaudit import events as ev
from dpaudit.accounting import epsilon, gdp_epsilon, summarize, verified_by
from dpaudit.errors import Refusal
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Assumption, AssumptionStatus, CheckResult, Relation, Status


def step(z=1.0, q=0.1):
    return ev.PoissonSampled(sampling_rate=q, event=ev.Gaussian(noise_multiplier=z))


def ledger_of(event, rounds=3, of_a_round=None, **facts):
    ledger = PrivacyLedger(**facts)
    for number in range(rounds):
        ledger.record(event, round=number, **(of_a_round or {}))
    return ledger


@pytest.mark.parametrize(
    ("event", "facts", "id_", "match"),
    [
        (step(), {"denominator": "realised"}, "denominator", "divided by the realised number"),
        (step(), {"microbatch_size": 4}, "clip", "micro-batches of 4 were clipped as one"),
        (step(), {"microbatch_size": 4, "clip_norm": 2.0, "noise_stddev": 2.0}, "clip", "half the noise multiplier"),
        (step(), {"sampler": "shuffle"}, "sampler", "sampler shuffle ran, the accounting takes credit for poisson"),
        (step(), {"sampler": {"kind": "fixed"}}, "sampler", "sampler fixed ran"),
        (step(), {"clip_norm": 2.0, "noise_stddev": 1.9}, "noise", "0.95 was recorded, the accounting counts on"),
        (
            ev.SampledWithoutReplacement(population=10, sample_size=2, event=ev.Gaussian(noise_multiplier=1.0)),
            {"sampler": "poisson"},
            "sampler",
            "takes credit for without-replacement",
        ),
    ],
)
def test_a_contradicted_ledger_has_no_epsilon(event, facts, id_, match):
    ledger = ledger_of(event, **facts)
    with pytest.raises(Refusal, match=match):
        epsilon(ledger, 1e-5)
    with pytest.raises(Refusal, match="ledger line 2"):
        ledger.epsilon(1e-5, "rdp")
    summary = summarize(ledger, delta=1e-5)
    assert summary.epsilon_pld is summary.epsilon_rdp is summary.mu is None
    assert (summary.profile, summary.epsilon_over_rounds) == ((), ())
    assert match in summary.reasons["epsilon_pld"]
    refuted = [item.id for item in summary.assumptions if item.status == AssumptionStatus.REFUTED]
    assert refuted == [id_]
    if id_ == "sampler":
        assert summary.epsilon_no_amplification > 1
    else:
        assert summary.epsilon_no_amplification is None


def test_one_line_among_many_is_enough():
    ledger = ledger_of(step(), rounds=50, clip_norm=1.0, noise_stddev=1.0, sampler="poisson")
    assert ledger.epsilon(1e-5) > 0
    ledger.record(step(), round=50, noise_stddev=0.5)  # a client dropped out, and its share of the noise with it
    with pytest.raises(Refusal, match=r"ledger line 52: noise_stddev / clip_norm = 0\.5 was recorded"):
        ledger.epsilon(1e-5)
    with pytest.raises(Refusal, match="ledger line 52"):
        epsilon([ledger_of(step()), ledger], 1e-5)


@pytest.mark.parametrize(
    ("event", "facts"),
    [
        (step(), {"denominator": 64.0, "sampler": "Poisson", "clip_norm": 2.0, "noise_stddev": 2.0}),
        (step(), {"clip_norm": 2.0, "noise_stddev": 3.0}),
        (step(z=0.5), {"microbatch_size": 4, "clip_norm": 2.0, "noise_stddev": 2.0}),
        (step(), {"microbatch_size": 1}),
        (ev.ApproximateDp(epsilon=1.0), {"denominator": "realised", "microbatch_size": 4}),
        (ev.ShuffledBatches(event=ev.Gaussian(noise_multiplier=1.0), batches=4), {"sampler": "shuffle"}),
        # adaptive clipping: the values and the count of those clipped share the budget, 1/z^2 = 1/1.2^2 + 1/10^2
        (
            ev.Composed(events=(ev.Gaussian(noise_multiplier=1.2), ev.Gaussian(noise_multiplier=10.0))),
            {"clip_norm": 0.5, "noise_stddev": 0.6},
        ),
    ],
)
def test_facts_that_fit_leave_the_bound(event, facts):
    assert ledger_of(event, **facts).epsilon(1e-5) > 0


def test_under_replace_one_two_norms_are_counted_anyway():
    ledger = ledger_of(ev.Gaussian(noise_multiplier=2.0), rounds=1, relation="replace-one", microbatch_size=8)
    assert ledger.epsilon(1e-5) == pytest.approx(gdp_epsilon(1.0, 1e-5))
    with pytest.raises(Refusal, match="micro-batches"):
        epsilon(ledger, 1e-5, relation=Relation.ADD_OR_REMOVE_ONE)


def test_an_event_with_facts_is_held_against_them_too():
    summary = summarize(step(), delta=1e-5, facts={"denominator": "batch"}, witness=False)
    assert summary.epsilon_pld is None
    assert summarize(step(), delta=1e-5, facts={"denominator": 12}, witness=False).epsilon_pld > 0


def test_checks_verify_or_refute_what_was_declared():
    ledger = ledger_of(step(), sampler="poisson", clip_norm=1.0, noise_stddev=1.0, denominator=6.0)
    declared = summarize(ledger, delta=1e-5, witness=False).assumptions

    def check(id_, status):
        return CheckResult(id=id_, status=status, detail="")

    checks = [
        check("sampling.example-rate", Status.PASS),
        check("sampling.eligible", Status.PASS),
        check("step.sensitivity", Status.INCONCLUSIVE),
        check("noise.scale", Status.FAIL),
        check("ledger.noise", Status.PASS),
    ]
    judged = {item.id: item for item in verified_by(declared, checks)}
    assert judged["sampler"].status == AssumptionStatus.VERIFIED
    assert judged["sampler"].evidence == "check sampling.example-rate, sampling.eligible"
    assert judged["clip"].status == AssumptionStatus.DECLARED, "an undecided check says nothing"
    assert judged["noise"].status == AssumptionStatus.REFUTED
    assert judged["noise"].evidence == "check noise.scale"
    assert judged["denominator"].status == AssumptionStatus.DECLARED
    assert judged["complete"].status == AssumptionStatus.NOT_CHECKED
    contradicted = Assumption(id="clip", text="", status=AssumptionStatus.REFUTED)
    assert verified_by([contradicted], [check("step.sensitivity", Status.PASS)]) == (contradicted,)
