"""The writing side of a run's files: what makes a run that was killed at any moment resumable.

Order within a round: the server computes the noised release in memory and appends the ledger line (synced); then
the round's observations are appended here; then, every `checkpoint_every` rounds, everything is synced and the
checkpoint replaced in one step. On resume the files are cut back to the checkpoint's round, and the rounds that the
ledger holds beyond it are replayed with the same streams.
"""

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.config import RunConfig
from dpaudit.errors import DataError, OutputExists, UsageError
from dpaudit.federated import canary_log
from dpaudit.federated import run_files as files
from dpaudit.federated.canaries import Canaries
from dpaudit.federated.canary_families import Family
from dpaudit.federated.canary_sources import Moment
from dpaudit.federated.rounds import Collected, Release
from dpaudit.federated.server import Server
from dpaudit.ledger import PrivacyLedger

Vector = NDArray[np.float64]
_FREE_TO_CHANGE = ("audit", "policy")
_REPLACED = (files.ROOT, files.RUN, files.RESULT, files.MODEL, files.COINS, files.CANARY_CLIENT, files.CHECKPOINT)
"""Files that are written under another name and put in their place in one step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes two invocations the same run."""

    root: int
    noise_multiplier: float
    config: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig, *, root: int, noise_multiplier: float) -> "Identity":
        """Return the identity of a run; audit and policy are left out, for they change nothing that was trained."""
        plain = serialize.to_jsonable(config.model_dump(mode="json", exclude=set(_FREE_TO_CHANGE)))
        return cls(root=root, noise_multiplier=noise_multiplier, config=plain)


class Journal:
    """The open files of a run in `out`."""

    def __init__(self, out: Path, *, parameters: int, canaries: Canaries, families: tuple[Family, ...] = ()) -> None:
        """Take charge of a folder that `claim` has accepted."""
        self._out, self._parameters, self._canaries, self._families = out, parameters, canaries, families

    def describe(self, *, clients: int, units: int, rounds: int, slots: int = 0, steps: int = 1) -> None:
        """Write what does not change: sizes, the coins (apart), the client of each canary. Idempotent.

        `slots` is 0 where the sampler does not choose among slots; `steps` are lines per round (see `run_files`).
        """
        for folder in ("observations", "coins", "private"):
            (self._out / folder).mkdir(parents=True, exist_ok=True)
        coins = files.npz_bytes(coins=self._canaries.coins)
        serialize.write_atomic(self._out / files.COINS, coins, mode=0o600)
        holders = io.BytesIO()
        np.save(holders, self._canaries.client)
        serialize.write_atomic(self._out / files.CANARY_CLIENT, holders.getvalue())
        families = {family.name: canary_log.line_sizes(family.name, family.count) for family in self._families}
        for family in self._families:
            canary_log.describe(self._out, family)
        about: dict[str, Any] = {
            "schema": "dpaudit.training-run/v1",
            "clients": clients,
            "units": units,
            "rounds": rounds,
            "canaries": self._canaries.count,
            "slots": slots,
            "parameters": self._parameters,
            "example_level": self._canaries.example_level,
            **({"families": families} if families else {}),
            **({"steps": steps} if steps > 1 else {}),
        }
        serialize.write_atomic(self._out / files.RUN, serialize.dumps(about))
        self._sizes = {
            files.OBSERVATIONS: 4 * self._canaries.count * steps,
            files.ELIGIBLE: -(-clients // 8),
            files.PARTICIPATION: -(-units // 8) * steps,
            files.CANARY_PARTICIPATION: -(-self._canaries.count // 8) * steps,
            files.MODEL_NOISE: 8,
            **({files.DRAWN: -(-slots // 8), files.CHOSEN: -(-slots // 8)} if slots else {}),
            **{name: size for sizes in families.values() for name, size in sizes.items()},
        }

    def open_ledger(self, header: Mapping[str, Any]) -> PrivacyLedger:
        """Start the ledger, or continue it; one that was killed before its first whole line is started anew.

        Raises: UsageError when the ledger on disk belongs to other data; LedgerCorrupt when it was changed.
        """
        path = self._out / files.LEDGER
        if path.is_file() and b"\n" not in path.read_bytes():
            path.unlink()
        if not path.is_file():
            return PrivacyLedger(path, **header)
        ledger = PrivacyLedger.open(path, append=True)
        if ledger.facts.get("data_commitment") != header["data_commitment"]:
            raise UsageError(
                f"the data differ from those of the run in {self._out}. "
                "Resume it with the same data, or start in a new folder."
            )
        return ledger

    def draw(self, number: int, attempt: int) -> None:
        """Write down that noise is about to be drawn, before it is."""
        self._append(files.DRAWS, np.array([number, attempt], dtype="<i4").tobytes())

    def observe(self, collected: Collected, release: Release) -> None:
        """Append what one round showed and who took part."""
        seen = release.vector[self._parameters :] / collected.clip_norm
        self._append(files.OBSERVATIONS, seen.astype("<f4").tobytes())
        noise = (release.vector[: self._parameters] - collected.total[: self._parameters]) / collected.clip_norm
        noise = np.zeros_like(noise) if release.withheld else noise
        self._append(files.MODEL_NOISE, np.array([noise @ noise], dtype="<f8").tobytes())
        self._append(files.ELIGIBLE, np.packbits(collected.cohort.answered).tobytes())
        self._append(files.PARTICIPATION, np.packbits(collected.arrived).tobytes())
        self._append(files.CANARY_PARTICIPATION, np.packbits(collected.canaries).tobytes())
        if collected.cohort.draw is not None:
            self._append(files.DRAWN, np.packbits(collected.cohort.draw.drawn).tobytes())
            self._append(files.CHOSEN, np.packbits(collected.cohort.draw.chosen).tobytes())
        at = Moment(number=release.number, weights=collected.weights, clip_norm=collected.clip_norm)
        for family, present in zip(self._families, collected.families, strict=True):
            model = release.vector[: self._parameters]
            for name, line in canary_log.lines(family, present, model, collected.cohort, at).items():
                self._append(name, line)

    def _append(self, name: str, data: bytes) -> None:
        path = self._out / name
        mode = 0o600 if name.startswith("private") else 0o644
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
        finally:
            os.close(handle)

    def cut_back(self, rounds: int) -> None:
        """Shorten the files of the rounds to `rounds` whole rounds, and the draws to whole pairs."""
        for name, size in self._sizes.items():
            _truncate(self._out / name, rounds * size)
        draws = self._out / files.DRAWS
        if draws.is_file():
            _truncate(draws, draws.stat().st_size // 8 * 8)

    def save(self, server: Server, rounds: int) -> None:
        """Sync the files of the rounds, then replace the checkpoint in one step.

        It holds what a resumed run needs beside its root seed: rounds done, weights, the optimizer's state and the
        aggregator's, which may hold noise that is still to be used; only the owner can read it.
        """
        for name in (*self._sizes, files.DRAWS):
            path = self._out / name
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
        states = {"optimizer": server.optimizer.state, "aggregator": server.aggregator_state}
        named: dict[str, Any] = {f"{of}_{key}": value for of, state in states.items() for key, value in state.items()}
        data = files.npz_bytes(rounds=np.int64(rounds), weights=server.weights, **named)
        serialize.write_atomic(self._out / files.CHECKPOINT, data, mode=0o600)

    def restore(self, server: Server) -> int:
        """Bring server and files to the last checkpoint; return the rounds that are done.

        A run without a checkpoint gets one of its start: a model need not begin with the same weights again.
        """
        path, done = self._out / files.CHECKPOINT, 0
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
                done, server.weights = int(arrays.pop("rounds")), arrays.pop("weights")
            except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
                raise DataError(f"{path} cannot be read: {error}") from error
            server.optimizer.state = _part(arrays, "optimizer_")
            server.aggregator_state = _part(arrays, "aggregator_")
        self.cut_back(done)
        if not path.is_file():
            self.save(server, 0)
        return done

    def finish(self, *, rounds: int, holdout_accuracy: float | None) -> None:
        """Mark the run complete; the accuracy is None where nothing was held out."""
        result = {"schema": "dpaudit.training-result/v1", "rounds": rounds, "holdout_accuracy": holdout_accuracy}
        serialize.write_atomic(self._out / files.RESULT, serialize.dumps(result))


def _part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _truncate(path: Path, size: int) -> None:
    if not path.is_file():
        path.touch(mode=0o600 if path.parent.name == "private" else 0o644)
    if path.stat().st_size < size:
        raise DataError(f"{path} is shorter than the checkpoint says; the run's files do not belong together.")
    os.truncate(path, size)


def claim(out: Path, identity: Identity, *, resume: bool) -> bool:
    """Make `out` the folder of this run; return whether there is a run in it to go on with.

    The root seed is on disk, readable by the owner only, before anything else is: without it a run whose seed came
    from the operating system could never be resumed. With `resume` an empty folder starts a new run.

    Raises: OutputExists when a run is there and `resume` is not set; UsageError when it is another run.
    """
    path = out / files.ROOT
    if not resume and any((out / name).exists() for name in files.MARKERS):
        raise OutputExists(f"{out} already holds a run. Choose another folder, or go on with it with --resume.")
    if path.is_file():
        _refuse_other(out, serialize.loads(path.read_bytes()), identity)
        _sweep(out)
        return True
    if any((out / name).exists() for name in files.MARKERS):
        raise UsageError(f"{out} holds parts of a run but not its root seed ({files.ROOT}); it cannot be resumed.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    _sweep(out)
    body = {"schema": "dpaudit.root/v1", "root": str(identity.root), "noise_multiplier": identity.noise_multiplier}
    serialize.write_atomic(path, serialize.dumps({**body, "config": identity.config}), mode=0o600)
    return False


def _sweep(out: Path) -> None:
    """Remove what a killed process had begun to write under another name.

    The folders in a run's folder are all its own (those of canary families have names of the user's).
    """
    for path in (out / name for name in _REPLACED):
        for begun in path.parent.glob(f".{path.stem}.*" if path.parent == out else ".*.*"):
            begun.unlink()


def _refuse_other(out: Path, stored: Mapping[str, Any], identity: Identity) -> None:
    """Raise UsageError unless the stored run is this one."""
    before = stored.get("config", {})
    changed = sorted(key for key in {*before, *identity.config} if before.get(key) != identity.config.get(key))
    if changed:
        raise UsageError(
            f"the configuration differs from that of the run in {out}, in [{'], ['.join(changed)}]. "
            "Resume with the same configuration, or start in a new folder."
        )
    if int(stored["root"]) != identity.root:
        raise UsageError(
            f"the run in {out} has another root seed; prepare the data with stored_root(out) and pass it on."
        )
    if abs(stored["noise_multiplier"] - identity.noise_multiplier) > 1e-9 * identity.noise_multiplier:
        raise UsageError(
            f"the run in {out} has noise multiplier {stored['noise_multiplier']!r}, not {identity.noise_multiplier!r}. "
            "Fix training.noise_multiplier, or start in a new folder."
        )
