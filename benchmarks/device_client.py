"""The client on a device beside TensorFlow: memory and time to the first update of a fresh process, updates per second.

    python benchmarks/device_client.py [--repeats 5]

Work: an MLP 64-32-10 (2,410 parameters), 100 examples, one epoch of batches of 20. Every start is a process of its own;
the two kinds take turns. Time to the first update is from the start of Python's main program to the update in hand:
imports, the model, one update. CPU time and the least wall time are shown, because other work shares the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EXAMPLES, FEATURES, CLASSES, BATCH = 100, 64, 10, 20
_FIRST = """
import json, resource, sys, time
start, cpu = time.perf_counter(), time.process_time()
flower = {flower}
if flower:
    import flwr.clientapp
import numpy as np
with np.load({data!r}) as held:
    weights, x, y = held["weights"], held["x"], held["y"]
{body}
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
status = open("/proc/self/status").read()
resident, peak = (int(status.split(name)[1].split()[0]) / 1024 for name in ("VmRSS:", "VmHWM:"))
assert "tensorflow" in sys.modules or {device}
assert not ("tensorflow" in sys.modules and {device})
print(json.dumps(dict(wall=wall, cpu=cpu, resident=resident, peak=peak, delta=[float(d) for d in delta])))
"""
_DEVICE = """
from dpaudit.device import DeviceClient
delta = DeviceClient({file!r}).update(weights, x, y, key=1).delta
"""
_TENSORFLOW = """
import tensorflow as tf
import keras
from dpaudit.device.order import local_batches
from dpaudit.federated.clients import ClientFunctions
layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
functions = ClientFunctions(keras.Sequential([keras.Input((64,)), *layers]), (64,))
index, mask = local_batches(1, len(y), epochs=1, batch=20)
delta = functions.local_updates(
    weights, functions.place(x, y), index=index[None], mask=mask[None], learning_rate=0.1, seed=(0, 0)
)[0]
"""


def made(folder: Path):
    """Write the client and the data of a round; return the model's functions for the comparison in one process."""
    import keras

    from dpaudit.config import TrainingSection
    from dpaudit.federated import models
    from dpaudit.federated.clients import ClientFunctions
    from dpaudit.federated.data import Dataset
    from dpaudit.federated.device_export import make_client

    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    x = rng.standard_normal((EXAMPLES, FEATURES)).astype(np.float32)
    y = rng.integers(CLASSES, size=EXAMPLES).astype(np.int32)
    data = Dataset(x=x, y=y, client=np.zeros(EXAMPLES, np.int32), classes=CLASSES, name="noise")
    options = {"algorithm": "dp-fedavg", "rounds": 1, "client_sampling_rate": 1.0, "clip_norm": 1e6}
    training = TrainingSection.model_validate({**options, "local_batch_size": BATCH})
    functions = ClientFunctions(model, (FEATURES,))
    start = time.perf_counter()
    (folder / "client.tflite").write_bytes(make_client(model, training, data, functions=functions))
    size = (folder / "client.tflite").stat().st_size
    print(f"export: {time.perf_counter() - start:.2f} s, {size} bytes, every function compared with TensorFlow")
    np.savez(folder / "round.npz", weights=models.get_weights(model), x=x, y=y)
    return functions, models.get_weights(model), x, y


def first_updates(folder: Path, repeats: int) -> None:
    kinds = {"device": _DEVICE.format(file=str(folder / "client.tflite")), "TensorFlow": _TENSORFLOW}
    found: dict[tuple[str, bool], list[dict]] = {}
    for _ in range(repeats):
        for flower in (False, True):
            for kind, body in kinds.items():
                code = _FIRST.format(flower=flower, data=str(folder / "round.npz"), body=body, device=kind == "device")
                quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "FLWR_TELEMETRY_ENABLED": "0"}
                done = subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=quiet
                )
                found.setdefault((kind, flower), []).append(json.loads(done.stdout.splitlines()[-1]))
    for (kind, flower), runs in sorted(found.items(), key=lambda item: item[0][1]):
        cpu, wall = statistics.median(run["cpu"] for run in runs), min(run["wall"] for run in runs)
        resident, peak = (statistics.median(run[name] for run in runs) for name in ("resident", "peak"))
        name = kind + (" + flwr.clientapp" if flower else "")
        print(f"{name:28} CPU {cpu:6.2f} s, least wall {wall:6.2f} s, resident {resident:6.1f} MB, peak {peak:6.1f} MB")
    device, other = (np.array(found[kind, False][0]["delta"]) for kind in kinds)
    print(f"largest difference of the deltas: {np.abs(device - other).max():.2g} of {np.abs(other).max():.2g}")


def updates_per_second(folder: Path, functions, weights, x, y, *, turns: int = 15) -> None:
    """Clients per CPU second, in turns in one process: one after the other in LiteRT, 50 at a time in process."""

    from dpaudit.device import DeviceClient
    from dpaudit.device.order import local_batches

    client, flat = DeviceClient(folder / "client.tflite"), weights.astype(np.float32)
    index, mask = local_batches(1, EXAMPLES, epochs=1, batch=BATCH)
    examples = functions.place(x, y)

    def process(count: int) -> None:
        many = (np.repeat(array[None], count, axis=0) for array in (index, mask))
        functions.local_updates(weights, examples, index=next(many), mask=next(many), learning_rate=0.1, seed=(0, 0))

    def lite() -> None:
        for _ in range(50):
            client.train(flat, x, y, index=index, mask=mask, clip_norm=None)

    def checked() -> None:
        for _ in range(50):
            client.update(weights, x, y, key=1)

    kinds = {
        "LiteRT (train)": lite,
        "LiteRT (update, checked)": checked,
        "in process, 50 at a time": lambda: process(50),
        "in process, one at a time": lambda: [process(1) for _ in range(50)],
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for turn in range(turns + 1):
        for name, call in kinds.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn:
                spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    for name, times in spent.items():
        cpu, wall = statistics.median(cpu for cpu, _ in times), min(wall for _, wall in times)
        print(f"{name:28} {50 / cpu:8,.0f} clients per CPU second, at best {50 / wall:8,.0f} per second of wall time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = made(folder)
        first_updates(folder, options.repeats)
        updates_per_second(folder, *given)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
