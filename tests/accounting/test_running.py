import numpy as np
import pytest

from dpaudit import events as ev
from dpaudit.accounting import RunningEpsilon, epsilon
from dpaudit.errors import Refusal, UsageError


def coin(p=0.3, q=0.1, z=1.0):
    step = ev.PoissonSampled(sampling_rate=q, event=ev.Gaussian(noise_multiplier=z))
    return ev.PubliclySampled(sampling_rate=p, event=step)


HOPELESS = ev.PoissonSampled(sampling_rate=0.5, event=ev.Gaussian(noise_multiplier=0.7))


@pytest.mark.parametrize(
    "event", [coin(), HOPELESS, ev.Gaussian(noise_multiplier=9.0), ev.Laplace(noise_multiplier=30.0)]
)
def test_every_round_is_an_upper_bound_near_the_final_number(event):
    spent = RunningEpsilon(event, 1e-5)
    for rounds in (1, 2, 7, 30, 150):
        exact = epsilon(ev.SelfComposed(event=event, count=rounds), 1e-5)
        assert exact * (1 - 1e-8) <= spent.after(rounds) <= exact * 1.01 + 1e-3


def test_it_grows_with_the_rounds_in_whatever_order_it_is_asked():
    spent = RunningEpsilon(coin(), 1e-5)
    forward = [spent.after(r) for r in range(1, 60)]
    assert np.all(np.diff(forward) > 0)
    again = RunningEpsilon(coin(), 1e-5)
    backward = [again.after(r) for r in range(59, 0, -1)][::-1]
    np.testing.assert_allclose(forward, backward, rtol=1e-7)
    assert spent.after(0) == 0.0


def test_refusals():
    with pytest.raises(Refusal, match="after 200 rounds"):
        RunningEpsilon(ev.ApproximateDp(epsilon=0.1, delta=1e-7), 1e-5).after(200)
    with pytest.raises(UsageError):
        RunningEpsilon(coin(), 0.0)
    with pytest.raises(UsageError):
        RunningEpsilon(coin(), 1e-5).after(-1)
