"""What the references of the bars for whole rounds make on this machine, beside dpaudit, in turns.

    python benchmarks/federated_reference.py --environments DIR       # makes DIR/jax if it is not there

The bars (25,000 clients/s, and 15,000 with DP-SGD inside every client) were set where a study had measured the
references below; `study` repeats its figures. What a plain epoch makes here, over what it made there, is how fast this
machine is; the mean of the two factors says what a bar amounts to here. (How the study wrote its nested map is not
known, so that one sets no factor.) References are bare: a fixed cohort, no server, no clip of the update, no noise, no
ledger; two of JAX's have the example-level clip, and then also noise. What dpaudit does is everything: Poisson cohort,
clip, noise, screening, digest, ledger line, optimizer.

200 clients x 100 examples x 64 features, MLP 64-32-10, cohort 50, five local steps of 20, one thread.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from _turns import serve
from federated_peers import HERE, Worker, environment, round_worker
from federated_speed import machine, table

COHORT, STEPS, BATCH = 50, 5, 20
STUDY = {
    ("tensorflow", "vectorized_map of an epoch"): 36_500,
    ("jax", "vmap and jit of an epoch"): 35_600,
    ("tensorflow", "nested vectorized_map, example-level clip"): 8_380,
}
PLAIN = tuple(STUDY)[:2]
BARS = {("dpaudit", "private rounds"): 25_000, ("dpaudit-local", "private rounds, DP-SGD in each client"): 15_000}
PER_CALL = {"dpaudit": 20, "dpaudit-local": 4}


def tensorflow_worker() -> None:
    """Serve the epoch of every client, and the same with clipped per-example gradients, as maps over clients."""
    import numpy as np
    import tensorflow as tf
    from federated_local_dp import data, nested

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((20_000, 64)), tf.float32)
    y = tf.constant(rng.integers(10, size=20_000), tf.int32)
    index = tf.constant(rng.integers(20_000, size=(COHORT, STEPS, BATCH)), tf.int32)
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    start = [tf.constant(0.1 * rng.standard_normal(shape), tf.float32) for shape in shapes]

    def loss(parts: list[Any], features: Any, labels: Any) -> Any:
        hidden = tf.nn.relu(features @ parts[0] + parts[1])
        logits = hidden @ parts[2] + parts[3]
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))

    def gradient(parts: list[Any], features: Any, labels: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(parts)
            value = loss(parts, features, labels)
        found: list[Any] = tape.gradient(value, parts)
        return found

    @tf.function(autograph=False)
    def epoch(start: list[Any], index: Any) -> Any:
        def of_client(positions: Any) -> Any:
            parts = start
            for step in range(STEPS):
                features, labels = tf.gather(x, positions[step]), tf.gather(y, positions[step])
                rows = gradient(parts, features, labels)
                parts = [part - 0.1 / BATCH * row for part, row in zip(parts, rows, strict=True)]
            return tf.concat([tf.reshape(a - b, [-1]) for a, b in zip(parts, start, strict=True)], axis=0)

        return tf.vectorized_map(of_client, index)

    calls = {
        "vectorized_map of an epoch": lambda: epoch(start, index).numpy(),
        "nested vectorized_map, example-level clip": nested(data(), noisy=False),
    }
    serve(calls, about=f"TensorFlow {tf.__version__}")


def local_worker() -> None:
    import tensorflow as tf
    from federated_local_dp import ROUNDS, data, whole_round

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    one = whole_round(data(), canaries=0, by_hand=True)
    serve({"private rounds, DP-SGD in each client": lambda: [one() for _ in range(ROUNDS)]}, about="dpaudit")


def rates(workers: dict[str, Worker], repetitions: int) -> dict[tuple[str, str], list[float]]:
    """Return clients per CPU-second of every step, one entry per repetition, all in turns."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repetitions):
        for key, worker in workers.items():
            for name, count in worker.steps.items():
                measured = worker.measure(name, count) if isinstance(count, int) else None
                if measured is None:
                    raise SystemExit(f"{key}, {name}: {count}")
                found.setdefault((key, name), []).append(COHORT * PER_CALL.get(key, 1) / measured[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".peers")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    own = {"dpaudit": round_worker, "dpaudit-local": local_worker, "tensorflow": tensorflow_worker}
    if options.worker:
        own[options.worker]()
        return
    commands = {name: [sys.executable, __file__, "--worker", name] for name in own}
    jax = environment(options.environments, "jax")
    if jax is not None:
        commands["jax"] = [str(jax), str(HERE / "federated_reference_jax.py")]
    workers = {key: Worker(command, threads=1) for key, command in commands.items()}
    found = rates(workers, options.repetitions)
    for worker in workers.values():
        worker.stop()
    middle = {key: statistics.median(series) for key, series in found.items()}
    speed = statistics.mean(middle[key] / STUDY[key] for key in PLAIN if key in middle)
    rows = []
    for (key, name), rate in middle.items():
        study, bar = STUDY.get((key, name)), BARS.get((key, name))
        columns = ["" if study is None else f"{study:,}", "" if study is None else f"{rate / study:.2f}"]
        columns += ["", "", ""] if bar is None else [f"{bar:,}", f"{bar * speed:,.0f}", f"{rate / bar / speed:.2f}"]
        rows.append((workers[key].about, name, f"{rate:,.0f}", *columns))
    print(f"{machine()}\n\nMedians of {options.repetitions} repetitions, clients per CPU-second, one thread.")
    table(("with", "what", "here", "study", "here / study", "bar", "bar, at this machine's speed", "reached"), rows)


if __name__ == "__main__":
    main()
