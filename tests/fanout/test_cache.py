"""Results by digest: what is kept, when it is trusted, and an interrupted campaign that goes on."""

import functools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dpaudit.config import ModelSection
from dpaudit.errors import DataError, UsageError
from dpaudit.fanout import ResultCache, Task, digest_of, run_campaign
from dpaudit.records import Unit


@dataclass(frozen=True)
class Point:
    x: int


@dataclass(frozen=True)
class Other:
    x: int


def counted(work, folder, count=5):
    return [
        Task(name=str(i), function=work.counted, arguments={"folder": str(folder), "value": i}) for i in range(count)
    ]


@pytest.fixture
def marks(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def runs(marks):
    return sorted(path.name.partition("-")[0] for path in marks.iterdir())


def test_finished_results_are_read_and_not_made_again(work, marks, tmp_path):
    first = run_campaign(counted(work, marks), cache=tmp_path / "kept")
    again = run_campaign(counted(work, marks, 6), cache=tmp_path / "kept")
    assert runs(marks) == list("012345")
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)


def test_finished_results_survive_a_failing_task(work, marks, tmp_path):
    bad = Task(name="bad", function=work.fails, arguments={"message": "x"})
    for _ in range(2):
        with pytest.raises(DataError, match="'bad'"):
            run_campaign([bad, *counted(work, marks)], cache=tmp_path / "kept")
    assert runs(marks) == list("01234")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(path.read_bytes().replace(np.array([2]).tobytes(), np.array([3]).tobytes())),
        lambda path: np.savez(
            path, structure=np.array('{"array":"array0"}'), array0=np.ones(3), seal=np.array("0" * 64)
        ),
        lambda path: path.write_bytes(b"".join(p.read_bytes() for p in path.parent.iterdir() if p != path)),
    ],
)
def test_a_damaged_file_is_run_again_and_not_trusted(damage, work, marks, tmp_path):
    kept = ResultCache(tmp_path / "kept")
    tasks = counted(work, marks, 3)[1:]
    expected = run_campaign(tasks, cache=tmp_path / "kept")
    damage(kept.path(kept.keys(tasks, {})["2"]))
    found = run_campaign(tasks, cache=tmp_path / "kept")
    assert runs(marks) == list("122")
    np.testing.assert_array_equal(found["2"], expected["2"])


def test_every_single_bit_of_a_file_counts(work, tmp_path):
    kept = ResultCache(tmp_path)
    kept.store("k" * 64, {"a": np.arange(2.0), "b": (1, "text", None)}, name="n")
    path = kept.path("k" * 64)
    whole = path.read_bytes()
    value = kept.load("k" * 64)
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        found = kept.load("k" * 64)
        if found is not None:  # a byte of the archive that carries nothing, such as a date
            assert found[0]["b"] == value[0]["b"]
            np.testing.assert_array_equal(found[0]["a"], value[0]["a"])
    path.write_bytes(whole)
    assert kept.load("k" * 64) is not None
    path.rename(kept.path("l" * 64))  # another result's file under a wrong name
    assert kept.load("l" * 64) is None


VALUES = [
    None, True, 3, "ε", 0.1, float("inf"), (1, 2), [1, [2, (3,)]], {"a": {}}, np.float32(0.1), np.int8(3), -0.0, 10**30,
    np.arange(6, dtype=np.uint16).reshape(2, 3), np.zeros((0, 4)), np.array(["a", "bc"]), np.array(5.0), np.bool_(True),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_comes_back_has_the_same_types_and_bits(value, tmp_path):
    kept = ResultCache(tmp_path)
    kept.store("k", value, name="n")
    (found,) = kept.load("k")
    assert type(found) is type(value)
    assert repr(found) == repr(value)
    if isinstance(value, np.ndarray):
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
    assert np.isnan((kept.store("nan", float("nan"), name="n"), kept.load("nan")[0])[1])


@pytest.mark.parametrize(
    "value", [{1: 2}, {1, 2}, object(), b"x", np.array([object()])], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_kept_is_refused(value, tmp_path):
    with pytest.raises(UsageError, match="the result of task 'n' cannot be kept"):
        ResultCache(tmp_path).store("k", value, name="n")


def test_different_values_have_different_digests(work):
    values = [
        *VALUES, False, 1, 1.0, "1", b"1", complex(1), [1], (1,), {"a": 1}, {"a": [1]}, {1}, range(1), Path("1"),
        np.array([1]), np.array([1], np.int32), np.array([[1]]), np.array(1), Point(1), Other(1), Unit.CLIENT, "client",
        ModelSection(), ModelSection(hidden=(3,)), work.draw, work.fails, functools.partial(work.draw, 1), Point, [[1]],
        functools.partial(work.draw, 2), Point(1).__eq__, digest_of, [], {}, "", {"b": 1}, {"a": 1, "b": 1}, [1, 1],
    ]  # fmt: skip
    values = [value for value in values if type(value).__name__ != "method-wrapper"]
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({2, 1}) == digest_of({1, 2})


@pytest.mark.parametrize(
    "value",
    [lambda: 0, object(), np.array([object()]), np.random.default_rng(0)],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_digest_is_refused(value):
    with pytest.raises(UsageError):
        digest_of({"a": [value]})


def test_a_changed_function_has_another_digest(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for body in ("return 1", "return 2"):
        (tmp_path / "changing_work.py").write_text(f"def f():\n    {body}\n")
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        sys.modules.pop("changing_work", None)
        import importlib
        import linecache

        importlib.invalidate_caches()
        linecache.clearcache()
        digests.append(digest_of(importlib.import_module("changing_work").f))
    assert digests[0] != digests[1]


def test_the_key_holds_arguments_seed_version_and_shared_values(work):
    kept = ResultCache(Path("never made"))

    def key(shared=None, **options):
        body = {"name": "n", "function": work.draw, "arguments": {"scale": 1}, "seed": 1} | options
        return kept.keys([Task(**body)], shared or {})["n"]

    others = [
        key({"a": 1}), key({"a": 2}), key(seed=2), key(seed=None), key(version="2"), key(arguments={"scale": 2}),
        key(function=work.scaled), key(depends_on=1), key(depends_on=2),
    ]  # fmt: skip
    assert len({key(), *others}) == 10
    assert key({"a": 1}, depends_on=1) == key({"a": 2}, depends_on=1)
    assert key() == key()


SCRIPT = """
import sys
import fanout_work as work
from pathlib import Path
from dpaudit.fanout import Task, open_executor, run_campaign
marks, kept, backend = sys.argv[1:]
tasks = [Task(name=str(i), function=work.counted, arguments={"folder": marks, "value": i}) for i in range(8)]
tasks.insert(4, Task(name="slow", function=work.sleepy, arguments={"seconds": 3, "value": 0}))
with open_executor(backend) as executor:
    print({k: str(v) for k, v in run_campaign(tasks, executor=executor, cache=Path(kept)).items()})
"""


def test_a_campaign_killed_at_any_moment_goes_on(work, marks, tmp_path):
    kept = tmp_path / "kept"
    command = [sys.executable, "-c", SCRIPT, str(marks), str(kept), "serial"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (kept.exists() and len(list(kept.glob("[!.]*"))) == 4) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert runs(marks) == list("0123")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert runs(marks) == list("01234567")
    assert "'7': '[7 7 7]'" in done.stdout
