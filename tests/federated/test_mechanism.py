import pytest

from dpaudit.events import Gaussian, PoissonSampled, PubliclySampled
from dpaudit.federated.mechanism import round_event

NOISE = Gaussian(noise_multiplier=1.3)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        (0.5, 0.2, PubliclySampled(sampling_rate=0.5, event=PoissonSampled(sampling_rate=0.2, event=NOISE))),
        (1.0, 0.2, PoissonSampled(sampling_rate=0.2, event=NOISE)),
        (0.5, 1.0, PubliclySampled(sampling_rate=0.5, event=NOISE)),
        (1.0, 1.0, NOISE),
    ],
)
def test_at_example_level_only_the_coin_of_the_example_is_secret(make_config, p, q, expected):
    training = make_config(training={"client_sampling_rate": p, "example_sampling_rate": q}).training
    assert round_event(training, 1.3) == expected


@pytest.mark.parametrize(("p", "expected"), [(0.1, PoissonSampled(sampling_rate=0.1, event=NOISE)), (1.0, NOISE)])
def test_at_client_level_the_coin_of_the_client_is_secret_and_dropouts_amplify_nothing(make_config, p, expected):
    training = make_config(client_level=True, training={"client_sampling_rate": p, "dropout_rate": 0.3}).training
    assert round_event(training, 1.3) == expected
