"""Local DP-SGD on every client (dp-local): whole rounds beside nested `vectorized_map`, in one process, one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/federated_local_dp.py

200 clients of 100 examples with 64 features, MLP 64-32-10, a Poisson cohort of about 50, five local steps on Poisson
batches of 20 expected examples, fresh noise on each of the five sums of each client. A whole round is everything:
cohort, local batches, noise, clipping, the server's screening and sum, the ledger line, the optimizer. The nested map
(clients, then examples, `tf.vectorized_map` twice) is the clients' arithmetic alone, on 50 clients with padded batches
as wide as a round's, once without any noise and once with noise from `tf.random.stateless_normal`. The last row says
what the machine is: the plain local epoch of `federated_speed`, hand-written in TensorFlow, no privacy and no server.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from federated_speed import hand_written, in_turns, machine, table

CLIENTS, EACH, FEATURES, CLASSES, STEPS, RATE, SHARE = 200, 100, 64, 10, 5, 0.2, 0.25
COHORT, WIDEST, ROUNDS = 50, 31, 4


def data() -> Any:
    from dpaudit.federated.data import Dataset

    rng = np.random.default_rng(0)
    x = rng.standard_normal((CLIENTS * EACH, FEATURES)).astype(np.float32)
    y = rng.integers(CLASSES, size=CLIENTS * EACH).astype(np.int32)
    owner = np.repeat(np.arange(CLIENTS), EACH).astype(np.int32)
    return Dataset(x=x, y=y, client=owner, classes=CLASSES, name="benchmark")


def whole_round(known: Any, *, canaries: int, by_hand: bool) -> Callable[[], int]:
    """Return a call that does one whole round and returns how many clients took part."""
    from dpaudit.config import CanarySection, TrainingSection
    from dpaudit.federated import aggregation, clients, engine, models, optimizers, sampling, server, silo_server
    from dpaudit.federated.canaries import make_canaries
    from dpaudit.ledger import PrivacyLedger

    training = TrainingSection(
        algorithm="dp-local",
        rounds=10,
        client_sampling_rate=SHARE,
        example_sampling_rate=RATE,
        server_learning_rate=0.1,
    )
    model = models.mlp((FEATURES,), CLASSES, hidden=(32,), root=1)
    functions = clients.ClientFunctions(model, (FEATURES,))
    if not by_hand:
        functions.no_chain = "the benchmark compares"
    runner = engine.make_engine(functions, known, training, root=1)
    population = sampling.Population(clients=CLIENTS, client_of=known.client)
    plan = server.Plan(
        training=training, population=population, root=1, direction=runner.direction,
        canaries=make_canaries(CanarySection(count=canaries), population, root=1),
    )  # fmt: skip
    host = silo_server.make_server(
        plan, aggregator=aggregation.aggregator_of(training, noise_multiplier=1.0),
        optimizer=optimizers.make_optimizer(training), weights=models.get_weights(model), ledger=PrivacyLedger(),
    )  # fmt: skip
    numbers = iter(range(10**9))
    return lambda: host.run_round(next(numbers), runner.run_cohort)[0].accepted


def nested(known: Any, *, noisy: bool) -> Callable[[], Any]:
    """Return a call that does the local steps of 50 clients by two nested maps."""
    import tensorflow as tf

    from dpaudit.federated import clients, models

    model = models.mlp((FEATURES,), CLASSES, hidden=(32,), root=1)
    functions = clients.ClientFunctions(model, (FEATURES,))
    start = tf.constant(models.get_weights(model), tf.float32)
    rng = np.random.default_rng(1)
    index = tf.constant(rng.integers(CLIENTS * EACH, size=(COHORT, STEPS, WIDEST)), tf.int32)
    mask = tf.constant(rng.random((COHORT, STEPS, WIDEST)) < 20 / WIDEST, tf.float32)
    x, y, one = tf.constant(known.x), tf.constant(known.y), tf.ones([1])
    size = int(start.shape[0])

    def local(positions: Any, masks: Any, noise: Any) -> Any:
        now = start
        for step in range(STEPS):

            def clipped(example: Any, now: Any = now) -> Any:
                features, label, inside = example
                row = functions._gradient(now, features[None], label[None], one, tf.constant([0, 0]))
                return row * (inside / tf.maximum(tf.norm(row), 1.0))

            batch = (tf.gather(x, positions[step]), tf.gather(y, positions[step]), masks[step])
            total = tf.reduce_sum(tf.vectorized_map(clipped, batch), axis=0)
            now = now - 0.005 * (total if noise is None else total + noise[step])
        return now - start

    @tf.function(autograph=False)
    def everybody(seed: Any) -> Any:
        if not noisy:
            return tf.vectorized_map(lambda pair: local(*pair, None), (index, mask))
        noise = tf.random.stateless_normal([COHORT, STEPS, size], seed)
        return tf.vectorized_map(lambda three: local(*three), (index, mask, noise))

    numbers = iter(range(2**31 - 1))
    return lambda: everybody(tf.constant([7, next(numbers)], tf.int32)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    import tensorflow as tf

    from dpaudit.federated.clients import deterministic_tensorflow
    from dpaudit.federated.local_noise import device_noise

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    deterministic_tensorflow()
    known, everybody = data(), np.arange(COHORT, dtype=np.int64)
    rounds = {
        "whole rounds": whole_round(known, canaries=0, by_hand=True),
        "whole rounds, 1,000 canaries": whole_round(known, canaries=1000, by_hand=True),
        "whole rounds, clients stacked in a graph": whole_round(known, canaries=0, by_hand=False),
    }
    several: dict[str, Callable[[], Any]] = {
        name: (lambda one=one: [one() for _ in range(ROUNDS)]) for name, one in rounds.items()
    }
    numbers = iter(range(10**9))
    parameters = FEATURES * 32 + 32 + 32 * CLASSES + CLASSES
    several["of that, the noise alone (cohort 50)"] = lambda: [
        device_noise(1, next(numbers), 0, everybody, steps=STEPS, width=parameters) for _ in range(ROUNDS)
    ]
    plain, noisy = nested(known, noisy=False), nested(known, noisy=True)
    several["nested vectorized_map, no noise, clients only (50)"] = plain
    several["nested vectorized_map with noise, clients only (50)"] = noisy
    epoch = hand_written(known, COHORT)
    several["this machine: plain epoch, hand-written in TensorFlow (50)"] = lambda: [epoch() for _ in range(ROUNDS)]
    print(f"{machine()}\n\nMedians of {options.repetitions} repetitions after a warm-up.")
    found, base = [], None
    for name, (wall, cpu) in in_turns(several, repetitions=options.repetitions, seconds=0.01).items():
        times = 1 if name.startswith("nested") else ROUNDS
        rates = [times * COHORT / statistics.median(series) for series in (wall, cpu)]
        base = cpu if base is None else base
        ratio = statistics.median(a / times / b * ROUNDS for a, b in zip(cpu, base, strict=True))
        found.append((name, *[f"{rate:,.0f}" for rate in rates], f"{ratio:.2f}"))
    table(
        ("200 clients x 100 x 64, MLP 64-32-10, 5 steps", "clients/s", "clients/CPU-s", "CPU, of whole rounds"), found
    )


if __name__ == "__main__":
    main()
