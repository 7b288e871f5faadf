"""Searches of hyper-parameters: repeat-and-select where its conditions hold, plain composition otherwise."""

import math

import dp_accounting as dp
import pytest

from dpaudit import events as ev
from dpaudit.accounting import epsilon, record_search, search_event, steps_of, summarize, to_dp_accounting
from dpaudit.errors import UnsupportedEvent, UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import AssumptionStatus

RUN = steps_of(1.0, sampling_rate=0.01, steps=1000)
OTHER = steps_of(1.2, sampling_rate=0.01, steps=1000)


def test_the_best_of_a_random_number_of_equal_runs(known_answers):
    search = search_event([RUN] * 7, drawn_from="geometric", mean=10, released="best")
    assert search.event == ev.RepeatAndSelect(event=RUN, mean=10, shape=1.0)
    assert (search.cost, search.runs) == ("repeat-and-select", None)
    assert epsilon(search.event, 1e-5, "rdp") == pytest.approx(4.103270656, rel=1e-6)  # 2.10 for one run
    library = dp.rdp.RdpAccountant().compose(to_dp_accounting(search.event)).get_epsilon(1e-5)
    assert epsilon(search.event, 1e-5, "rdp") == pytest.approx(library, rel=1e-9)
    assert search_event([RUN], drawn_from="poisson", mean=10, released="best").event.shape == math.inf
    assert search_event([RUN], drawn_from="logarithmic", mean=10, released="best").event.shape == 0


BLACK_BOX = ev.ApproximateDp(epsilon=1.0, delta=1e-6)
NO_RENYI = ev.PoissonSampled(sampling_rate=0.1, event=ev.Composed(events=(ev.Laplace(noise_multiplier=1.0), RUN)))


@pytest.mark.parametrize(
    ("runs", "options", "reason"),
    [
        ([RUN] * 3, {}, "was not drawn"),
        ([RUN] * 3, {"drawn_from": "geometric", "mean": 3, "released": "all"}, "more than the best run"),
        ([RUN, OTHER], {"drawn_from": "geometric", "mean": 3, "released": "best"}, "not all the same"),
        ([BLACK_BOX] * 2, {"drawn_from": "geometric", "mean": 3, "released": "best"}, "release with a delta"),
        ([NO_RENYI] * 2, {"drawn_from": "geometric", "mean": 3, "released": "best"}, "no Renyi bound"),
    ],
)
def test_all_runs_compose_where_a_condition_fails(runs, options, reason):
    search = search_event(runs, **options)
    assert (search.cost, search.runs) == ("plain-composition", len(runs))
    assert reason in search.reason
    if reason != "no Renyi bound":
        assert epsilon(search.event, 1e-4) == pytest.approx(epsilon(ev.Composed(events=tuple(runs)), 1e-4))
        assert epsilon(search.event, 1e-4) > epsilon(runs[0], 1e-4)


def test_wrong_arguments():
    for options in ({"drawn_from": "geometric"}, {"mean": 3.0}, {"drawn_from": "uniform", "mean": 3.0}):
        with pytest.raises(UsageError):
            search_event([RUN], **options)
    with pytest.raises(UsageError, match="got none"):
        search_event([])
    with pytest.raises(UsageError, match="mean at least 1"):
        search_event([RUN], drawn_from="geometric", mean=0.5, released="best")


def test_a_search_in_a_ledger_is_seen_and_one_that_is_not_declared_too():
    ledger = PrivacyLedger(unit="example")
    record_search(ledger, search_event([RUN] * 4), model="digits")
    assert ledger.entries[-1].facts["hyperparameter_search"]["cost"] == "plain-composition"
    assert ledger.epsilon(1e-5) == pytest.approx(epsilon(ev.SelfComposed(event=RUN, count=4), 1e-5))
    known = {item.id: item for item in summarize(ledger, delta=1e-5, rounds=False).assumptions}
    assert known["tuning"].status == AssumptionStatus.DECLARED
    assert "all 4 runs compose" in known["tuning"].text
    best = PrivacyLedger(unit="example")
    record_search(best, search_event([RUN], drawn_from="geometric", mean=10, released="best"))
    with pytest.raises(UnsupportedEvent, match="RDP has one"):
        best.epsilon(1e-5)
    assert best.epsilon(1e-5, "rdp") == pytest.approx(4.103270656, rel=1e-6)
    silent = PrivacyLedger(unit="example")
    silent.record(RUN)
    known = {item.id: item for item in summarize(silent, delta=1e-5, rounds=False).assumptions}
    assert known["tuning"].status == AssumptionStatus.NOT_CHECKED
    assert "not recorded" in known["tuning"].text
