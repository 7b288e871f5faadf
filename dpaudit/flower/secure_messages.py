"""The stages of secure aggregation as messages between server and nodes; a node may hold several devices.

Every message is a record of numbers and arrays (`messages.write`); bytes travel as arrays of uint8, named by what they
are, the client that they are of or for, and the device at the other end.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.flower import messages
from dpaudit.secagg import Parameters

ACTION = "secagg"
"""Messages have the type `train.secagg`."""
KIND = f"train.{ACTION}"
Named = Mapping[tuple[str, int, int], bytes | NDArray[Any]]
"""Contents by (what, client, device)."""


def write(numbers: Mapping[str, Any], named: Named, **arrays: NDArray[Any]) -> Any:
    """Return a message."""
    held = {
        f"{what}/{client}/{device}": np.frombuffer(value, dtype=np.uint8) if isinstance(value, bytes) else value
        for (what, client, device), value in named.items()
    }
    return messages.write(numbers, {**held, **arrays})


def read(content: Any) -> tuple[dict[str, Any], dict[tuple[str, int, int], NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the numbers, the named contents and the other arrays of a message. Raises: DataError."""
    numbers, arrays = messages.read(content)
    named, rest = {}, {}
    try:
        for name, value in arrays.items():
            what, *ends = name.split("/")
            if ends:
                client, device = map(int, ends)
                named[what, client, device] = value
            else:
                rest[name] = value
    except ValueError as error:
        raise DataError("a message of secure aggregation with names that it does not know.") from error
    return numbers, named, rest


def bytes_of(named: Mapping[tuple[str, int, int], NDArray[Any]], what: str, client: int) -> dict[int, bytes]:
    """Return the contents of one kind for a client, by device."""
    return {device: named[key].tobytes() for key in named if key[:2] == (what, client) for device in (key[2],)}


def parameter_numbers(parameters: Parameters) -> dict[str, int]:
    """Return the parameters of a round as numbers."""
    return {name: getattr(parameters, name) for name in ("devices", "threshold", "width", "bits")}


def read_parameters(numbers: Mapping[str, Any]) -> Parameters:
    """Read the parameters of a round. Raises: DataError."""
    try:
        return Parameters(**{name: int(numbers[name]) for name in ("devices", "threshold", "width", "bits")})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not the parameters of a round of secure aggregation: {error}") from error


def whole(values: Iterable[int]) -> NDArray[np.int64]:
    """Return whole numbers as an array."""
    return np.array(sorted(values), dtype=np.int64)
