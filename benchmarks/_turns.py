"""Measure steps that live in several processes, in turns: what one process must speak to take part.

A worker prints one JSON line with the names of its steps (or why one is missing), then answers every line
`NAME CALLS` on its standard input with the wall and CPU seconds that so many calls took.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH, CLASSES, TOKENS, VOCABULARY, WIDTH = 256, 10, 16, 50, 32
MODELS = ("mlp", "cnn", "transformer", "lstm")


def data_for(model: str) -> tuple[Any, Any]:
    """Return the batch that every framework works on: features float32 (or tokens int32) and labels int32."""
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = {"mlp": (64,), "cnn": (8, 8, 1)}
    if model in shapes:
        x = rng.random((BATCH, *shapes[model]), dtype=np.float32)
    else:
        x = rng.integers(VOCABULARY, size=(BATCH, TOKENS)).astype(np.int32)
    return x, rng.integers(CLASSES, size=BATCH).astype(np.int32)


def time_calls(call: Callable[[], Any], count: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def serve(calls: dict[str, Callable[[], Any]], *, about: str) -> None:
    """Warm up, say what there is, and time what is asked for until the input ends."""
    ready: dict[str, int | str] = {}
    for name, call in calls.items():
        try:
            call(), call()
            ready[name] = max(1, int(0.15 / time_calls(call, 3)[0]))
        except Exception as error:  # a peer that cannot do a model is a result
            ready[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
    print(json.dumps({"about": about, "steps": ready}), flush=True)
    for line in sys.stdin:
        name, count = line.rsplit(" ", 1)
        print(json.dumps(time_calls(calls[name], int(count))), flush=True)
