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
"""

from dpaudit import events
from dpaudit.config import TrainingSection


def sampled(training: TrainingSection, event: events.Event) -> events.Event:
    """Wrap the event of one aggregation in the sampling of the algorithm; rates of 1 add no wrapper."""
    if training.algorithm == "dp-fedavg":
        return _poisson(training.client_sampling_rate, event)
    inner = _poisson(training.example_sampling_rate, event)
    if training.client_sampling_rate == 1.0:
        return inner
    return events.PubliclySampled(sampling_rate=training.client_sampling_rate, event=inner)


def _poisson(rate: float, event: events.Event) -> events.Event:
    return event if rate == 1.0 else events.PoissonSampled(sampling_rate=rate, event=event)


def round_event(training: TrainingSection, noise_multiplier: float) -> events.Event:
    """Return the privacy event of ONE round whose Gaussian noise has `noise_multiplier` times the clip norm.

    dp-fedsgd: `PubliclySampled(p, PoissonSampled(q, Gaussian(z)))`; dp-fedavg: `PoissonSampled(p, Gaussian(z))`.
    Dropouts are not counted as sampling: whether a device answers is not a secret coin of ours.
    """
    return sampled(training, events.Gaussian(noise_multiplier=noise_multiplier))
