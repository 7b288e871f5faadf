"""Steps of DP-SGD as events: a Gaussian mechanism on batches drawn by a sampler."""

import math
from fractions import Fraction

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.errors import UsageError

SAMPLERS = ("poisson", "without-replacement", "shuffle", "none")


def steps_of(
    noise_multiplier: float,
    *,
    sampling_rate: float,
    steps: int,
    sampler: str = "poisson",
    population: int | None = None,
) -> ev.SelfComposed:
    """Return `steps` steps of a Gaussian mechanism on batches drawn by a sampler.

    Args:
        noise_multiplier: standard deviation of the noise over the norm that a unit contributes at most.
        sampling_rate: expected share of the units in a batch.
        steps: number of steps.
        sampler: "poisson"; "without-replacement" (fixed-size batches, fresh for every step); "shuffle" (passes over
            a shuffled data set: no amplification, one participation per pass); "none" (a unit may be in every step).
        population: number of units, for without-replacement; only its ratio to the batch matters.

    Raises: UsageError.
    """
    _validate.one_of(SAMPLERS, sampler=sampler)
    _validate.sampling_rate(sampling_rate=sampling_rate)
    _validate.positive_integer(steps=steps)
    gaussian = ev.Gaussian(noise_multiplier=noise_multiplier)
    if sampler == "none":
        return ev.SelfComposed(event=gaussian, count=steps)
    if sampler == "shuffle":
        passes = math.ceil(steps * sampling_rate * (1 - 1e-12))
        batches = max(1, round(1 / sampling_rate))
        return ev.SelfComposed(event=ev.ShuffledBatches(event=gaussian, batches=batches), count=passes)
    if sampler == "without-replacement":
        share = Fraction(sampling_rate).limit_denominator(10**6)
        if population is not None:
            share = Fraction(max(1, math.ceil(sampling_rate * population * (1 - 1e-12))), population)
        if share <= 0:
            raise UsageError(f"sampling_rate = {sampling_rate:g} is less than one unit in a million; give population.")
        batch = ev.SampledWithoutReplacement(population=share.denominator, sample_size=share.numerator, event=gaussian)
        return ev.SelfComposed(event=batch, count=steps)
    batch_event = gaussian if sampling_rate == 1 else ev.PoissonSampled(sampling_rate=sampling_rate, event=gaussian)
    return ev.SelfComposed(event=batch_event, count=steps)
