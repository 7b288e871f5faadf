"""The least noise multiplier that keeps epsilon at a target: a search on our grid, the last word by dp-accounting."""

import math
from collections.abc import Callable

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.accounting._root import MARGIN, Search
from dpaudit.accounting._source import as_relation
from dpaudit.accounting.bounds import epsilon_of
from dpaudit.accounting.pld import DISCRETIZATION, flattened
from dpaudit.accounting.witness import WITNESS_UP_TO, witness_epsilon
from dpaudit.errors import CannotCalibrate, Refusal, UnsupportedEvent
from dpaudit.gdp import gdp_mu
from dpaudit.records import Relation

MakeEvent = Callable[[float], ev.Event]
_COARSE = 1e-3
SMALLEST, LARGEST = 0.05, 2.0**24
_SAME = 5e-7  # relative: half of the margin
_ROOM = 5e-4
_EPS = 2.0**-52
_ROUNDS = 60
_MEANINGLESS = 1000.0


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


def _rounding(event: ev.Event, delta: float, relation: Relation) -> float:
    """Return how much more than ours dp-accounting's epsilon may be, relative, by its own rounding.

    Every step adds the rounding of its FFT to delta, of which 2 log(1/delta) times less is left in epsilon. Under
    replace-one its differences of divergences gain mass in every step too: up to 1.3e-10 (benchmarks/accounting.py).
    """
    steps = max(flattened(event).values(), default=0)
    by_fft = _EPS / (2 * delta * math.log(1 / delta))
    return steps * (by_fft + (2e-10 if relation == Relation.REPLACE_ONE else 1e-12))


def _confirmed(z: float, target: float, make_event: MakeEvent, delta: float, relation: Relation, step: float) -> float:
    """Let dp-accounting confirm an answer; add noise until it does where it rounds differently from us.

    Agreement of the two accountants on a coarse grid, a tenth of the time, is enough where they agree; the noise then
    has room for dp-accounting's rounding on the fine grid.
    """
    event = make_event(z)
    room = _rounding(event, delta, relation)
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
    if accountant == "rdp" or epsilon > WITNESS_UP_TO:
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
