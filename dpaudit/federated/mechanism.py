"""What one round of training does to privacy, as an event for the accountants.

**dp-fedavg** (unit: client). Each client joins a round with probability p by a secret coin and contributes one
clipped update: the Poisson-sampled Gaussian mechanism (McMahan et al., arXiv:1710.06963; Abadi et al.,
arXiv:1607.00133).

**dp-fedsgd** (unit: example). A client joins with probability p, and then each of its examples with probability q.
It is tempting to account for this as Poisson sampling at rate p q. That is wrong: all examples of a client share
the client's coin, and the neighbouring data sets differ in one example only, so the adversary of the definition
knows the other examples of the client and can see, from their effect on the released sum, in which rounds the
client took part. Given that, the example's own coin is the only secret: q amplifies, p does not. All that p buys
is that the event happens in a share p of the rounds, which everybody may know: `PubliclySampled`.

**dp-local** (unit: example). A client joins with probability p, a public coin as above, and then makes S local steps
of DP-SGD, each on a Poisson sample of its examples at rate q with noise of its own: S Poisson-sampled Gaussians, one
after the other, in the rounds of the client. Every local iterate counts as released. An example lives in one client,
so that the others cost it nothing.

**dp-ftrl** (unit: client). Noise of a binary tree over the rounds of one pass (Kairouz et al., arXiv:2103.00039):
`TreeAggregation`, without any credit for sampling.

**Distributed noise** (`config.DISTRIBUTED_NOISE`). Every contribution brings a share of the noise, so that who
takes part shows in the noise, and a server that is to see sums only must know the cohort to make them. So no credit is
taken for a secret sample: shuffled passes as elsewhere, samples without replacement as public coins.

Events that cover a whole pass over shuffled batches (`ShuffledBatches`) or a whole tree are recorded with the first
round of the pass, in advance; the other rounds are recorded as `NoOp` with the fact `covered_by_round`. A run that
stops in the middle has then paid for the whole: an upper bound.
"""

from dataclasses import replace

from dpaudit import events
from dpaudit.config import DISTRIBUTED_NOISE, TrainingSection
from dpaudit.errors import UnsupportedEvent, UsageError
from dpaudit.federated.distributed_noise import planned_event
from dpaudit.federated.sampling import sample_size


def sampled(training: TrainingSection, event: events.Event, *, slots: int = 0) -> events.Event:
    """Wrap the event of one aggregation in the sampling of the algorithm; rates of 1 add no wrapper.

    With `shuffle` the result stands for a whole pass. `slots` (units and canaries) is needed where the event depends
    on their number: cut Poisson samples, and samples without replacement.

    Raises: UnsupportedEvent for a cut Poisson sample of anything but one Gaussian.
    """
    if training.algorithm == "dp-ftrl":  # the aggregator's events are of whole trees, or covered by one
        return event
    if training.sampler == "shuffle":
        return (
            event
            if training.batches_per_pass == 1
            else events.ShuffledBatches(event=event, batches=training.batches_per_pass)
        )
    if training.sampler == "without-replacement":
        size = sample_size(training, _known(slots))
        if training.public_cohort:
            return events.PubliclySampled(sampling_rate=size / slots, event=event) if size < slots else event
        return events.SampledWithoutReplacement(population=slots, sample_size=size, event=event)
    if training.sampler == "poisson-padded":
        return _truncated(training, event, _known(slots))
    inner = in_client(training, event)
    if training.protects_clients or training.client_sampling_rate == 1.0:
        return inner
    return events.PubliclySampled(sampling_rate=training.client_sampling_rate, event=inner)


def released_again(training: TrainingSection, event: events.Event) -> events.Event:
    """Return what a further release of a round costs, on the cohort that was drawn for the first.

    A second sample is not drawn, so that nothing is gained from sampling: given the first release, a unit may be known
    to be in. Where the size of a sample is fixed or cut, a unit that is in keeps another out, which changes the sum by
    up to two clip norms: half the noise.

    Raises: UnsupportedEvent where such a sample was noised with anything but Gaussians.
    """
    displaces = training.sampler == "without-replacement" and not training.public_cohort
    displaces |= training.sampler == "poisson-padded"
    return _for_two_clip_norms(event) if displaces else event


def _for_two_clip_norms(event: events.Event) -> events.Event:
    if isinstance(event, events.Gaussian):
        return replace(event, noise_multiplier=event.noise_multiplier / 2)
    if isinstance(event, events.Composed):
        return replace(event, events=tuple(_for_two_clip_norms(part) for part in event.events))
    raise UnsupportedEvent(
        f"a round with {type(event).__name__} on a sample of fixed size was released, and cannot be reproduced to the "
        "bit here; what a second release on the same sample costs is not known. Resume where the run was made (same "
        "machine, same libraries)."
    )


def in_client(training: TrainingSection, event: events.Event) -> events.Event:
    """Return what a round costs an example whose client takes part, or a client: a Poisson sample, or S local ones."""
    step = _poisson(training.unit_rate, event)
    return step if training.local_steps <= 1 else events.SelfComposed(event=step, count=training.local_steps)


def _known(slots: int) -> int:
    if slots < 1:
        raise UsageError("the event of this sampler depends on the number of units and canaries; say it (slots).")
    return slots


def _truncated(training: TrainingSection, event: events.Event, slots: int) -> events.Event:
    limit = min(training.cohort_limit or slots, slots)
    if limit == slots:
        return _poisson(training.unit_rate, event)
    if not isinstance(event, events.Gaussian):
        raise UnsupportedEvent(
            f"a Poisson sample that is cut to {limit} is accounted for with plain Gaussian noise only, not "
            f"{type(event).__name__}. Use another sampler, or aggregator = 'gaussian'."
        )
    return events.TruncatedPoissonGaussian(
        dataset_size=slots,
        sampling_rate=training.unit_rate,
        max_batch_size=limit,
        noise_multiplier=event.noise_multiplier,
    )


def _poisson(rate: float, event: events.Event) -> events.Event:
    return event if rate == 1.0 else events.PoissonSampled(sampling_rate=rate, event=event)


def rounds_per_event(training: TrainingSection) -> int:
    """Return how many rounds one event of the mechanism covers: those of a pass with `shuffle`, else 1."""
    return training.batches_per_pass if training.sampler == "shuffle" else 1


def round_event(training: TrainingSection, noise_multiplier: float, *, slots: int = 0) -> events.Event:
    """Return the event of `rounds_per_event` rounds whose noise on the sum has `noise_multiplier` times the clip norm.

    dp-fedsgd: `PubliclySampled(p, PoissonSampled(q, Gaussian(z)))`; dp-fedavg: `PoissonSampled(p, Gaussian(z))`;
    dp-local: `PubliclySampled(p, SelfComposed(PoissonSampled(q, Gaussian(z)), S))`; dp-ftrl: one tree. Dropouts are not
    counted as sampling: whether a device answers is not a secret coin of ours.
    """
    if training.algorithm == "dp-ftrl":
        return events.TreeAggregation(noise_multiplier=noise_multiplier, steps=(training.batches_per_pass,))
    return sampled(training, sum_event(training, noise_multiplier), slots=slots)


def sum_event(training: TrainingSection, noise_multiplier: float) -> events.Event:
    """Return the event of one noised sum, before sampling; an upper bound where it depends on the model's width."""
    if training.aggregator not in DISTRIBUTED_NOISE or training.minimum_contributions is None:
        return events.Gaussian(noise_multiplier=noise_multiplier)
    return planned_event(training.aggregator, noise_multiplier, minimum=training.minimum_contributions)


def whole_event(training: TrainingSection, noise_multiplier: float, *, slots: int = 0) -> events.Event:
    """Return the event of all rounds; a last pass or tree that is not finished counts as a whole pass, or as far."""
    if training.algorithm == "dp-ftrl":
        every = rounds_per_event(training)
        whole, rest = divmod(training.rounds, every)
        steps = (every,) * whole + ((rest,) if rest else ())
        return events.TreeAggregation(noise_multiplier=noise_multiplier, steps=steps)
    return repeated(training, round_event(training, noise_multiplier, slots=slots))


def repeated(training: TrainingSection, event: events.Event) -> events.Event:
    """Return the event of all rounds from that of `rounds_per_event` of them."""
    return events.SelfComposed(event=event, count=-(-training.rounds // rounds_per_event(training)))
