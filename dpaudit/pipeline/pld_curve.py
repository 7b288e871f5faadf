"""The trade-off curves of DP-SGD, from the accountant's privacy loss distribution, for one-run f-DP auditing."""

import numpy as np

from dpaudit import accounting
from dpaudit.accounting import PrivacyCurve, pld_that_fits
from dpaudit.errors import Refusal
from dpaudit.estimation import CurveFamily, LeastFpr, profile_curve
from dpaudit.events import Event
from dpaudit.records import Relation

_EPSILONS = 400
_SMALLEST_DELTA = 1e-11
_BEYOND = 40.0  # no count of guesses refutes so large an epsilon
_TOLERANCE = 1e-3


def _curve(event: Event, relation: Relation) -> LeastFpr:
    try:
        found = PrivacyCurve(pld_that_fits(event, relation=relation))
    except Refusal:  # losses beyond any grid: nothing is forbidden, so nothing can be refuted
        return lambda _: 0.0
    reach = min(float(found.epsilon(_SMALLEST_DELTA)), 2 * _BEYOND)
    epsilons = np.linspace(0.0, 1.0, _EPSILONS) ** 2 * reach
    return profile_curve(epsilons, np.minimum(found.delta(epsilons), 1.0))


def dp_sgd_curves(*, sampling_rate: float, steps: int, relation: Relation = Relation.ADD_OR_REMOVE_ONE) -> CurveFamily:
    """Return the family of trade-off curves of `steps` Poisson-sampled Gaussian steps, by their noise multiplier.

    The parameter is 1 / noise multiplier. A curve is the supremum of the (epsilon, delta) curves of 400 points of the
    profile, with deltas rounded up: never more private than the mechanism, so that a true curve is refuted no more
    often than promised. Pass the family as `curve` to `estimate` with `method="one-run-fdp"`.

    Raises: UsageError for a sampling rate outside (0, 1] or fewer than 1 step.
    """
    relation = Relation(relation)

    def event(parameter: float) -> Event:
        return accounting.steps_of(1 / parameter, sampling_rate=sampling_rate, steps=steps)

    smallest = accounting.calibrate_noise(
        _BEYOND, 1e-5, sampling_rate=sampling_rate, steps=steps, relation=relation, discretization=1e-2
    )
    return CurveFamily(
        name=f"DP-SGD (sampling rate {sampling_rate:g}, {steps} steps)",
        curve=lambda parameter: _curve(event(parameter), relation) if parameter else (lambda tpr: tpr),
        epsilon=lambda parameter, delta: accounting.epsilon(event(parameter), delta, relation=relation),
        high=1 / smallest,
        parameter="inverse_noise_multiplier",
        tolerance=_TOLERANCE,
    )
