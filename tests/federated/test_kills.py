"""A run that is killed at any moment and resumed is the run that was never killed, in every setting of training.

Two ways to kill. *Snapshots*: one run copies its folder wherever it touches the disk, before, in the middle of and
after the write, which is what SIGKILL would leave behind; each copy is resumed. *Processes*: real ones, killed with
SIGKILL at random moments, 50 times in a row, each resuming what the last one left:

    pytest -m slow tests/federated/test_kills.py -k processes
"""

import contextlib
import importlib.util
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpaudit import serialize
from dpaudit.federated import models, run_files, trainer
from dpaudit.federated.journal import Journal
from dpaudit.federated.run_files import open_run
from dpaudit.ledger import PrivacyLedger

pytest.importorskip("tensorflow")
ROOT, ROUNDS = 2**90 + 11, 6
OTHERWISE = {run_files.CHECKPOINT, run_files.MODEL, run_files.DRAWS}
"""Compared by their contents: archives hold the time, draws are also written by rounds that are replayed."""
OWN_QUERY = """
import sys
sys.skip_tf_privacy_import = True
from tensorflow_privacy.privacy.dp_query import gaussian_query, normalized_query

def build(request):
    query = gaussian_query.GaussianSumQuery(request.clip_norm, request.clip_norm * request.noise_multiplier)
    return normalized_query.NormalizedQuery(query, 3.6)
"""


def all_settings():
    """Yield name and [training] of every combination of algorithm, sampler and aggregator, optimizers in turn."""
    optimizers = itertools.cycle([
        ("momentum", {"server_momentum": 0.5}), ("adam", {"server_optimizer": "adam", "server_learning_rate": 0.05})
    ])  # fmt: skip
    combined = itertools.product(
        ("dp-fedsgd", "dp-fedavg"), ("poisson", "poisson-padded", "without-replacement", "shuffle"),
        ("gaussian", "tfp-gaussian", "tfp-adaptive-clip", "own_query:build"),
    )  # fmt: skip
    shares = [
        ("dp-fedavg", "shuffle", "skellam"),
        ("dp-fedavg", "without-replacement", "discrete-gaussian"),
    ]  # fmt: skip - of six clients three carry the noise: some rounds are withheld
    trees = [("dp-ftrl", "shuffle", aggregator) for aggregator in ("gaussian", "gaussian", "tfp-tree", "tfp-tree")]
    for algorithm, sampler, aggregator in (*combined, *shares, *trees):
        if sampler == "poisson-padded" and aggregator == "tfp-adaptive-clip":
            continue  # refused: a cut Poisson sample is accounted for with plain Gaussian noise only
        rates = {"client_sampling_rate": 0.25 if algorithm == "dp-ftrl" else 0.5}
        if algorithm == "dp-fedsgd":
            rates = {"client_sampling_rate": 0.6 if sampler == "poisson" else 1.0, "example_sampling_rate": 0.5}
        limit = {"cohort_limit": 12 if algorithm == "dp-fedavg" else 50} if sampler == "poisson-padded" else {}
        (named, optimizer), more = next(optimizers), {**rates, **limit, "dropout_rate": 0.15}
        more |= {"minimum_contributions": 3} if (algorithm, sampler, aggregator) in shares else {}
        body = {"algorithm": algorithm, "sampler": sampler, "aggregator": aggregator, **optimizer, **more}
        yield f"{algorithm} {sampler} {aggregator.partition(':')[0]} {named}", body
    body = {"algorithm": "dp-fedavg", "client_sampling_rate": 0.5, "server_momentum": 0.5}
    yield "dp-fedavg families", body


FAMILIES = [{"name": "far", "kind": "random", "count": 5}, {"name": "spots", "kind": "chosen", "count": 4}]
SETTINGS = dict(all_settings())
OF_TFP = [name for name in SETTINGS if "tfp" in name or "own" in name]


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("kill_worker", Path(__file__).with_name("kill_worker.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config_of(make_config, tmp_path, monkeypatch):
    """Return the configuration of a setting; modules that it names can be imported."""

    def make(name, **more):
        if "tfp" in name or "own" in name:
            pytest.importorskip("tensorflow_privacy")
        (tmp_path / "own_query.py").write_text(OWN_QUERY)
        monkeypatch.syspath_prepend(tmp_path)
        body = SETTINGS[name]
        training = {"rounds": ROUNDS, "checkpoint_every": 2, **body, **more}
        client_level = body["algorithm"] != "dp-fedsgd"
        families = {"family": FAMILIES} if "families" in name else {}
        return make_config(client_level=client_level, training=training, canaries=families)

    return make


def same_run(left, right):
    files = [{str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} for out in (left, right)]
    assert files[0] == files[1], "and no half-written files"
    for name in files[0] - OTHERWISE:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    with np.load(left / run_files.CHECKPOINT) as a, np.load(right / run_files.CHECKPOINT) as b:
        assert sorted(a.files) == sorted(b.files)
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    released = [run_files.released_weights(out / run_files.MODEL) for out in (left, right)]
    np.testing.assert_array_equal(*released)


class Kills:
    """Copies the folder of a run at the points where it touches the disk; `wanted` names (label, occurrence)."""

    def __init__(self, out, copies):
        self.out, self.copies, self.wanted, self.seen = out, copies, None, []

    def here(self, label):
        point = (label, sum(label == known for known, _ in self.seen))
        self.seen.append(point)
        if self.wanted is not None and point in self.wanted and self.out.is_dir():
            shutil.copytree(self.out, self.copies / f"{len(self.seen):04d}")

    def torn(self, label, path, data):
        """Half of `data` is there when the process goes away."""
        before = path.stat().st_size if path.is_file() else None
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(data[: len(data) // 2])
        self.here(f"{label}: half")
        with path.open("rb+") as stream:
            stream.truncate(before or 0)
        if before is None:
            path.unlink()

    def plant(self, patch):
        """Surround every function that changes the folder."""
        ledger, append, save = PrivacyLedger._write, Journal._append, models.save_model
        atomic = serialize.write_atomic

        def write(of, line):
            self.here("ledger: before")
            self.torn("ledger", of.path, line)
            ledger(of, line)
            self.here("ledger: after")

        def observe(of, name, data):
            self.torn(name, of._out / name, data)
            append(of, name, data)
            self.here(f"{name}: after")

        def write_atomic(path, data, **options):
            self.here(f"{path.name}: before")
            payload = data.encode() if isinstance(data, str) else data
            self.torn(path.name, path.with_name(f".{path.name}.torn"), payload)
            atomic(path, data, **options)
            self.here(f"{path.name}: after")

        def save_model(model, path):
            self.here("model: before")
            self.torn("model", path.with_name(f".{path.stem}.part.keras"), b"PK" + bytes(1000))
            save(model, path)
            self.here("model: after")

        patch.setattr(PrivacyLedger, "_write", write)
        patch.setattr(Journal, "_append", observe)
        patch.setattr(serialize, "write_atomic", write_atomic)
        patch.setattr(models, "save_model", save_model)

    def choose(self, occurrences):
        """Some occurrences of every kind of point, in any order of rounds."""
        rng = np.random.default_rng(len(self.seen))
        counts = {label: number + 1 for label, number in self.seen}
        self.wanted = {
            (label, int(number))
            for label, count in counts.items()
            for number in rng.choice(count, min(occurrences, count), replace=False)
        }
        self.seen = []


def released_rounds(out):
    """Return the rounds that released something: with too few shares of its noise a round does not."""
    entries = PrivacyLedger.open(out / run_files.LEDGER).events()
    return [entry.facts["round"] for entry in entries if "withheld" not in entry.facts]


def resume_every_copy(worker, config, data, folder, *, occurrences=1):
    """Run once, once more with copies at the chosen points, and go on from each copy."""
    draws = {}
    whole = folder / "whole"
    kills = Kills(whole, folder / "copies")
    with pytest.MonkeyPatch.context() as patch:
        worker.watch_draws(lambda number, *rest: draws.setdefault((number, rest[0]), set()).add(rest[1]), patch.setattr)
        with pytest.MonkeyPatch.context() as inner:
            kills.plant(inner)
            worker.run(config, data, whole, root=ROOT)
            kills.choose(occurrences)
            shutil.rmtree(whole)
            worker.run(config, data, whole, root=ROOT)
        copies = sorted(kills.copies.iterdir())
        assert len(copies) > 20 * occurrences
        released = released_rounds(whole)
        for copy in copies:
            worker.run(config, data, copy, root=ROOT)
            same_run(copy, whole)
            assert open_run(copy).noise_draws == len(released)
    assert sorted(draws) == [(number, 0) for number in released]
    assert {len(sums) for sums in draws.values()} == {1}, "one noise was drawn for two sums"
    return len(copies)


@pytest.fixture
def compiled_once(monkeypatch):
    """Trace the client's functions once per test: they are pure, and tracing is most of a small run."""
    honest, known = trainer.clients.ClientFunctions, {}
    monkeypatch.setattr(
        trainer.clients, "ClientFunctions", lambda model, shape: known.setdefault(shape, honest(model, shape))
    )


def test_a_run_killed_wherever_it_writes_goes_on_as_if_it_had_not_been(
    worker, config_of, data, tmp_path, compiled_once
):
    resume_every_copy(worker, config_of("dp-fedavg poisson-padded gaussian adam"), data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
def test_in_every_setting_a_run_killed_wherever_it_writes_goes_on(
    worker, config_of, data, tmp_path, compiled_once, name
):
    resume_every_copy(worker, config_of(name), data, tmp_path, occurrences=1 if name in OF_TFP else 3)


def write_inputs(config, data, folder):
    arrays = {f"{name}{key}": getattr(part, field) for name, part in (("t", data.train), ("h", data.holdout))
              for key, field in (("x", "x"), ("y", "y"), ("c", "client"))}  # fmt: skip
    np.savez(folder / "data.npz", **arrays)
    (folder / "config.json").write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def until(condition):
    """Wait for it, a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


class Runs:
    """Starts runs of a folder, each in a process of its own: forks of one that has imported TensorFlow already."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        command = [sys.executable, str(Path(__file__).with_name("kill_worker.py")), str(self.folder)]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        # Without a buffer: `ended` asks the pipe, and would not see a line that was read ahead.
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, bufsize=0)
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()

    def start(self, out):
        """Return the process id of a run in `out`."""
        self.server.stdin.write(f"{out} {ROOT}\n".encode())
        return int(self.server.stdout.readline())

    def status(self):
        """Wait for the end of the run; return its exit status."""
        return int(self.server.stdout.readline())

    def ended(self):
        """Say whether the run has ended."""
        return bool(select.select([self.server.stdout], [], [], 0)[0])


def kill_processes(config, data, folder, *, kills):
    """Kill the run `kills` times, at moments spread over its start, its rounds, its replays and its end."""
    whole, broken = folder / "whole", folder / "broken"
    write_inputs(config, data, folder)
    rng = np.random.default_rng(len(config.training.aggregator))
    with Runs(folder) as runs:
        runs.start(whole)
        begun = time.monotonic()
        until(lambda: lines_in(whole / run_files.LEDGER) or runs.ended())
        starting = time.monotonic() - begun
        assert runs.status() == 0
        lines = lines_in(whole / run_files.LEDGER)
        killed = 0
        while killed < kills:  # a run that ends before its kill does not count; what is killed next is a finished run
            wanted = int(lines * (killed + rng.random()) / (kills + 1))
            child = runs.start(broken)
            if lines_in(broken / run_files.LEDGER) > wanted:  # while it starts, and replays
                time.sleep(rng.uniform(0, starting))
            else:
                until(lambda wanted=wanted: lines_in(broken / run_files.LEDGER) > wanted or runs.ended())
                time.sleep(rng.uniform(0, 0.01))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            status = runs.status()
            assert status in {-signal.SIGKILL, 0}
            killed += status != 0
        assert lines_in(broken / run_files.LEDGER) > 0
        runs.start(broken)
        assert runs.status() == 0
    same_run(broken, whole)
    draws = {}
    for line in Path(f"{broken}.draws").read_text().splitlines():
        number, attempt, digest = line.split()
        draws.setdefault((int(number), int(attempt)), set()).add(digest)
    assert sorted(draws) == [(number, 0) for number in released_rounds(whole)]
    assert {len(sums) for sums in draws.values()} == {1}, "one noise was drawn for two sums"


def test_a_killed_process_goes_on_as_if_nothing_had_happened(config_of, data, tmp_path):
    config = config_of("dp-fedsgd poisson gaussian momentum", rounds=300, checkpoint_every=30)
    kill_processes(config, data, tmp_path, kills=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
def test_processes_killed_fifty_times(config_of, data, tmp_path, name):
    rounds = 120 if name in OF_TFP else 400
    kill_processes(config_of(name, rounds=rounds, checkpoint_every=15), data, tmp_path, kills=50)
