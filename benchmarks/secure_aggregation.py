"""CPU seconds of secure aggregation in one process, by devices, and nanoseconds per draw of the integer noise.

    python benchmarks/secure_aggregation.py [WIDTH]

Everything of a round in one process: all devices and the server. A device's own part is about the n-th part of it.
"""

import sys
import time

import numpy as np

from dpaudit.federated.integer_noise import discrete_gaussian, skellam
from dpaudit.secagg import Parameters
from dpaudit.secagg.memory import secure_sum

DRAWS = 500_000


def seconds(function, times=3):
    """Return the median CPU time of a few calls."""
    found = []
    for _ in range(times):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return float(np.median(found))


def rounds(width):
    """Print what a round costs when a tenth of the devices is lost after the shares were sent."""
    for devices in (5, 10, 20, 40):
        parameters = Parameters(devices=devices, threshold=devices // 2 + 1, width=width)
        vectors = {n: np.zeros(width, np.int64) for n in range(devices)}
        lost = dict.fromkeys(range(devices // 10), 2)
        whole = seconds(lambda: secure_sum(vectors, parameters, lost=lost))  # noqa: B023 - called at once
        print(f"{devices:3d} devices, width {width}: {whole:.2f} s, {1000 * whole / devices:.0f} ms per device")


def noise():
    """Print the draws of a share beside those of a Gaussian, interleaved."""
    rng = np.random.Generator(np.random.Philox(key=1))
    for variance in (100, 100_000):
        draws = {
            "discrete Gaussian": lambda: discrete_gaussian(rng, variance, DRAWS),  # noqa: B023
            "Skellam": lambda: skellam(rng, variance, DRAWS),  # noqa: B023
            "Gaussian (numpy)": lambda: rng.standard_normal(DRAWS),
        }
        for name, draw in draws.items():
            print(f"variance {variance}: {name} {1e9 * seconds(draw) / DRAWS:.0f} ns per draw")


if __name__ == "__main__":
    noise()
    rounds(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
