"""A round without a network: the messages of all devices, passed on in memory. For tests, and to see what it costs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.secagg.client import Device
from dpaudit.secagg.messages import Parameters
from dpaudit.secagg.server import Aggregation

STAGES = ("advertise_keys", "share_keys", "masked_input", "unmask")
Tap = Callable[[str, int, Any], Any]
"""Sees (and may change) what a device sends: `tap(stage, device, message)` returns what the server receives."""


def _untouched(_stage: str, _device: int, message: Any) -> Any:
    return message


def secure_sum(
    vectors: Mapping[int, NDArray[np.int64]],
    parameters: Parameters,
    *,
    lost: Mapping[int, int] | None = None,
    tap: Tap = _untouched,
    devices: Mapping[int, Device] | None = None,
) -> tuple[NDArray[np.int64], frozenset[int]]:
    """Return the sum of the vectors of the devices that sent a masked one, (width,), and which these are.

    Args:
        vectors: integers (width,) by device.
        parameters: of the round.
        lost: the first stage (0 to 3) in which a device is not heard of any more, by device.
        tap: what happens to messages on their way to the server.
        devices: the devices, where they are not to be ordinary ones.

    Raises: TooFewDevices, ProtocolViolation.
    """
    gone = lost or {}
    everyone = devices or {number: Device(number, parameters) for number in vectors}
    server = Aggregation(parameters)

    def there(stage: int) -> list[int]:
        return [number for number in everyone if gone.get(number, len(STAGES)) > stage]

    keys = server.collect_keys({n: tap(STAGES[0], n, everyone[n].advertise_keys()) for n in there(0)})
    shares = server.route_shares({n: tap(STAGES[1], n, everyone[n].share_keys(keys)) for n in there(1)})
    masked = {n: tap(STAGES[2], n, everyone[n].masked_input(vectors[n], shares[n])) for n in there(2)}
    request = server.add(masked)
    answers = {n: tap(STAGES[3], n, everyone[n].unmask(request)) for n in there(3) if n in request.arrived}
    return server.unmask(answers), request.arrived
