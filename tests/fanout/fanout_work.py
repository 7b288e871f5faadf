"""What the tests of dpaudit.fanout run in workers; imported there by this name."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from dpaudit import _rng
from dpaudit.errors import DataError
from dpaudit.records import ScoreSet


def draw(scale, size, *, seed):
    values = scale * _rng.stream(seed, "draw").normal(size=size)
    return {
        "values": values,
        "mean": float(values.mean()),
        "single": values.astype(np.float32)[0],
        "pair": (size, None),
    }


def scaled(table, factor):
    return factor * table


def process(_):
    return os.getpid()


def threads():
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")}


def sleepy(seconds, value):
    time.sleep(seconds)
    return value


def fails(message):
    raise DataError(message)


def unsendable():
    return lambda: 0


def dies(mark, times):
    """Kill this worker, the first `times` times."""
    seen = Path(mark)
    count = int(seen.read_text()) if seen.exists() else 0
    if count < times:
        seen.write_text(str(count + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return count


def counted(folder, value):
    """Leave a mark for each time that this is really run."""
    (Path(folder) / f"{value}-{time.monotonic_ns()}").touch()
    return np.full(3, value)


def noisy(dataset, n, rng):
    return dataset + rng.laplace(size=n)


def fails_sometimes(dataset, n, rng):
    return noisy(dataset, n, rng) if n < 100 else 1 / 0


def scores(rng, size):
    coins = rng.random(size) < 0.5
    values = 0.8 * coins + rng.normal(size=size)
    return ScoreSet(member=values[coins], non_member=values[~coins])
