"""The files of a training run, and how to read them.

    ledger.jsonl                       what was spent
    run.json                           sizes and plan, written before the first round
    observations/canaries.f32          per round: the noisy sum on each canary's coordinate, in clip norms
    observations/eligible.bits         per round: the clients that answered
                                       (with dp-local the other lines are per local step of a round)
    observations/canary_client.npy     the client of each canary
    coins/coins.npz                    which canaries are in; nothing else may read it before scores exist
    private/                           readable by the owner only: root seed, checkpoint, who was sampled
    */NAME.*                           the same of the canary family NAME; see dpaudit.federated.canary_log
    model.keras, result.json           written at the end

Who was sampled, and the exact counts in the ledger, are for the auditor: epsilon does not cover publishing them.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import serialize
from dpaudit.errors import DataError

Bools = NDArray[np.bool_]

LEDGER = "ledger.jsonl"
RUN = "run.json"
RESULT = "result.json"
MODEL = "model.keras"
OBSERVATIONS = "observations/canaries.f32"
ELIGIBLE = "observations/eligible.bits"
CANARY_CLIENT = "observations/canary_client.npy"
COINS = "coins/coins.npz"
ROOT = "private/root.json"
CHECKPOINT = "private/checkpoint.npz"
PARTICIPATION = "private/participation.bits"
CANARY_PARTICIPATION = "private/canary_participation.bits"
DRAWN = "private/drawn.bits"
CHOSEN = "private/chosen.bits"
DRAWS = "private/draws.i32"
MODEL_NOISE = "private/model_noise.f64"
CLIENT_NOISE = "private/client_noise.f64"
MARKERS = (ROOT, LEDGER, RUN, RESULT, MODEL, COINS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What a run left, coins and participation apart.

    `observations` float32 (rounds_done, m) is read from disk as it is used. `eligible` (rounds_done, clients) says
    which clients answered. `canary_client` (m,) is the client that holds each canary; for client-level privacy its
    own id, clients + j. `families` are the names of the canary families. With dp-local a round has `steps` lines of
    observations, one for each local step (else 1), which hold 0 where the canary's client was not there.
    `holdout_accuracy` is None until the run is complete. `noise_draws` counts the different (round, attempt) pairs for
    which noise was drawn.
    """

    out: Path
    rounds_done: int
    rounds_planned: int
    clients: int
    units: int
    example_level: bool
    ledger: Path
    model: Path
    observations: NDArray[np.float32]
    eligible: Bools
    canary_client: NDArray[np.int64]
    holdout_accuracy: float | None
    noise_draws: int
    complete: bool
    families: tuple[str, ...] = ()
    steps: int = 1

    def step_eligible(self) -> Bools:
        """Return (rounds_done x steps, clients): the clients that answered, once for each local step."""
        return np.repeat(self.eligible, self.steps, axis=0)

    def canary_eligible(self) -> Bools:
        """Return (rounds_done x steps, m): could this canary have taken part? A canary client can always."""
        if self.example_level:
            return np.asarray(self.step_eligible()[:, self.canary_client])
        return np.ones((self.rounds_done, self.canary_client.size), dtype=np.bool_)


def stored_root(out: Path) -> int | None:
    """Return the root seed of the run in `out`, or None if there is no run; data must be prepared with it to resume."""
    path = out / ROOT
    if not path.is_file():
        return None
    try:
        return int(serialize.loads(path.read_bytes())["root"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not hold the root seed of a run: {error}") from error


def _description(out: Path) -> dict[str, Any]:
    path = out / RUN
    if not path.is_file():
        raise DataError(f"{out} holds no training run: there is no {RUN}.")
    found = serialize.loads(path.read_bytes())
    if not isinstance(found, dict) or found.get("schema") != "dpaudit.training-run/v1":
        raise DataError(f"{path} does not describe a training run of schema dpaudit.training-run/v1.")
    return found


def bytes_of_bits(columns: int) -> int:
    """Return the bytes of one round of `columns` bits."""
    return -(-columns // 8)


def read_bits(path: Path, columns: int, rounds: int) -> Bools:
    """Return (rounds, columns) of a file of bits; raise DataError when it holds fewer rounds."""
    wanted = rounds * bytes_of_bits(columns)
    data = np.fromfile(path, dtype=np.uint8, count=wanted) if path.is_file() else np.zeros(0, np.uint8)
    if data.size != wanted:
        raise DataError(f"{path} holds fewer than {rounds} rounds; the run's files do not belong together.")
    bits = np.unpackbits(data.reshape(rounds, bytes_of_bits(columns)), axis=1, count=columns)
    return bits.astype(np.bool_)


def _rounds_in(path: Path, bytes_per_round: int, *, otherwise: int) -> int:
    if bytes_per_round == 0:
        return otherwise
    return path.stat().st_size // bytes_per_round if path.is_file() else 0


def steps_in(description: dict[str, Any]) -> int:
    """Return how many lines a round has: its local steps with dp-local, else 1."""
    return int(description.get("steps", 1))


def rounds_on_disk(out: Path, description: dict[str, Any]) -> int:
    """Return how many whole rounds all observation files hold."""
    planned, canaries = int(description["rounds"]), int(description["canaries"])
    slots, steps = int(description.get("slots", 0)), steps_in(description)
    chosen = [(name, bytes_of_bits(slots)) for name in (DRAWN, CHOSEN) if slots]
    sizes = [
        *chosen,
        (OBSERVATIONS, 4 * canaries * steps),
        (ELIGIBLE, bytes_of_bits(int(description["clients"]))),
        (PARTICIPATION, bytes_of_bits(int(description["units"])) * steps),
        (CANARY_PARTICIPATION, bytes_of_bits(canaries) * steps),
        *(line for lines in description.get("families", {}).values() for line in lines.items()),
    ]
    return min(_rounds_in(out / name, size, otherwise=planned) for name, size in sizes)


def _observations(path: Path, rounds: int, canaries: int) -> NDArray[np.float32]:
    if rounds * canaries == 0:
        return np.zeros((rounds, canaries), dtype=np.float32)
    return np.memmap(path, dtype="<f4", mode="r", shape=(rounds, canaries))


def _distinct_draws(path: Path) -> int:
    if not path.is_file():
        return 0
    pairs = np.fromfile(path, dtype="<i4")
    return len(np.unique(pairs[: pairs.size // 2 * 2].reshape(-1, 2), axis=0))


def open_run(out: Path) -> TrainingRun:
    """Open the run in `out`, finished or not; coins and participation stay closed.

    Raises: DataError when there is no run, or its files do not belong together.
    """
    about = _description(out)
    rounds, canaries = rounds_on_disk(out, about), int(about["canaries"])
    result_file = out / RESULT
    result = serialize.loads(result_file.read_bytes()) if result_file.is_file() else None
    try:
        holders = np.load(out / CANARY_CLIENT, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{out / CANARY_CLIENT} cannot be read: {error}") from error
    return TrainingRun(
        out=out,
        rounds_done=rounds,
        rounds_planned=int(about["rounds"]),
        clients=int(about["clients"]),
        units=int(about["units"]),
        example_level=bool(about["example_level"]),
        ledger=out / LEDGER,
        model=out / MODEL,
        observations=_observations(out / OBSERVATIONS, rounds * steps_in(about), canaries),
        eligible=read_bits(out / ELIGIBLE, int(about["clients"]), rounds),
        canary_client=holders.astype(np.int64),
        holdout_accuracy=None if result is None else result["holdout_accuracy"],
        noise_draws=_distinct_draws(out / DRAWS),
        complete=result is not None,
        families=tuple(about.get("families", ())),
        steps=steps_in(about),
    )


def load_coins(out: Path) -> Bools:
    """Return (m,) which canaries are in. Only the code that joins coins and finished scores may call this."""
    try:
        with np.load(out / COINS, allow_pickle=False) as archive:
            return np.asarray(archive["coins"], dtype=np.bool_)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{out / COINS} cannot be read: {error}") from error


def load_participation(out: Path) -> Bools:
    """Return (rounds_done x steps, units) which units contributed, for the check of the sampler."""
    about = _description(out)
    return read_bits(out / PARTICIPATION, int(about["units"]), rounds_on_disk(out, about) * steps_in(about))


def load_canary_participation(out: Path) -> Bools:
    """Return (rounds_done x steps, m) which canaries contributed (coin in and sampled)."""
    about = _description(out)
    rounds = rounds_on_disk(out, about) * steps_in(about)
    return read_bits(out / CANARY_PARTICIPATION, int(about["canaries"]), rounds)


def load_slots(out: Path) -> tuple[Bools, Bools] | None:
    """Return which slots a sampler of slots drew, and which of them it left in, (rounds_done, units + m) each.

    Slots are the units, then the canaries whatever their coins say: this tells nothing about the coins. None where
    the sampler flips a coin per unit.
    """
    about = _description(out)
    slots, rounds = int(about.get("slots", 0)), rounds_on_disk(out, about)
    if not slots:
        return None
    return read_bits(out / DRAWN, slots, rounds), read_bits(out / CHOSEN, slots, rounds)


def load_model_noise(out: Path) -> tuple[NDArray[np.float64], int]:
    """Return, per round, the sum of squares of the noise on the model's coordinates (clip norms), and their number."""
    about = _description(out)
    rounds = rounds_on_disk(out, about)
    path = out / MODEL_NOISE
    squares = np.fromfile(path, dtype="<f8", count=rounds) if path.is_file() else np.zeros(0)
    if squares.size != rounds:
        raise DataError(f"{path} holds fewer than {rounds} rounds; the run's files do not belong together.")
    return squares, int(about["parameters"])


def load_client_noise(out: Path) -> NDArray[np.float64]:
    """Return (rounds_done, clients), with dp-local: the sum of squares of the noise in each client's update.

    Over all steps and the model's coordinates, in clip norms and per step; NaN where no update was accepted.
    """
    about = _description(out)
    shape = rounds_on_disk(out, about), int(about["clients"])
    path = out / CLIENT_NOISE
    squares = np.fromfile(path, dtype="<f8", count=shape[0] * shape[1]) if path.is_file() else np.zeros(0)
    if squares.size != shape[0] * shape[1]:
        raise DataError(f"{path} holds fewer than {shape[0]} rounds; the run's files do not belong together.")
    return squares.reshape(shape)


def predict_logits(model_path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (n, classes) of a saved .keras model; raise DataError when it cannot be read."""
    from dpaudit.federated import models

    return models.logits_of(models.load_model(model_path), x)


def released_weights(model_path: Path) -> NDArray[np.float32]:
    """Return the trainable weights of a saved .keras model as one float32 vector."""
    from dpaudit.federated import models

    return models.get_weights(models.load_model(model_path)).astype(np.float32)


def checkpoint_weights(out: Path) -> NDArray[np.float64]:
    """Return the weights of the run's last checkpoint; raise DataError when there is none."""
    try:
        with np.load(out / CHECKPOINT, allow_pickle=False) as archive:
            return np.asarray(archive["weights"], dtype=np.float64)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{out / CHECKPOINT} cannot be read: {error}") from error


def npz_bytes(**arrays: Any) -> bytes:
    """Return arrays as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
