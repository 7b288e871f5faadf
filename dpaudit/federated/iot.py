"""A generated fleet of IoT sensors: labelled states of rotating machines, non-identical from device to device.

Every device watches one machine (a pump, a fan) through an accelerometer, a current clamp and a thermometer, and
labels short windows with one of six states: idle, normal load, heavy load, imbalance, bearing fault, overheating.
Devices differ as real fleets do: rotation speed, sensor gains and offsets, noise floors, ambient temperature, and
how often each state occurs. `heterogeneity` scales all of it: 0 makes the devices identical in law, 1 is a
realistic mix, larger is harder.

A window is simulated sample by sample and then reduced to features with fixed, public scalings (nothing is
estimated from the data, so the features leak nothing): mean and spread, and log powers in frequency bands.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

STATES = ("idle", "normal load", "heavy load", "imbalance", "bearing fault", "overheating")
FEATURES = 24
_SAMPLES = 64
_RATE_HZ = 64.0
_BLOCK = 8_000  # windows at a time: about 10 MB of signal per channel pair

# Per state: vibration at the rotation speed, at its double, high-frequency noise, bursts; current; heating (K).
_ROTATION = np.array([0.05, 0.50, 0.80, 1.60, 0.50, 0.60], dtype=np.float32)
_DOUBLE = np.array([0.02, 0.15, 0.35, 0.30, 0.20, 0.20], dtype=np.float32)
_RUMBLE = np.array([0.05, 0.20, 0.35, 0.25, 0.30, 0.25], dtype=np.float32)
_BURSTS = np.array([0.00, 0.00, 0.00, 0.00, 1.20, 0.00], dtype=np.float32)
_CURRENT = np.array([0.20, 1.00, 1.90, 1.15, 1.10, 1.35], dtype=np.float32)
_HEATING = np.array([0.0, 12.0, 22.0, 15.0, 16.0, 34.0], dtype=np.float32)


def _fleet(rng: np.random.Generator, devices: int, heterogeneity: float) -> dict[str, Floats]:
    """Draw the fixed traits of every device, each a column vector (devices, 1) except the duty mix (devices, 6)."""
    h = np.float32(heterogeneity)

    def normal(scale: float) -> Floats:
        return np.asarray(h * np.float32(scale) * rng.standard_normal((devices, 1), dtype=np.float32))

    even = np.full(len(STATES), 1 / len(STATES))
    duty = rng.dirichlet(2.0 * len(STATES) * even / max(heterogeneity, 1e-6) ** 2, size=devices)
    return {
        "duty": duty.astype(np.float32) if heterogeneity > 0 else np.tile(even.astype(np.float32), (devices, 1)),
        "speed": np.float32(9.0) * np.exp(normal(0.12)),
        "gain": np.exp(normal(0.20)),
        "tilt": normal(0.25),
        "clamp_gain": np.exp(normal(0.12)),
        "clamp_offset": normal(0.10),
        "ambient": 20.0 + normal(5.0),
        "floor": np.float32(0.12) * np.exp(normal(0.30)),
    }


def _accelerometer(rng: np.random.Generator, state: Ints, device: dict[str, Floats]) -> Floats:
    """Return two vibration axes (2, n, samples) in g."""
    n = state.size
    time = np.arange(_SAMPLES, dtype=np.float32) / np.float32(_RATE_HZ)
    speed = device["speed"] * (1 + 0.03 * rng.standard_normal((n, 1), dtype=np.float32))
    phase = 2 * np.float32(np.pi) * rng.random((n, 1), dtype=np.float32)
    angle = 2 * np.float32(np.pi) * speed * time + phase
    wear = np.exp(0.20 * rng.standard_normal((n, 1), dtype=np.float32))
    wave = _ROTATION[state][:, None] * np.sin(angle) + _DOUBLE[state][:, None] * np.sin(2 * angle)
    hits = (rng.random((n, _SAMPLES), dtype=np.float32) < 0.10) * _BURSTS[state][:, None]
    both = rng.standard_normal((2, n, _SAMPLES), dtype=np.float32)
    both *= _RUMBLE[state][:, None] + device["floor"] + hits
    both[0] += wear * wave
    both[1] += wear * 0.6 * np.roll(wave, 2, axis=1)
    both *= device["gain"]
    both += device["tilt"]
    return both


def _bands(signal: Floats, edges: tuple[int, ...]) -> Floats:
    """Return log10 of the mean power of (..., samples) signals between consecutive edges, in FFT bins of 1 Hz."""
    power = np.abs(np.fft.rfft(signal - signal.mean(axis=-1, keepdims=True), axis=-1)) ** 2 / np.float32(_SAMPLES)
    columns = [power[..., a:b].mean(axis=-1) for a, b in pairwise(edges)]
    return np.asarray(np.log10(np.stack(columns, axis=-1) + 1e-3), dtype=np.float32)


def _features(rng: np.random.Generator, state: Ints, device: dict[str, Floats]) -> Floats:
    """Simulate one window per row of `state` and return its features (n, FEATURES)."""
    n = state.size
    shake = _accelerometer(rng, state, device)
    load = _CURRENT[state][:, None] * np.exp(0.10 * rng.standard_normal((n, 1), dtype=np.float32))
    current = device["clamp_gain"] * load + device["clamp_offset"]
    ripple = 0.08 * load * np.exp(0.2 * rng.standard_normal((n, 1), dtype=np.float32))
    temperature = device["ambient"] + _HEATING[state][:, None] + 3 * rng.standard_normal((n, 1), dtype=np.float32)
    slope = 0.02 * _HEATING[state][:, None] + 0.25 * rng.standard_normal((n, 1), dtype=np.float32)
    centred = shake - shake.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1)) + np.float32(1e-3)
    peak = np.abs(centred).max(axis=-1) / spread
    bands = _bands(shake, (1, 6, 9, 12, 16, 20, 25, 33))
    columns = [
        shake.mean(axis=-1).T, np.log10(spread).T, (peak.T - 3) / 2, 0.5 * np.moveaxis(bands, 0, 1).reshape(n, -1),
        current - 1, np.log10(ripple) + 1, (temperature - 35) / 15, slope,
    ]  # fmt: skip
    return np.concatenate(columns, axis=1).astype(np.float32)


def generate(
    *, devices: int, windows_per_device: int, heterogeneity: float, root: int
) -> tuple[Floats, Ints, Ints, int]:
    """Generate the fleet.

    Args:
        devices: number of devices.
        windows_per_device: labelled windows of each.
        heterogeneity: 0 for identical devices, 1 for a realistic fleet.
        root: root seed; the same root gives the same fleet.

    Returns:
        features float32 (n, 24), labels int32 (n,) in 0..5, device int32 (n,), number of classes 6;
        n = devices x windows_per_device, sorted by device.

    Raises: UsageError unless the counts are at least 1 and the heterogeneity is finite and at least 0.
    """
    _validate.positive_integer(devices=devices, windows_per_device=windows_per_device)
    _validate.non_negative(heterogeneity=heterogeneity)
    fleet = _fleet(_rng.stream(root, "iot-devices"), devices, heterogeneity)
    device = np.repeat(np.arange(devices, dtype=np.int32), windows_per_device)
    draw = _rng.stream(root, "iot-labels").random((device.size, 1), dtype=np.float32)
    steps = np.cumsum(fleet.pop("duty"), axis=1, dtype=np.float32)[:, :-1]
    labels = (draw > steps[device]).sum(axis=1).astype(np.int32)
    blocks = []
    for number, start in enumerate(range(0, device.size, _BLOCK)):
        part = slice(start, start + _BLOCK)
        traits = {name: values[device[part]] for name, values in fleet.items()}
        blocks.append(_features(_rng.stream(root, "iot-windows", number), labels[part], traits))
    return np.concatenate(blocks), labels, device, len(STATES)
