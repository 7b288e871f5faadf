"""The least noise multiplier at which something falls to a target: secant steps in log-log, safe by a margin."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from dpaudit.errors import CannotCalibrate

MARGIN = 1e-6  # relative, on epsilon: the answer lies on the safe side by about this much
_ROUNDS = 60
_NEAR = 0.1  # relative distance from the target at which secant steps need no bracket


@dataclass(slots=True)
class Search:
    """A root of log epsilon(z) - log target in log z: secant steps, kept inside a bracket once there is one."""

    function: Callable[[float], float]
    target: float
    seen: dict[float, float] = field(default_factory=dict)

    def gap(self, z: float) -> float:
        """Return log epsilon - log target, cut to a range in which infinity and 0 have a place."""
        if z not in self.seen:
            clipped = min(max(self.function(z), self.target * 1e-6), self.target * 1e6)
            self.seen[z] = math.log(clipped) - math.log(self.target)
        return self.seen[z]

    def ends(self) -> tuple[float | None, float | None]:
        """Return the largest multiplier seen with too little noise and the smallest with enough."""
        low = max((z for z, gap in self.seen.items() if gap > 0), default=None)
        high = min((z for z, gap in self.seen.items() if gap <= 0), default=None)
        return low, high

    def bracket(self, start: float, bounds: tuple[float, float]) -> None:
        """Look both ways from `start`, in growing steps, until the root is between two multipliers seen."""
        smallest, largest = bounds
        z, factor = min(max(start, smallest), largest), 1.3
        if self.gap(z) > 0:
            while self.gap(z) > 0:
                if z >= largest:
                    raise CannotCalibrate(
                        f"even a noise multiplier of {largest:g} leaves epsilon above {self.target:g}. "
                        "Something in the event costs that much by itself: allow a larger epsilon or delta."
                    )
                z, factor = min(z * factor, largest), factor**1.5
            return
        while self.gap(z) <= 0:
            if z <= smallest:
                raise CannotCalibrate(
                    f"a noise multiplier of {smallest:g} already keeps epsilon at or below {self.target:g}: "
                    "the target is too large to need noise. Lower epsilon or delta, or set the multiplier by hand."
                )
            z, factor = max(z / factor, smallest), min(factor**1.5, 2.0)

    def slope(self) -> float:
        """Return the slope of the gap between the two multipliers seen that are nearest to the root; -1 by default."""
        nearest = sorted(self.seen, key=lambda z: abs(self.seen[z]))[:2]
        if len(nearest) < 2:
            return -1.0
        first, second = nearest
        slope = (self.seen[first] - self.seen[second]) / math.log(first / second)
        return slope if slope < -1e-3 else -1.0

    def search(self, start: float, bounds: tuple[float, float], slope: float | None = None) -> float:
        """Return the answer from one start: a Newton step first, a bracket if that does not come near."""
        z = min(max(start, bounds[0]), bounds[1])
        if abs(self.gap(z)) > _NEAR:
            if slope is None:  # that of the central limit: d log sqrt(e^(1/z^2) - 1) / d log z
                slope = -1 / (z * z * -math.expm1(-min(1 / z**2, 700.0)))
            self.gap(min(max(z * math.exp(-self.gap(z) / slope), bounds[0]), bounds[1]))
            z, slope = min(self.seen, key=lambda m: abs(self.seen[m])), None
        if abs(self.gap(z)) > _NEAR:
            self.bracket(z, bounds)
        return self.root(MARGIN, slope)

    def root(self, tolerance: float, slope: float | None = None) -> float:
        """Return a multiplier with gap in [-tolerance, 0], starting from what was seen (and a slope known elsewhere).

        A step that leaves the bracket, or comes after too many, is replaced by bisection in log z.
        """
        for attempt in range(_ROUNDS):
            low, high = self.ends()
            if high is not None and (self.gap(high) >= -tolerance or (low is not None and high / low - 1 < 1e-12)):
                return high
            nearest = min(self.seen, key=lambda z: abs(self.seen[z]))
            steepness = slope if slope is not None and attempt == 0 else self.slope()
            step = -(self.seen[nearest] + tolerance / 2) / steepness
            z = nearest * math.exp(min(max(step, -1.0), 1.0))
            if low is not None and high is not None and (not low < z < high or attempt % 8 == 7):
                z = math.sqrt(low * high)
            self.gap(z)
        raise CannotCalibrate(
            f"the search for epsilon = {self.target:g} did not converge. Use a coarser discretisation."
        )
