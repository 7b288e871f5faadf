"""How fast federated training is, beside plain SGD and beside the path without book-keeping, in one process.

    OMP_NUM_THREADS=1 python benchmarks/federated_speed.py            # one and two threads, about three minutes
    OMP_NUM_THREADS=1 python benchmarks/federated_speed.py --threads 1 --only steps

Every figure is the median of the repetitions after a warm-up; what is compared runs in turns within each repetition,
so that a busy machine slows all of it. Ratios are medians of the ratios within a repetition. CPU columns count the
processor time of the process, which other programs disturb less than the clock. Traps that the figures show: XLA
makes small convolutions slower on a CPU and recompiles for every size of a Poisson cohort, so nothing here is
compiled by XLA; `vectorized_map` of an embedding in front of attention corrupts memory in TensorFlow 2.21, so that
path is left out for the transformer.
"""

import argparse
import datetime as dt
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

BATCH = 256
Row = tuple[str, ...]


def machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{load}, Python {platform.python_version()}, {dt.date.today()}"


def in_turns(calls: dict[str, Callable[[], Any]], *, repetitions: int, seconds: float) -> dict[str, Any]:
    """Return per name the wall and CPU seconds of one call, one entry per repetition."""
    counts = {}
    for name, call in calls.items():
        call(), call()
        start = time.perf_counter()
        call()
        counts[name] = max(1, int(seconds / (time.perf_counter() - start)))
    found: dict[str, Any] = {name: ([], []) for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(counts[name]):
                call()
            found[name][0].append((time.perf_counter() - wall) / counts[name])
            found[name][1].append((time.process_time() - cpu) / counts[name])
    return found


def rows_of(found: dict[str, Any], first: str, title: str) -> list[Row]:
    """Return table rows: wall and CPU milliseconds, and the ratios to `first`."""
    rows = []
    for name, (wall, cpu) in found.items():
        ratios = [
            statistics.median(a / b for a, b in zip(mine, base, strict=True))
            for mine, base in zip((wall, cpu), found[first], strict=True)
        ]
        times = [f"{1e3 * statistics.median(series):.3f}" for series in (wall, cpu)]
        rows.append((title, name, *times, f"{ratios[0]:.2f}", f"{ratios[1]:.2f}"))
    return rows


def table(head: Row, rows: list[Row]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def networks() -> dict[str, tuple[Any, tuple[int, ...], bool]]:
    import keras

    layers = keras.layers
    cnn = [
        keras.Input((8, 8, 1)), layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(64, activation="relu"), layers.Dense(10),
    ]  # fmt: skip
    mlp = [keras.Input((64,)), *[layers.Dense(64, activation="relu") for _ in range(2)], layers.Dense(10)]
    tokens = keras.Input((16,))
    x = layers.Embedding(50, 32)(tokens)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 16)(x, x)]))
    hidden = layers.Dense(32)(layers.Dense(64, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, hidden])))
    return {
        "MLP 64-64-10": (keras.Sequential(mlp), (64,), True),
        "CNN 16-32-64 on 8x8": (keras.Sequential(cnn), (8, 8, 1), True),
        "transformer, 1 block of width 32, 16 tokens": (keras.Model(tokens, layers.Dense(10)(x)), (16,), False),
    }


def step_calls(model: Any, shape: tuple[int, ...], *, rows: bool) -> dict[str, Callable[[], Any]]:
    """Return the compiled steps: weights in, weights out, batch and sizes fixed."""
    import tensorflow as tf

    from dpaudit.federated import models
    from dpaudit.federated.clients import ClientFunctions

    rng = np.random.default_rng(0)
    functions = ClientFunctions(model, shape)
    features = (
        np.floor(50 * rng.random((BATCH, *shape))) if len(shape) == 1 and not rows else rng.random((BATCH, *shape))
    )
    x, y = tf.constant(features, tf.float32), tf.constant(rng.integers(10, size=BATCH), tf.int32)
    weights = tf.constant(models.get_weights(model), tf.float32)
    index, ones, seed, clip = tf.range(BATCH), tf.ones(BATCH), tf.constant([0, 0]), tf.constant(1.0)

    def noise(number: Any) -> Any:
        return tf.random.stateless_normal(tf.shape(weights), [7, number])

    def plain(w: Any, number: Any) -> Any:
        del number
        return w - 0.1 * functions._gradient(w, x, y, ones, seed)

    def clipped(w: Any, number: Any) -> Any:
        del number
        return w - (0.1 / BATCH) * functions._trace_clipped(w, x, y, index, clip, seed)[0]

    def noised(w: Any, number: Any) -> Any:
        return clipped(w, number) + (0.1 / BATCH) * noise(number)

    def mapped(w: Any, number: Any) -> Any:
        del number
        gradients = functions._trace_gradients(w, x, y, index, seed)
        factors = clip / tf.maximum(tf.norm(gradients, axis=1), clip)
        return w - (0.1 / BATCH) * tf.linalg.matvec(gradients, factors, transpose_a=True)

    steps = {"plain SGD": plain, "DP-SGD, book-keeping": clipped, "the same and noise": noised}
    steps |= {"DP-SGD, vectorized_map": mapped} if rows else {}
    number, calls = tf.constant(0), {}
    for name, step in steps.items():
        compiled = tf.function(step, autograph=False)
        calls[name] = lambda compiled=compiled: compiled(weights, number)
    difference = (
        float(tf.reduce_max(tf.abs(calls["DP-SGD, book-keeping"]() - calls[list(steps)[-1]]()))) if rows else 0.0
    )
    if functions.chain is not None:
        calls |= by_hand(functions, features.astype(np.float32), y.numpy())
        difference = max(difference, np.abs(calls["DP-SGD, dense chain"]() - calls["DP-SGD, book-keeping"]()).max())
    if difference > 1e-5:
        raise SystemExit(f"the paths differ by {difference}: not a benchmark")
    return calls


def by_hand(functions: Any, x: Any, y: Any) -> dict[str, Callable[[], Any]]:
    """Return the steps of a chain of Dense layers as a run takes them: NumPy, and the server's noise in float64."""
    from dpaudit.federated import models
    from dpaudit.federated.aggregation import GaussianSum

    chain, weights, everyone = functions.chain, models.get_weights(functions._model), np.arange(BATCH)
    shares, server = np.full((1, BATCH), 1 / BATCH, np.float32), GaussianSum(clip_norm=1.0, noise_multiplier=1.0)
    rounds = iter(range(10**9))

    def plain() -> Any:
        flat = weights.astype(np.float32)[None]
        return weights - 0.1 * chain.gradients(flat, x.take(everyone, axis=0)[None], y.take(everyone)[None], shares)[0]

    def total() -> Any:
        return functions.clipped_sum(weights, x, y, everyone, clip_norm=1.0, seed=(0, 0))[0]

    def noised() -> Any:
        return weights - 0.1 / BATCH * server.noised(total(), root=7, number=next(rounds), attempt=0).vector

    return {
        "plain SGD by hand": plain,
        "DP-SGD, dense chain": lambda: weights - 0.1 / BATCH * total(),
        "the same and the server's noise": noised,
    }


def steps(repetitions: int) -> None:
    found: list[Row] = []
    for title, (model, shape, rows) in networks().items():
        results = in_turns(step_calls(model, shape, rows=rows), repetitions=repetitions, seconds=0.15)
        found += rows_of(results, "plain SGD", title)
    head = (f"step, batch {BATCH}", "what", "wall ms", "CPU ms", "ratio", "ratio of CPU")
    table(head, found)


def server_of(training: Any, data: Any, hidden: tuple[int, ...], *, example_level: bool, rows: bool = False) -> Any:
    """Return a call that does one whole round (cohort, clients, clip, noise, ledger, optimizer)."""
    from dpaudit.federated import aggregation, canaries, clients, engine, models, optimizers, sampling, server
    from dpaudit.ledger import PrivacyLedger

    clients.deterministic_tensorflow()
    model = models.mlp(data.x.shape[1:], data.classes, hidden=hidden, root=1)
    functions = clients.ClientFunctions(model, data.x.shape[1:])
    runner = engine.make_engine(functions, data, training, root=1)
    if rows:
        runner = engine.FedSgdEngine(functions, data, root=1)
    people = int(data.client.max()) + 1
    population = sampling.Population(clients=people, client_of=data.client if example_level else None)
    plan = server.Plan(
        training=training, population=population, canaries=canaries.NO_CANARIES, root=1, direction=runner.direction
    )
    host = server.Server(
        plan,
        aggregator=aggregation.GaussianSum(clip_norm=training.clip_norm, noise_multiplier=1.0),
        optimizer=optimizers.make_optimizer(training),
        weights=models.get_weights(model),
        ledger=PrivacyLedger(),
    )
    numbers = iter(range(10**9))
    return lambda: host.run_round(next(numbers), runner.run_cohort)[0].accepted


def hand_written(data: Any, cohort: int) -> Callable[[], Any]:
    """The same local epoch (MLP 64-32-10, 5 steps of 20) as batched products by hand: no privacy, no server."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    sizes = [(64, 32), (32,), (32, 10), (10,)]
    start = [tf.constant(0.1 * rng.standard_normal((1, *size)), tf.float32) for size in sizes]
    x, y = tf.constant(data.x), tf.constant(data.y)
    index = tf.constant(rng.integers(data.y.size, size=(cohort, 5, 20)), tf.int32)

    @tf.function(autograph=False)
    def epoch(positions: Any) -> Any:
        w1, b1, w2, b2 = (tf.tile(part, [cohort] + [1] * (part.shape.rank - 1)) for part in start)
        for step in range(5):
            batch, labels = tf.gather(x, positions[:, step]), tf.gather(y, positions[:, step])
            hidden = tf.nn.relu(tf.matmul(batch, w1) + b1[:, None])
            g = (tf.nn.softmax(tf.matmul(hidden, w2) + b2[:, None]) - tf.one_hot(labels, 10)) / 20.0
            back = tf.matmul(g, w2, transpose_b=True) * tf.cast(hidden > 0, tf.float32)
            w2, b2 = w2 - 0.1 * tf.matmul(hidden, g, transpose_a=True), b2 - 0.1 * tf.reduce_sum(g, 1)
            w1, b1 = w1 - 0.1 * tf.matmul(batch, back, transpose_a=True), b1 - 0.1 * tf.reduce_sum(back, 1)
        return tf.concat([tf.reshape(part, [cohort, -1]) for part in (w1, b1, w2, b2)], axis=1)

    return lambda: epoch(index).numpy()


def rounds(repetitions: int) -> None:
    from dpaudit.config import TrainingSection
    from dpaudit.federated.data import Dataset

    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 64)).astype(np.float32)
    y, owner = rng.integers(10, size=20_000).astype(np.int32), np.repeat(np.arange(200), 100).astype(np.int32)
    data = Dataset(x=x, y=y, client=owner, classes=10, name="benchmark")
    fedavg = TrainingSection(algorithm="dp-fedavg", rounds=10, client_sampling_rate=0.25, local_batch_size=20)
    one_round = server_of(fedavg, data, (32,), example_level=False)
    epoch = hand_written(data, 50)
    twenty = {
        "whole private rounds": lambda: [one_round() for _ in range(20)],
        "hand-written epoch, cohort 50": lambda: [epoch() for _ in range(20)],
    }
    found = []
    for name, (wall, cpu) in in_turns(twenty, repetitions=repetitions, seconds=0.1).items():
        rates = [20 * 50 / statistics.median(series) for series in (wall, cpu)]
        found.append((name, *[f"{rate:,.0f}" for rate in rates]))
    table(("client level, 200 clients x 100 x 64, MLP 64-32-10", "clients/s", "clients/CPU-s"), found)
    small = Dataset(x=x[:1348], y=y[:1348], client=(np.arange(1348) % 50).astype(np.int32), classes=10, name="digits")
    fedsgd = TrainingSection(algorithm="dp-fedsgd", rounds=10, client_sampling_rate=0.5, example_sampling_rate=0.2)
    calls = {
        "vectorized_map": server_of(fedsgd, small, (64,), example_level=True, rows=True),
        "book-keeping": server_of(fedsgd, small, (64,), example_level=True),
    }
    results = in_turns(calls, repetitions=repetitions, seconds=0.2)
    head = ("whole rounds, example level", "path", "wall ms", "CPU ms", "ratio", "ratio of CPU")
    table(head, rows_of(results, "vectorized_map", "1,348 examples, 50 clients, MLP 64-64-10 (the main example)"))


def cnn(repetitions: int) -> None:
    """Local SGD of 10 clients of 100 examples, beside plain SGD over the same 1,000 examples at once: the limit."""
    import keras
    import tensorflow as tf

    from dpaudit.federated import clients, models

    clients.deterministic_tensorflow()
    layers, rng = keras.layers, np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)), layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(10),
        ]
    )  # fmt: skip
    functions, weights = clients.ClientFunctions(model, (28, 28, 1)), models.get_weights(model)
    x = tf.constant(rng.standard_normal((1000, 28, 28, 1)), tf.float32)
    y, start = tf.constant(rng.integers(10, size=1000), tf.int32), tf.constant(weights, tf.float32)
    index, mask = rng.permutation(1000).reshape(10, 5, 20).astype(np.int32), np.ones((10, 5, 20), np.float32)
    ones, seed = tf.ones(1000), tf.constant([0, 0])
    plain = tf.function(lambda w: w - 0.1 * functions._gradient(w, x, y, ones, seed), autograph=False)
    calls = {
        "plain SGD, batch 1,000": lambda: plain(start).numpy(),
        "10 clients, batch 20": lambda: functions.local_updates(
            weights, (x, y), index=index, mask=mask, learning_rate=0.1, seed=(0, 0)
        ),
    }
    found = []
    for name, (wall, cpu) in in_turns(calls, repetitions=repetitions, seconds=0.3).items():
        found.append((name, *[f"{1000 / statistics.median(series):,.0f}" for series in (wall, cpu)]))
    table(("CNN 28x28, conv 16, conv 32, dense 10", "examples/s", "examples/CPU-s"), found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="threads of TensorFlow; without it, 1 and then 2")
    parser.add_argument("--only", choices=["steps", "rounds", "cnn"])
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    if options.threads is None:
        print(f"{machine()}\n\nMedians of {options.repetitions} repetitions after a warm-up.")
        for threads in ("1", "2"):
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--threads", threads], check=True)
        return
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    print(f"\n### {options.threads} thread{'s' if options.threads > 1 else ''}")
    parts = {"steps": steps, "rounds": rounds, "cnn": cnn}
    for name, part in parts.items():
        if options.only in (None, name):
            part(options.repetitions)


if __name__ == "__main__":
    main()
