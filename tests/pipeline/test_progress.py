"""What people see while a run trains: rounds, rounds per second and the epsilon so far, on stderr."""

import re

import pytest

from dpaudit.pipeline import progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_say_how_far_how_fast_and_how_much_was_spent(capsys, clock):
    lines = progress.Lines()
    lines.stage("training")
    for done in range(1, 101):
        clock[0] += 0.25
        lines.rounds(done, 100, done / 50)
    lines.close()
    out, err = capsys.readouterr()
    assert out == ""
    said = err.strip().splitlines()
    assert len(said) == 11, "one line per tenth of the work"
    assert said[-1].endswith("round 100 of 100, epsilon so far 2.000, 4 rounds/s")


def test_rounds_of_an_earlier_process_are_not_counted_as_fast(capsys, clock):
    lines = progress.Lines()
    for done in (901, 950, 1000):
        clock[0] += 10.0
        lines.rounds(done, 1000, None)
    said = capsys.readouterr().err.strip().splitlines()
    assert "rounds/s" not in said[0]
    assert said[-1].endswith("round 1000 of 1000, 4.95 rounds/s")


def test_the_bar_shows_the_same(capsys, clock):
    bar = progress.Live()
    bar.stage("training")
    for done in range(1, 11):
        clock[0] += 0.5
        bar.rounds(done, 10, 0.25)
    detail = bar._progress.tasks[-1].fields["detail"]
    bar.close()
    assert re.fullmatch(r"round 10 of 10, epsilon so far 0\.250, 2 rounds/s", detail)
    assert capsys.readouterr().out == ""
