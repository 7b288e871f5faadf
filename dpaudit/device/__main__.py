"""`python -m dpaudit.device CLIENT DATA -o DELTA`: one round's local training, for a device or a shell script."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.device.client import DeviceClient
from dpaudit.errors import DataError, DpauditError


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dpaudit.device",
        description="Train on this device's examples, once, and write the update that is sent.",
    )
    parser.add_argument("client", help="file of `dpaudit export-device`")
    parser.add_argument("data", nargs="?", help=".npz with x (n, ...), y (n,) and weights (parameters,)")
    parser.add_argument("-o", "--out", help=".npy to write: the update, float32 (parameters,)")
    parser.add_argument("--key", type=int, default=0, help="of the round, from the server: order of the examples")
    parser.add_argument("--identity", help="what the server expects; another client is refused")
    return parser.parse_args(given)


def _arrays(path: str) -> list[NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as held:
            return [held[name] for name in ("weights", "x", "y")]
    except KeyError as error:
        raise DataError(f"{path} must hold weights, x and y; {error}.") from error
    except Exception as error:
        raise DataError(f"cannot read {path}: {error}.") from error


def _write(path: Path, delta: NDArray[np.float32]) -> None:
    """Write the whole file or none."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            np.save(file, delta)
        part.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}.") from error


def run(given: list[str]) -> int:
    """Do what the command line says; return the exit code. Without data, describe the client."""
    options = _arguments(given)
    try:
        client = DeviceClient(options.client, expected_identity=options.identity)
        body: dict[str, Any] = {"schema": "dpaudit.device/v1", "description": asdict(client.description)}
        if options.data is not None:
            if options.out is None:
                raise DataError("say where the update is written: -o DELTA.npy")
            weights, x, y = _arrays(options.data)
            update = client.update(weights, x, y, key=options.key)
            _write(Path(options.out), update.delta)
            body |= {"written": options.out, "examples": update.examples, "norm": update.norm}
    except DpauditError as error:
        sys.stderr.write(f"dpaudit.device: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(body, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
