"""The least noise multiplier that keeps epsilon at a target: a search on our grid, the last word by dp-accounting."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._source import as_relation
from dpaudit.accounting.bounds import epsilon_of
from dpaudit.accounting.pld import DISCRETIZATION, flattened
from dpaudit.accounting.witness import witness_epsilon
from dpaudit.errors import CannotCalibrate, Refusal, UnsupportedEvent
from dpaudit.gdp import gdp_mu
from dpaudit.records import Relation

MakeEvent = Callable[[float], ev.Event]
_COARSE = 1e-3
MARGIN = 1e-6  # relative, on epsilon: the answer lies on the safe side by about this much
SMALLEST, LARGEST = 0.05, 2.0**24
_SAME = 5e-7  # relative: half of the margin
_ROOM = 5e-4
_ROUNDS = 60
_NEAR = 0.1  # relative distance from the target at which secant steps need no bracket
_MEANINGLESS = 1000.0
_WITNESS_UP_TO = 200.0  # beyond, dp-accounting's grids take minutes


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


def _bound(
    make_event: MakeEvent, delta: float, accountant: str, relation: Relation, step: float | None
) -> Callable[[float], float]:
    def function(z: float) -> float:
        try:
            return epsilon_of(make_event(z), delta, accountant, relation, step)
        except UnsupportedEvent:
            raise
        except Refusal:
            return math.inf

    return function


def _rounding(event: ev.Event, relation: Relation) -> float:
    """Return how much more than ours dp-accounting's epsilon may be, relative, by its own rounding.

    Its differences of divergences gain mass in every step: measured up to 1.3e-10 a step under replace-one and
    3e-13 under add-or-remove-one (benchmarks/accounting.py).
    """
    steps = max(flattened(event).values(), default=0)
    return steps * (2e-10 if relation == Relation.REPLACE_ONE else 1e-12)


def _confirmed(z: float, target: float, make_event: MakeEvent, delta: float, relation: Relation, step: float) -> float:
    """Let dp-accounting confirm an answer; add noise until it does where it rounds differently from us.

    Agreement of the two accountants on a coarse grid, a tenth of the time, is enough where they agree; the noise then
    has room for dp-accounting's rounding on the fine grid.
    """
    event, room = make_event(z), _rounding(make_event(z), relation)
    if step < _COARSE and room < _ROOM:
        ours = epsilon_of(event, delta, "pld", relation, _COARSE)
        theirs = witness_epsilon(event, delta, relation=relation, step=_COARSE)
        if theirs is None or abs(theirs - ours) <= (_SAME + room) * ours:
            return z * (1 + room)
    for _ in range(_ROUNDS):
        confirmed = witness_epsilon(make_event(z), delta, relation=relation, step=step)
        if confirmed is None or confirmed <= target:
            return z
        z *= 1 + 2 * min(confirmed / target - 1, 0.5) + MARGIN
    raise CannotCalibrate(f"dp-accounting does not confirm epsilon = {target:g} at any noise. Use accountant 'rdp'.")


def calibrate_event(
    epsilon: float,
    delta: float,
    make_event: MakeEvent,
    *,
    accountant: str = "pld",
    relation: Relation | str = Relation.ADD_OR_REMOVE_ONE,
    bracket: tuple[float, float] = (SMALLEST, LARGEST),
    guess: float | None = None,
    discretization: float | None = None,
) -> float:
    """Return the least noise multiplier at which `make_event(noise_multiplier)` spends at most (epsilon, delta).

    The result is on the safe side: its epsilon lies a part or two per million under the target, and dp-accounting's
    PLD on the same grid does not exceed the target either: it is asked on a coarse grid whether it agrees (on the fine
    one where it does not), and there is room for its rounding (2e-4 for a million steps under replace-one).

    Args:
        epsilon: target, greater than 0.
        delta: strictly between 0 and 1.
        make_event: event for a noise multiplier; more noise must not cost more.
        accountant: "pld" or "rdp".
        relation: neighbouring relation.
        bracket: smallest and largest multiplier to consider.
        guess: where to start; a good one saves time and changes nothing else. None searches on a coarse grid first.
        discretization: width of the PLD grid; None takes 1e-4, on which dp-accounting confirms the answer. With very
            many steps that lose very little each, a finer grid needs less noise (a million steps at rate 1e-4 and
            epsilon 1: 0.4 % less at 2e-5).

    Raises:
        CannotCalibrate: if the target cannot be reached, or needs no noise.
        UsageError, UnsupportedEvent: as `epsilon`.
    """
    _check_target(epsilon, delta)
    _validate.one_of(("pld", "rdp"), accountant=accountant)
    chosen, step = as_relation(relation), discretization or DISCRETIZATION
    fine, slope = Search(_bound(make_event, delta, accountant, chosen, step), epsilon * (1 - MARGIN)), None
    if accountant == "pld" and guess is None:
        rough = Search(_bound(make_event, delta, "pld", chosen, max(step, _COARSE)), epsilon)
        rough.bracket(1.0, bracket)
        guess, slope = rough.root(1e-3), rough.slope()
    z = fine.search(guess or 1.0, bracket, slope)
    if accountant == "rdp" or epsilon > _WITNESS_UP_TO:
        return z
    return _confirmed(z, epsilon, make_event, delta, chosen, step)


def _check_target(epsilon: float, delta: float) -> None:
    if not 0 < delta < 1 or not (math.isfinite(epsilon) and epsilon > 0):
        raise CannotCalibrate(
            f"epsilon must be finite and above 0, delta strictly between 0 and 1; got {epsilon!r} and {delta!r}."
        )
    if epsilon > _MEANINGLESS:
        raise CannotCalibrate(
            f"epsilon = {epsilon:g} is too large to need noise: above {_MEANINGLESS:g} nothing is protected. Lower it."
        )


def calibrate_noise(
    epsilon: float,
    delta: float,
    *,
    sampling_rate: float,
    steps: int,
    accountant: str = "pld",
    relation: Relation | str = Relation.ADD_OR_REMOVE_ONE,
    discretization: float | None = None,
) -> float:
    """Return the least noise multiplier of DP-SGD with Poisson sampling; see `calibrate_event`.

    Args:
        epsilon: target, greater than 0.
        delta: strictly between 0 and 1.
        sampling_rate: probability that a unit is in a step's batch, in (0, 1].
        steps: number of steps, at least 1.
        accountant: "pld" or "rdp".
        relation: neighbouring relation.
        discretization: width of the PLD grid, 1e-4 when None.

    Raises: CannotCalibrate, UsageError.
    """
    _validate.sampling_rate(sampling_rate=sampling_rate)
    _validate.positive_integer(steps=steps)

    def make_event(noise_multiplier: float) -> ev.Event:
        gaussian = ev.Gaussian(noise_multiplier=noise_multiplier)
        sampled = gaussian if sampling_rate == 1 else ev.PoissonSampled(sampling_rate=sampling_rate, event=gaussian)
        return ev.SelfComposed(event=sampled, count=steps)

    return calibrate_event(
        epsilon,
        delta,
        make_event,
        accountant=accountant,
        relation=relation,
        guess=_central_limit(epsilon, delta, sampling_rate, steps, as_relation(relation)),
        discretization=discretization,
    )


def _central_limit(epsilon: float, delta: float, rate: float, steps: int, relation: Relation) -> float:
    """Guess the multiplier by mu = rate sqrt(steps (e^(1/z^2) - 1)) (arXiv:1911.11607): a start for the search only."""
    if not 0 < delta < 1 or not 0 < epsilon <= _MEANINGLESS:
        return 1.0
    mu = gdp_mu(epsilon, delta) / (2 if relation == Relation.REPLACE_ONE else 1)
    return 1 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))
