import subprocess
import sys

import pytest

from dpaudit import events as ev
from dpaudit import serialize
from dpaudit.accounting import epsilon, statement, summarize, without_amplification
from dpaudit.accounting.statement import up
from dpaudit.errors import UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import AccountingSummary, AssumptionStatus, Relation


def step(q=0.1, z=1.0):
    return ev.PoissonSampled(sampling_rate=q, event=ev.Gaussian(noise_multiplier=z))


@pytest.fixture
def ledger():
    ledger = PrivacyLedger(
        unit="client", relation="add-or-remove-one", sampler="poisson", clip_norm=2.0, noise_source="philox"
    )
    for number in range(60):
        ledger.record(ev.PubliclySampled(sampling_rate=0.5, event=step()), round=number)
    return ledger


def test_a_ledger_is_summed_up_and_survives_json(ledger):
    summary = summarize(ledger, delta=1e-5)
    assert summary.epsilon_pld == pytest.approx(epsilon(ledger, 1e-5))
    assert summary.epsilon_pld == pytest.approx(ledger.epsilon(1e-5))
    assert summary.epsilon_rdp > summary.epsilon_pld
    assert summary.epsilon_no_amplification > summary.epsilon_rdp
    assert summary.ledger_digest == ledger.digest
    assert summary.relation == Relation.ADD_OR_REMOVE_ONE
    deltas = [d for d, _ in summary.profile]
    assert {1e-4, 1e-5, 1e-6, 1e-7, 1e-8} <= set(deltas)
    assert deltas == sorted(deltas)
    assert dict(summary.profile)[1e-5] == pytest.approx(summary.epsilon_pld, rel=1e-6)
    assert [f for f, _ in summary.tpr_ceilings] == [0.001, 0.01, 0.05, 0.1]
    assert all(0 <= b <= 1 - a + 1e-9 for a, b in summary.trade_off)
    assert len(summary.trade_off) >= 55
    rounds = summary.epsilon_over_rounds
    assert rounds[0][0] == 1
    assert rounds[-1][0] == 60
    assert rounds[-1][1] == pytest.approx(summary.epsilon_pld, rel=5e-3)
    assert "dp-accounting 0.6" in summary.library
    assert serialize.from_jsonable(AccountingSummary, serialize.loads(serialize.dumps(summary))) == summary


def test_rounds_of_other_runs():
    steps = summarize(ev.SelfComposed(event=step(), count=90), delta=1e-5, witness=False).epsilon_over_rounds
    assert [rounds for rounds, _ in steps][-1] == 90
    one = PrivacyLedger()
    one.record(ev.SelfComposed(event=step(), count=90))
    assert summarize(one, delta=1e-5, witness=False).epsilon_over_rounds == steps
    local = PrivacyLedger()
    for _ in range(9):
        local.record(ev.SelfComposed(event=step(), count=10))
    grouped = summarize(local, delta=1e-5, witness=False).epsilon_over_rounds
    assert [rounds for rounds, _ in grouped] == list(range(1, 10))
    assert grouped[-1] == pytest.approx((9, steps[-1][1]))
    mixed = PrivacyLedger()
    for number in range(12):
        mixed.record(step(z=1.0 if number < 6 else 2.0))
    curve = summarize(mixed, delta=1e-5, witness=False)
    values = [value for _, value in curve.epsilon_over_rounds]
    assert len(values) == 12
    assert values == sorted(values)
    assert values[-1] == pytest.approx(curve.epsilon_pld, rel=1e-2)


def test_assumptions_say_how_they_are_known(ledger):
    known = {item.id: item for item in summarize(ledger, delta=1e-5, rounds=False).assumptions}
    assert known["sampler"].status == AssumptionStatus.DECLARED
    assert "public" in known["sampler"].text
    assert known["clip"].status == AssumptionStatus.DECLARED
    assert known["complete"].status == AssumptionStatus.NOT_CHECKED
    assert known["accountants-agree"].status == AssumptionStatus.VERIFIED
    bare = {item.id: item for item in summarize(step(), delta=1e-5, rounds=False).assumptions}
    assert bare["unit"].status == AssumptionStatus.NOT_CHECKED
    assert bare["noise-generator"].status == AssumptionStatus.NOT_CHECKED


def test_the_relation_of_the_ledger_is_used():
    ledger = PrivacyLedger(relation="replace-one")
    ledger.record(ev.Gaussian(noise_multiplier=1.0))
    assert ledger.epsilon(1e-5) == pytest.approx(9.99725615, rel=1e-8)
    assert summarize(ledger, delta=1e-5, rounds=False).relation == Relation.REPLACE_ONE
    assert epsilon(ledger, 1e-5, relation="add-or-remove-one") == pytest.approx(4.377178, rel=1e-6)


def test_ledgers_on_the_same_people_compose(ledger):
    other = PrivacyLedger(unit="client", relation="add-or-remove-one")
    other.increment_epsilon(0.5, 1e-7)
    both = epsilon([ledger, other], 1e-5)
    assert both > max(epsilon(ledger, 1e-5), epsilon(other, 1e-5))
    assert both < epsilon(ledger, 1e-5) + 0.55
    summary = summarize([ledger, other], delta=1e-5, witness=False)
    assert summary.epsilon_pld == pytest.approx(both)
    assert summary.ledger_digest == f"{ledger.digest}+{other.digest}"
    assert summary.epsilon_over_rounds == ()
    with pytest.raises(UsageError, match="different neighbouring relations"):
        epsilon([ledger, PrivacyLedger(relation="replace-one")], 1e-5)
    with pytest.raises(UsageError, match="empty list"):
        epsilon([], 1e-5)


def test_missing_numbers_have_reasons():
    summary = summarize(ev.NonPrivate(reason="labels"), delta=1e-5)
    assert summary.epsilon_pld is None
    assert summary.epsilon_rdp is None
    assert summary.mu is None
    assert {"epsilon_pld", "epsilon_rdp", "mu"} <= set(summary.reasons)
    best = summarize(ev.RepeatAndSelect(event=ev.Gaussian(noise_multiplier=3.0), mean=10, shape=1), delta=1e-5)
    assert best.epsilon_pld is None
    assert best.epsilon_rdp == best.epsilon_no_amplification
    assert "RepeatAndSelect" in best.reasons["epsilon_pld"]


def test_an_empty_ledger_has_spent_nothing():
    summary = summarize(PrivacyLedger(), delta=1e-5)
    assert summary.epsilon_pld == summary.epsilon_rdp == 0.0
    assert summary.epsilon_over_rounds == ()


def test_arguments_are_checked():
    with pytest.raises(UsageError, match="delta"):
        summarize(step(), delta=0.0)
    with pytest.raises(UsageError, match="relation must be one of"):
        summarize(step(), delta=1e-5, relation="swap")
    with pytest.raises(UsageError, match="a ledger or a privacy event"):
        summarize({"kind": "Gaussian"}, delta=1e-5)


def test_amplification_is_taken_out_everywhere():
    gaussian = ev.Gaussian(noise_multiplier=2.0)
    nested = ev.Composed(
        events=(
            ev.SelfComposed(event=ev.PubliclySampled(sampling_rate=0.2, event=step(z=2.0)), count=3),
            ev.SampledWithoutReplacement(population=100, sample_size=5, event=gaussian),
            ev.MixtureOfGaussians(noise_multiplier=2.0, sensitivities=(0, 2), probabilities=(0.9, 0.1)),
            ev.PoissonSampled(sampling_rate=0.0, event=gaussian),
        )
    )
    plain = without_amplification(nested)
    whole = ev.SampledWithoutReplacement(population=5, sample_size=5, event=gaussian)
    expected = (ev.SelfComposed(event=gaussian, count=3), whole, ev.Gaussian(noise_multiplier=1.0), ev.NoOp())
    assert plain == ev.Composed(events=expected)
    truncated = ev.TruncatedPoissonGaussian(
        dataset_size=100, sampling_rate=0.1, max_batch_size=20, noise_multiplier=2.0
    )
    assert without_amplification(truncated) == ev.Gaussian(noise_multiplier=1.0)


def test_the_statement_is_prose_with_everything_in_it(ledger):
    text = statement(summarize(ledger, delta=1e-5, rounds=False, witness=False), ledger.facts)
    for piece in ("adding or removing one client", "delta = 1e-05", "PLD", "RDP", "Without any amplification"):
        assert piece in text
    assert "[declared] norm that one unit contributes at most to a sum: 2.0" in text
    replaced = statement(summarize(step(), delta=1e-5, relation="replace-one", witness=False), {"unit": "example"})
    assert "replacing one example by another" in replaced
    assert "The sampler is not recorded." in replaced
    assert "No attack has a true-positive rate above" in replaced
    weak = statement(summarize(ev.Gaussian(noise_multiplier=0.1), delta=1e-5, witness=False), {})
    assert "Nothing here keeps an attack from finding every member" in weak
    table = {"sampler": {"kind": "poisson", "client_rate": 0.3}}
    group = statement(summarize(step(), delta=1e-5, group_size=3, witness=False), table, group_size=3)
    assert "adding or removing up to 3 units" in group
    assert "Sampler: poisson (client rate 0.3)." in group


def test_printed_bounds_are_rounded_up():
    assert up(1.82824) == "1.829"
    assert up(0.000123451) == "0.0001235"
    assert float(up(2.381686)) >= 2.381686
    assert up(12345.6) == "1.235e+04"
    assert up(0.0) == "0"


GATE = """
import sys
from dpaudit import events as ev
from dpaudit.accounting import summarize
from dpaudit.ledger import PrivacyLedger
ledger = PrivacyLedger()
ledger.record(ev.PoissonSampled(sampling_rate=0.1, event=ev.Gaussian(noise_multiplier=1.0)))
assert summarize(ledger, delta=1e-5, witness=False).epsilon_pld > 0
heavy = [name for name in ("dp_accounting", "scipy.stats", "tensorflow", "matplotlib") if name in sys.modules]
sys.exit(", ".join(heavy) or 0)
"""


def test_without_a_witness_nothing_heavy_is_imported():
    done = subprocess.run([sys.executable, "-c", GATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
