"""A node's part in secure aggregation: its clients' devices, kept between messages in the node's own state.

Flower may run the program of a node anew for every message. What a device must remember (its keys, and shares of those
of others) stays in the state that Flower keeps on the node, and is thrown away when the round is over.
"""

import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError
from dpaudit.federated.distributed_noise import IntegerSum, integer_sum
from dpaudit.federated.secure_engine import protected
from dpaudit.flower.messages import read_job
from dpaudit.flower.node import Node
from dpaudit.flower.secure_messages import bytes_of, parameter_numbers, read, read_parameters, whole, write
from dpaudit.secagg import Device, PublicKeys, UnmaskRequest

Named = dict[tuple[str, int, int], Any]
State = MutableMapping[str, Any]
"""Flower's state of a node: records by name."""


def answer_stage(node: Node, content: Any, state: State) -> Any:
    """Return a node's answer to a stage. Raises: DataError, ProtocolViolation, TooFewDevices."""
    numbers, named, arrays = read(content)
    clients = [int(client) for client in np.asarray(arrays.get("clients", whole(())))]
    strange = set(clients) - set(node.data.clients.tolist())
    if strange or not clients:
        raise DataError(f"clients {sorted(strange)[:5]} are not on this node, or nobody is asked.")
    stage, round_ = int(numbers.get("stage", -1)), str(numbers.get("round"))
    if stage == 0:
        for old in [name for name in state if name.startswith("secagg ")]:
            del state[old]
        answer = _begin(numbers, arrays, clients, state, round_)
    else:
        devices = {client: _load(state, client, round_) for client in clients}
        answer = _STAGES[stage](node, content, devices, named) if stage in _STAGES else {}
        for client, device in devices.items():
            if stage == 3:
                del state[f"secagg {client}"]
            else:
                _save(state, client, device, round_)
    return write({"token": str(numbers.get("token"))}, answer)


def _begin(
    numbers: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], clients: list[int], state: State, round_: str
) -> Named:
    parameters, answer = read_parameters(numbers), Named()
    for client, place in zip(clients, np.asarray(arrays["places"]).tolist(), strict=True):
        device = Device(int(place), parameters)
        keys = device.advertise_keys()
        answer["mask", client, keys.device], answer["message", client, keys.device] = keys.mask, keys.message
        _save(state, client, device, round_)
    return answer


def _save(state: State, client: int, device: Device, round_: str) -> None:
    from flwr.app import ConfigRecord

    held = {"round": round_, "place": device.number, **parameter_numbers(device.parameters), **device.dump()}
    state[f"secagg {client}"] = ConfigRecord(held)


def _load(state: State, client: int, round_: str) -> Device:
    held = dict(state[f"secagg {client}"]) if f"secagg {client}" in state else {}
    if held.get("round") != round_:
        raise DataError(f"client {client} is not in this round of secure aggregation.")
    return Device.load(int(held["place"]), read_parameters(held), held)


def _share(node: Node, content: Any, devices: Mapping[int, Device], named: Named) -> Named:
    del node, content
    shown = {
        place: PublicKeys(device=place, mask=named["mask", -1, place].tobytes(), message=message)
        for place, message in bytes_of(named, "message", -1).items()
    }
    answer = Named()
    for client, device in devices.items():
        shares = device.share_keys(shown)
        answer["commitment", client, device.number] = shares.commitment
        answer |= {("cipher", client, place): text for place, text in shares.ciphertexts.items()}
    return answer


def _train(node: Node, content: Any, devices: Mapping[int, Device], named: Named) -> Named:
    job = read_job(content)
    if job.kind != "updates" or set(job.clients.tolist()) != set(devices):
        raise DataError("secure aggregation is of the updates of the clients that it asks.")
    rows = node.answer(job).rows
    numbers, _, _ = read(content)
    aggregator = _aggregator(numbers, clip_norm=job.clip_norm)
    answer = Named()
    for client, row in zip(job.clients.tolist(), rows, strict=True):
        device = devices[client]
        rng = np.random.Generator(np.random.Philox(key=secrets.randbits(128)))  # the device's own secret
        vector = protected(row, aggregator, width=device.parameters.width, rng=rng)
        answer["masked", client, device.number] = device.masked_input(vector, bytes_of(named, "cipher", client)).vector
    return answer


def _aggregator(numbers: Mapping[str, Any], *, clip_norm: float) -> IntegerSum:
    try:
        minimum = int(numbers["minimum"])
        return integer_sum(
            str(numbers["aggregator"]), clip_norm=clip_norm, noise_multiplier=float(numbers["noise_multiplier"]),
            noise_factor=float(numbers["noise_factor"]), expected=minimum, minimum=minimum, secure=True,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the noise that a device is to add is not stated: {error}") from error


def _unmask(node: Node, content: Any, devices: Mapping[int, Device], named: Named) -> Named:
    del node, named
    _, _, arrays = read(content)
    arrived, lost = (frozenset(np.asarray(arrays.get(name, whole(()))).tolist()) for name in ("arrived", "lost"))
    answer = Named()
    for client, device in devices.items():
        shares = device.unmask(UnmaskRequest(arrived=arrived, lost=lost))
        answer |= {("seed", client, place): share for place, share in shares.seeds.items()}
        answer |= {("key", client, place): share for place, share in shares.keys.items()}
    return answer


_STAGES = {1: _share, 2: _train, 3: _unmask}
