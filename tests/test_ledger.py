import os
import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpaudit import events as ev
from dpaudit.errors import DataError, LedgerCorrupt, UsageError
from dpaudit.ledger import GENESIS, PrivacyLedger


def fill(ledger, rounds=3):
    for number in range(rounds):
        event = ev.PoissonSampled(sampling_rate=0.1, event=ev.Gaussian(noise_multiplier=1.0))
        ledger.record(event, round=number, expected=10, realised=9 + number)
    ledger.note("dropout", round=1, clients=["a", "ü"])
    return ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "ledger.jsonl"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the bytes of a small ledger and the bytes at which its lines end."""
    file = tmp_path_factory.mktemp("whole") / "ledger.jsonl"
    fill(PrivacyLedger(file, unit="client", relation="add-or-remove-one"))
    data = file.read_bytes()
    return data, [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]


def test_memory_and_file_hold_the_same(path):
    held, written = fill(PrivacyLedger(unit="client")), fill(PrivacyLedger(path, unit="client"))
    assert held.digest == written.digest == PrivacyLedger.open(path).digest
    opened = PrivacyLedger.open(path)
    assert [entry.type for entry in opened.entries] == ["header", "event", "event", "event", "note"]
    assert opened.facts["unit"] == "client"
    assert opened.torn_bytes == 0
    assert [entry.facts["realised"] for entry in opened.events()] == [9, 10, 11]
    assert opened.entries[-1].facts["clients"] == ["a", "ü"]


def test_a_ledger_opened_for_append_goes_on_with_the_chain(path):
    fill(PrivacyLedger(path))
    again = PrivacyLedger.open(path, append=True)
    again.increment_epsilon(0.5, 1e-6, why="a second release")
    last = PrivacyLedger.open(path).entries[-1]
    assert last.event == ev.ApproximateDp(epsilon=0.5, delta=1e-6)
    assert last.facts["why"] == "a second release"
    assert again.digest == PrivacyLedger.open(path).digest


def test_a_ledger_opened_to_read_leaves_the_file_alone(path):
    fill(PrivacyLedger(path))
    before = path.read_bytes()
    PrivacyLedger.open(path).note("only in memory")
    assert path.read_bytes() == before


def test_lines_of_a_ledger_that_is_being_written_are_read_back_and_verified(path):
    ledger = fill(PrivacyLedger(path))
    lines = ledger.entries
    assert (lines, ledger.digest) == (PrivacyLedger.open(path).entries, lines[-1].hash)
    whole = path.read_bytes()
    with path.open("ab") as stream:
        stream.write(b"what another process appends is not ours")
    assert ledger.entries == lines
    other = fill(PrivacyLedger(path.with_name("other.jsonl"), unit="client"))
    cut = whole[: whole.rfind(b"\n", 0, -1) + 1]
    for changed in (whole.replace(b"realised", b"Realised", 1), cut, other.path.read_bytes()[: len(whole)], b""):
        path.write_bytes(changed)
        with pytest.raises(LedgerCorrupt):
            list(ledger.events())
    path.unlink()
    with pytest.raises(DataError, match="cannot read the ledger"):
        ledger.epsilon(1e-5)


def test_an_existing_ledger_is_not_overwritten(path):
    fill(PrivacyLedger(path))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="already holds a ledger"):
        PrivacyLedger(path)
    assert path.read_bytes() == before


def test_facts_that_json_cannot_carry_leave_no_file(path):
    with pytest.raises(DataError, match="nan"):
        PrivacyLedger(path, clip_norm=float("nan"))
    assert not path.exists()
    ledger = PrivacyLedger(path)
    with pytest.raises(DataError):
        ledger.record(ev.NoOp(), loss=float("inf"))
    assert len(PrivacyLedger.open(path).entries) == len(ledger.entries) == 1


def test_increment_epsilon_is_checked():
    with pytest.raises(UsageError, match="epsilon"):
        PrivacyLedger().increment_epsilon(-1.0)
    with pytest.raises(UsageError, match="delta"):
        PrivacyLedger().increment_epsilon(1.0, 1.5)


def test_cut_at_every_byte_it_keeps_whole_lines_and_goes_on(whole, tmp_path):
    data, ends = whole
    for cut in range(len(data) + 1):
        kept = sum(1 for end in ends if end - 1 <= cut)  # a line that lacks only its newline is whole
        file = tmp_path / "cut.jsonl"
        file.write_bytes(data[:cut])
        if kept == 0:
            with pytest.raises(LedgerCorrupt, match="no whole line"):
                PrivacyLedger.open(file)
            continue
        ledger = PrivacyLedger.open(file, append=True)
        assert len(ledger.entries) == kept
        expected = 0 if cut in {ends[kept - 1], ends[kept - 1] - 1} else cut - ends[kept - 1]
        assert ledger.torn_bytes == expected
        ledger.note("resumed")
        again = PrivacyLedger.open(file)
        assert (again.torn_bytes, len(again.entries), again.digest) == (0, kept + 1, ledger.digest)


def test_reading_a_torn_ledger_tells_and_does_not_touch(whole, tmp_path):
    data, ends = whole
    file = tmp_path / "torn.jsonl"
    file.write_bytes(data[: ends[2] + 5])
    ledger = PrivacyLedger.open(file)
    assert ledger.torn_bytes == 5
    assert len(ledger.entries) == 3
    assert file.read_bytes() == data[: ends[2] + 5]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(whole, data):
    content, ends = whole
    position = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda b: b != content[position]))
    changed = content[:position] + bytes([value]) + content[position + 1 :]
    line = sum(1 for end in ends if end <= position) + 1
    with pytest.raises(LedgerCorrupt, match=rf"line {line} |no whole line"):
        PrivacyLedger.from_bytes(changed)


def changed(content, ends, position, value):
    """Return the content with one byte changed, and what the refusal must name."""
    line = sum(1 for end in ends if end <= position) + 1
    return content[:position] + bytes([value]) + content[position + 1 :], f"ledger line {line} "


def refusal_of(content):
    with pytest.raises(LedgerCorrupt) as refusal:
        PrivacyLedger.from_bytes(content)
    return str(refusal.value)


def test_every_byte_flipped_by_one_bit_is_found_and_its_line_named(whole):
    content, ends = whole
    for position in range(len(content)):
        data, named = changed(content, ends, position, content[position] ^ 1 << (position % 8))
        assert named in refusal_of(data)


@pytest.mark.slow
def test_every_byte_changed_to_every_other_value_is_found_and_its_line_named(whole):
    content, ends = whole
    for position in range(len(content)):
        for value in set(range(256)) - {content[position]}:
            data, named = changed(content, ends, position, value)
            assert named in refusal_of(data), (position, value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage):
    with pytest.raises(LedgerCorrupt):
        PrivacyLedger.from_bytes(garbage)
    with pytest.raises(LedgerCorrupt):
        PrivacyLedger.from_bytes(garbage + b"\n")


def test_lines_cannot_be_removed_repeated_or_swapped(whole):
    content, ends = whole
    lines = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    for order in ([1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 1, 2], [0, 2, 1, 3], [0, 1, 2, 3, 3]):
        with pytest.raises(LedgerCorrupt):
            PrivacyLedger.from_bytes(b"".join(lines[index] for index in order))


def test_numbers_too_long_for_the_parser_are_refused(whole):
    content, ends = whole
    huge = b'{"body":{},"hash":"' + b"0" * 64 + b'","prev":"' + GENESIS.encode() + b'","seq":' + b"9" * 5000
    with pytest.raises(LedgerCorrupt):
        PrivacyLedger.from_bytes(huge + b',"type":"header"}\n' + content[ends[0] :])


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot read the ledger"):
        PrivacyLedger.open(tmp_path / "none.jsonl")


def test_two_writers_are_found_out(path):
    first = fill(PrivacyLedger(path))
    second = PrivacyLedger.open(path, append=True)
    second.note("mine")
    with pytest.raises(LedgerCorrupt, match="another process"):
        first.note("also mine")
    assert len(PrivacyLedger.open(path).entries) == len(second.entries)


KILLED = """
    import os, signal, sys
    from dpaudit import events as ev
    from dpaudit.ledger import PrivacyLedger
    ledger = PrivacyLedger(sys.argv[1])
    for number in range(1000):
        ledger.record(ev.Gaussian(noise_multiplier=2.0), round=number)
        print(number, flush=True)
        if number == 25:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_killed_process_has_recorded_every_round_that_it_showed(path):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path)], capture_output=True, env=environment, check=False
    )
    shown = len(done.stdout.split())
    assert shown == 26
    ledger = PrivacyLedger.open(path, append=True)
    assert len(list(ledger.events())) >= shown
    ledger.note("resumed")
    assert PrivacyLedger.open(path).digest == ledger.digest
