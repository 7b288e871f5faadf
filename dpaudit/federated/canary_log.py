"""The files of the canary families of a run: one line of numbers per round, appended, never held in memory.

observations/NAME.f32             (rounds, m) what was observed
observations/NAME.size.f32        (rounds, m) how much each would have added along its direction, in clip norms
observations/NAME.eligible.bits   (rounds, m) who could have taken part
observations/NAME.json            kind, number, clients
coins/NAME.npz                    which canaries are in: apart from the observations
private/NAME.participation.bits   (rounds, m) who took part

`dpaudit.federated.journal` appends, syncs and cuts them back with the other files of a run.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.errors import DataError
from dpaudit.federated.canary_families import Bools, Family
from dpaudit.federated.canary_sources import Moment, Vector
from dpaudit.federated.run_files import RUN, bytes_of_bits, npz_bytes, read_bits
from dpaudit.federated.sampling import Cohort

_SCHEMA = "dpaudit.canary-family/v1"


def line_sizes(name: str, count: int) -> dict[str, int]:
    """Return the files of a family that grow, each with its bytes per round, in the order of `lines`."""
    return {
        f"observations/{name}.f32": 4 * count,
        f"observations/{name}.size.f32": 4 * count,
        f"observations/{name}.eligible.bits": bytes_of_bits(count),
        f"private/{name}.participation.bits": bytes_of_bits(count),
    }


def lines(family: Family, present: Bools, released: Vector, cohort: Cohort, at: Moment) -> dict[str, bytes]:
    """Return what one round adds to each file; `released` is the model's part of the noised sum."""
    seen, sizes = family.source.observe(released, at)
    values = (
        seen.astype("<f4").tobytes(),
        sizes.astype("<f4").tobytes(),
        np.packbits(family.eligible(cohort)).tobytes(),
        np.packbits(present).tobytes(),
    )
    return dict(zip(line_sizes(family.name, family.count), values, strict=True))


def describe(out: Path, family: Family) -> None:
    """Write what does not change: the coins, apart, and the client of each canary. Idempotent."""
    serialize.write_atomic(out / "coins" / f"{family.name}.npz", npz_bytes(coins=family.coins), mode=0o600)
    about = {
        "schema": _SCHEMA,
        "kind": family.kind,
        "count": family.count,
        "client": family.client.tolist(),
        "slot": family.slot,
        "example_level": family.example_level,
    }
    serialize.write_atomic(out / "observations" / f"{family.name}.json", serialize.dumps(about))


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyView:
    """What an auditor sees of a family, coins apart: (rounds, m) each.

    `observations` and `sizes` are read from disk as they are used. Canary j has the slot `slot + j` of the samplers
    that choose among slots.
    """

    name: str
    kind: str
    observations: NDArray[np.float32]
    sizes: NDArray[np.float32]
    eligible: Bools
    client: NDArray[np.int64]
    slot: int
    example_level: bool

    @property
    def count(self) -> int:
        """Number of canaries, in or out."""
        return int(self.client.size)


def open_family(out: Path, name: str, rounds: int) -> FamilyView:
    """Return the first `rounds` rounds of a family of a run; raise DataError when its files cannot be read."""
    seen = out / "observations"
    try:
        about: Mapping[str, Any] = serialize.loads((seen / f"{name}.json").read_bytes())
        count = int(about["count"])
        observations, sizes = (_floats(seen / f"{name}{end}", rounds, count) for end in (".f32", ".size.f32"))
        return FamilyView(
            name=name, kind=str(about["kind"]), observations=observations, sizes=sizes,
            eligible=read_bits(seen / f"{name}.eligible.bits", count, rounds),
            client=np.asarray(about["client"], dtype=np.int64), slot=int(about["slot"]),
            example_level=bool(about["example_level"]),
        )  # fmt: skip
    except DataError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the canary family {name!r} in {out} cannot be read: {error}") from error


def _floats(path: Path, rounds: int, count: int) -> NDArray[np.float32]:
    if rounds == 0:
        return np.zeros((0, count), dtype=np.float32)
    return np.memmap(path, dtype="<f4", mode="r", shape=(rounds, count))


def family_coins(out: Path, name: str) -> Bools:
    """Return (m,) which canaries of a family are in. Only the code that joins coins and finished scores may call it."""
    try:
        with np.load(out / "coins" / f"{name}.npz", allow_pickle=False) as archive:
            return np.asarray(archive["coins"], dtype=np.bool_)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"the coins of {name!r} in {out} cannot be read: {error}") from error


def family_participation(out: Path, view: FamilyView) -> Bools:
    """Return (rounds, m) which canaries of a family contributed (coin in and sampled)."""
    return read_bits(out / f"private/{view.name}.participation.bits", view.count, len(view.observations))


def private_features(out: Path) -> int:
    """Return how many inputs the model of a run has for `feature` canaries, always 0 in use; 0 where no run is."""
    if not (out / RUN).is_file():
        return 0
    try:
        names = serialize.loads((out / RUN).read_bytes()).get("families", {})
        about = [serialize.loads((out / "observations" / f"{name}.json").read_bytes()) for name in names]
        return sum(int(family["count"]) for family in about if family["kind"] == "feature")
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the canary families of the run in {out} cannot be read: {error}") from error
