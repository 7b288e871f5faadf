"""DP-SGD beside its peers: tensorflow-privacy's vectorised optimizer, JAX vmap and jit, and for whole rounds pfl.

    python benchmarks/federated_peers.py --environments DIR       # makes DIR/jax and DIR/pfl if they are not there
    python benchmarks/federated_peers.py --environments DIR --only mlp --threads 1

Every framework runs in a process of its own (tensorflow-privacy needs Keras 2, JAX and pfl environments of their own)
and all of them work in turns: within a repetition each step of each framework is timed once, so that a busy machine
slows all of it. Figures are medians of the repetitions; ratios are medians of the ratios within a repetition. `plain`
is SGD on the mean gradient in the same framework; `clipped` adds per-example clipping; `noised` also the Gaussian
noise, drawn in the graph. "The server's noise" is what `GaussianSum` draws: numpy's Philox in float64, outside the
graph. Batch 256, one batch in memory, weights in and weights out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from _turns import MODELS, data_for, serve
from federated_speed import machine, table

HERE = Path(__file__).resolve().parent
TITLES = {
    "mlp": "MLP 64-64-10",
    "cnn": "CNN 16-32-64 on 8x8",
    "transformer": "transformer, 1 block of width 32, 16 tokens",
    "lstm": "LSTM 32 on 16 tokens",
}
BARS = {"mlp": 1.2, "cnn": 1.8, "transformer": 3.0, "lstm": 3.0}
PACKAGES = {"jax": ["jax"], "pfl": ["pfl==0.6.0", "tf_keras", "tensorflow-cpu", "tensorflow-probability"]}


def keras_model(name: str) -> Any:
    """Return the Keras 3 model of the same architecture as in the workers of the peers."""
    import keras
    from _turns import CLASSES, TOKENS, VOCABULARY, WIDTH

    layers = keras.layers
    if name == "mlp":
        return keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(CLASSES)])
    if name == "cnn":
        return keras.Sequential([
            keras.Input((8, 8, 1)), layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
            layers.Dense(64, activation="relu"), layers.Dense(CLASSES),
        ])  # fmt: skip
    tokens = keras.Input((TOKENS,), dtype="int32")
    if name == "lstm":
        x = layers.LSTM(WIDTH)(layers.Embedding(VOCABULARY, 16)(tokens))
        return keras.Model(tokens, layers.Dense(CLASSES)(x))
    x = layers.Embedding(VOCABULARY, WIDTH)(tokens)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, WIDTH // 2)(x, x)]))
    hidden = layers.Dense(WIDTH)(layers.Dense(64, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, hidden])))
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def own_worker(name: str, threads: int) -> None:
    """Serve the steps of dpaudit: the clipped gradient of `LossFunctions`, as `PrivateTrainer` uses it."""
    import numpy as np
    import tensorflow as tf
    from _turns import BATCH

    from dpaudit.federated import models
    from dpaudit.federated.keras_functions import LossFunctions

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    x, y = data_for(name)
    model = keras_model(name)
    from keras.losses import SparseCategoricalCrossentropy

    functions = LossFunctions(model, SparseCategoricalCrossentropy(from_logits=True), x=x, y=y)
    if functions.no_bookkeeping is not None:
        raise SystemExit(functions.no_bookkeeping)
    xs, ys, seed, clip = tf.constant(x), tf.constant(y), tf.constant([0, 0]), tf.constant(1.0)
    weights = tf.constant(models.get_weights(model), tf.float32)
    generator = np.random.Generator(np.random.Philox(7))

    def plain(w: Any) -> Any:
        return w - (0.1 / BATCH) * functions.gradient(w, xs, ys, seed)

    def clipped(w: Any) -> Any:
        return w - (0.1 / BATCH) * functions.clipped_gradient(w, xs, ys, clip, seed)[0]

    def noised(w: Any, number: Any) -> Any:
        return clipped(w) + (0.1 / BATCH) * tf.random.stateless_normal(tf.shape(w), [7, number])

    steps = {key: tf.function(step, autograph=False) for key, step in (("plain", plain), ("clipped", clipped))}
    calls: dict[str, Any] = {key: (lambda step=step: step(weights)) for key, step in steps.items()}
    in_graph, number, size = tf.function(noised, autograph=False), tf.constant(0), int(weights.shape[0])
    calls["clipped and noised"] = lambda: in_graph(weights, number)
    calls["clipped, and the server's noise"] = lambda: (steps["clipped"](weights), generator.standard_normal(size))
    serve(calls, about=f"dpaudit, Keras 3, TensorFlow {tf.__version__}")


def environment(folder: Path, name: str) -> Path | None:
    """Return the Python of a peer's environment, made with pip if it is not there; None if that fails."""
    python = folder / name / "bin" / "python"
    if not python.is_file():
        print(f"making {folder / name}", file=sys.stderr)
        install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name]]
        for command in ([sys.executable, "-m", "venv", str(folder / name)], install):
            if subprocess.run(command, check=False).returncode:
                return None
    return python


class Worker:
    """A process that serves steps; see _turns.py."""

    def __init__(self, command: Sequence[str], *, threads: int) -> None:
        flags = f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}"
        env = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} intra_op_parallelism_threads={threads}",
            "PYTHONPATH": str(HERE),
        }  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        answer = self._answer()
        self.about = "?" if answer is None else answer["about"]
        self.steps: dict[str, Any] = {"(all)": "the process died"} if answer is None else answer["steps"]

    def _answer(self) -> Any:
        """Return the next line of JSON; None when the process has ended."""
        for line in self._process.stdout or []:
            if line.startswith(("{", "[")):
                return json.loads(line)
        return None

    def measure(self, name: str, count: int) -> tuple[float, float] | None:
        if self._process.stdin is None:
            return None
        self._process.stdin.write(f"{name} {count}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return None if answer is None else (answer[0], answer[1])

    def stop(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=60)


def compare(workers: dict[str, Worker], *, repetitions: int, title: str, base: str) -> list[tuple[str, ...]]:
    """Time every step of every worker in turns; return the rows of the table."""
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    rows = []
    for _ in range(repetitions):
        for key, worker in workers.items():
            for name, count in worker.steps.items():
                found = worker.measure(name, count) if isinstance(count, int) else None
                if found is not None:
                    series.setdefault((key, name), []).append(found)
    for key, worker in workers.items():
        for name, count in worker.steps.items():
            mine = series.get((key, name), [])
            if len(mine) < repetitions:
                rows.append((title, worker.about, name, "-", "-", str(count), "-"))
                continue

            def ratio(other: tuple[str, str], column: int, mine: list[tuple[float, float]] = mine) -> str:
                pairs = zip(mine, series[other], strict=True)
                return f"{statistics.median(a[column] / b[column] for a, b in pairs):.2f}"

            wall, cpu = (f"{1e3 * statistics.median(m[column] for m in mine):.3f}" for column in (0, 1))
            own = ratio((key, base), 0) + " / " + ratio((key, base), 1)
            other = ratio(("dpaudit", name), 0) if ("dpaudit", name) in series else "-"
            rows.append((title, worker.about, name, wall, cpu, own, other))
    return rows


def steps(options: argparse.Namespace, threads: int) -> None:
    jax = environment(options.environments, "jax")
    head = ("step, batch 256", "with", "what", "wall ms", "CPU ms", "of its own plain, wall / CPU", "of dpaudit's")
    rows = []
    for name in [options.only] if options.only in MODELS else MODELS:
        commands = {
            "dpaudit": [sys.executable, __file__, "--worker", name, "--threads", str(threads)],
            "jax": [str(jax), str(HERE / "federated_peers_jax.py"), name] if jax else None,
            "tfp": [sys.executable, str(HERE / "federated_peers_tfp.py"), name, str(threads)],
        }
        workers = {key: Worker(command, threads=threads) for key, command in commands.items() if command}
        rows += compare(workers, repetitions=options.repetitions, title=TITLES[name], base="plain")
        for worker in workers.values():
            worker.stop()
    table(head, rows)
    for name, bar in BARS.items():
        found = [row for row in rows if row[0] == TITLES[name] and "dpaudit" in row[1] and row[2] != "plain"]
        print("\n".join(f"{TITLES[name]}, {row[2]}: {row[5]}, bar {bar}" for row in found))


def rounds(options: argparse.Namespace, threads: int) -> None:
    pfl = environment(options.environments, "pfl")
    commands = {
        "dpaudit": [sys.executable, __file__, "--worker", "rounds", "--threads", str(threads)],
        "pfl": [str(pfl), str(HERE / "federated_peers_pfl.py"), str(threads)] if pfl else None,
    }
    workers = {key: Worker(command, threads=threads) for key, command in commands.items() if command}
    head = (
        "20 rounds, 200 clients x 100 x 64, MLP 64-32-10, cohort 50",
        "with",
        "what",
        "wall ms",
        "CPU ms",
        "of its own",
        "of dpaudit's wall",
    )
    base = "private rounds"
    table(head, compare(workers, repetitions=options.repetitions, title="client level", base=base))
    for worker in workers.values():
        worker.stop()


def round_worker() -> None:
    import numpy as np
    from federated_speed import server_of

    from dpaudit.config import TrainingSection
    from dpaudit.federated.data import Dataset

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_000, 64)).astype(np.float32), rng.integers(10, size=20_000).astype(np.int32)
    data = Dataset(x=x, y=y, client=np.repeat(np.arange(200), 100).astype(np.int32), classes=10, name="benchmark")
    fedavg = TrainingSection(algorithm="dp-fedavg", rounds=10, client_sampling_rate=0.25, local_batch_size=20)
    one = server_of(fedavg, data, (32,), example_level=False)
    serve({"private rounds": lambda: [one() for _ in range(20)]}, about="dpaudit, Poisson, clip, noise, ledger")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".peers")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", choices=[*MODELS, "rounds", "steps"])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        round_worker() if options.worker == "rounds" else own_worker(options.worker, options.threads)
        return
    print(f"{machine()}\n\nMedians of {options.repetitions} repetitions after a warm-up.")
    for threads in [options.threads] if options.threads else [1, 2]:
        print(f"\n### {threads} thread{'s' if threads > 1 else ''}")
        if options.only != "rounds":
            steps(options, threads)
        if options.only in (None, "rounds"):
            rounds(options, threads)


if __name__ == "__main__":
    main()
