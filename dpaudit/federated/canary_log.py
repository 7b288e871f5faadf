"""The files of the canary families of a run: one line of numbers per round, appended, never held in memory.

observations/NAME.f32             (rounds, m) what was observed
observations/NAME.eligible.bits   (rounds, m) who could have taken part
observations/NAME.json            kind, number, clients
coins/NAME.npz                    which canaries are in: apart from the observations
private/NAME.participation.bits   (rounds, m) who took part
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.config import TrainingSection
from dpaudit.errors import DataError
from dpaudit.federated.canary_families import Bools, Family, Vector
from dpaudit.federated.run_files import npz_bytes
from dpaudit.federated.sampling import Cohort


def _folder(out: Path, part: str) -> Path:
    folder = out / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class FamilyLog:
    """The open files of one family in the folder of a run."""

    def __init__(self, out: Path, family: Family) -> None:
        """Write what does not change (coins, clients). Idempotent, so that a resumed run calls it again."""
        self._family, name = family, family.name
        seen, private = _folder(out, "observations"), _folder(out, "private")
        bits = -(-family.count // 8)
        self._files = {
            seen / f"{name}.f32": 4 * family.count,
            seen / f"{name}.eligible.bits": bits,
            private / f"{name}.participation.bits": bits,
        }
        coins = npz_bytes(coins=family.coins)
        serialize.write_atomic(_folder(out, "coins") / f"{name}.npz", coins, mode=0o600)
        about = {
            "schema": "dpaudit.canary-family/v1",
            "kind": family.kind,
            "count": family.count,
            "client": family.client.tolist(),
            "example_level": family.example_level,
        }
        serialize.write_atomic(seen / f"{name}.json", serialize.dumps(about))

    def observe(
        self, released: Vector, weights: Vector, training: TrainingSection, cohort: Cohort, *, clip_norm: float
    ) -> None:
        """Append what one round showed; `weights` are those at its start, `released` is the noised sum."""
        family = self._family
        seen = family.observe(released, weights, cohort.number, clip_norm=clip_norm)
        lines = (
            seen.astype("<f4").tobytes(),
            np.packbits(family.eligible(cohort)).tobytes(),
            np.packbits(family.takes_part(training, cohort)).tobytes(),
        )
        for path, line in zip(self._files, lines, strict=True):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "ab") as stream:
                stream.write(line)

    def sync(self) -> None:
        """Make the lines durable; before a checkpoint that counts them."""
        for path in self._files:
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())

    def cut_back(self, rounds: int) -> None:
        """Shorten the files to `rounds` whole rounds; raise DataError when they hold fewer."""
        for path, size in self._files.items():
            path.touch(mode=0o600)
            if path.stat().st_size < rounds * size:
                raise DataError(f"{path} is shorter than the checkpoint says; the run's files do not belong together.")
            os.truncate(path, rounds * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyView:
    """What an auditor sees of a family, coins apart: (rounds, m) observations (memory map), who could take part."""

    kind: str
    observations: NDArray[np.float32]
    eligible: Bools
    client: NDArray[np.int64]
    example_level: bool


def family_names(out: Path) -> tuple[str, ...]:
    """Return the names of the families in a run."""
    return tuple(sorted(path.stem for path in (out / "observations").glob("*.json")))


def open_family(out: Path, name: str) -> FamilyView:
    """Return the view of a family of a finished or running run; raise DataError when its files cannot be read."""
    seen = out / "observations"
    try:
        about: dict[str, Any] = serialize.loads((seen / f"{name}.json").read_bytes())
        count = int(about["count"])
        rounds = (seen / f"{name}.f32").stat().st_size // (4 * count) if count else 0
        shape = (rounds, count)
        values = np.memmap(seen / f"{name}.f32", dtype="<f4", mode="r", shape=shape) if rounds else np.zeros(shape)
        packed = np.fromfile(seen / f"{name}.eligible.bits", dtype=np.uint8)[: rounds * -(-count // 8)]
        eligible = np.unpackbits(packed.reshape(rounds, -(-count // 8)), axis=1, count=count).astype(np.bool_)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the canary family {name!r} in {out} cannot be read: {error}") from error
    return FamilyView(
        kind=str(about["kind"]), observations=values.astype(np.float32, copy=False), eligible=eligible,
        client=np.asarray(about["client"], dtype=np.int64), example_level=bool(about["example_level"]),
    )  # fmt: skip


def family_coins(out: Path, name: str) -> Bools:
    """Return (m,) which canaries of a family are in. Only the code that joins coins and finished scores may call it."""
    try:
        with np.load(out / "coins" / f"{name}.npz", allow_pickle=False) as archive:
            return np.asarray(archive["coins"], dtype=np.bool_)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"the coins of {name!r} in {out} cannot be read: {error}") from error
