import numpy as np
import pytest
from scipy.stats import chi2

from dpaudit.errors import UsageError
from dpaudit.events import Gaussian
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.optimizers import Adam, Sgd

SIZE = 20_000


def noise(number=0, attempt=0, root=1, **options):
    aggregator = GaussianSum(clip_norm=0.5, noise_multiplier=1.2, **options)
    return aggregator.noised(np.zeros(SIZE), root=root, number=number, attempt=attempt).vector


@pytest.mark.statistical(failure_probability=1e-6)
def test_the_noise_has_the_promised_scale_whatever_the_sum():
    total = np.linspace(-100, 100, SIZE)
    noised = GaussianSum(clip_norm=0.5, noise_multiplier=1.2).noised(total, root=1, number=0, attempt=0)
    statistic = ((noised.vector - total) ** 2).sum() / 0.6**2
    low, high = chi2.ppf([5e-7, 1 - 5e-7], SIZE)
    assert low < statistic < high
    assert noised.event == Gaussian(noise_multiplier=1.2)


@pytest.mark.statistical(failure_probability=1e-6)
def test_noise_is_never_shared_between_rounds_attempts_or_roots():
    draws = np.array([noise(), noise(number=1), noise(attempt=1), noise(number=1, attempt=1), noise(root=2)])
    correlation = np.corrcoef(draws) - np.eye(5)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(SIZE)
    np.testing.assert_array_equal(noise(number=3), noise(number=3))
    assert len(np.unique(draws)) == draws.size, "no two coordinates share a value either"


def test_the_planted_fault_halves_the_noise_and_nothing_that_is_said():
    honest, broken = GaussianSum(clip_norm=0.5, noise_multiplier=1.2), GaussianSum(
        clip_norm=0.5, noise_multiplier=1.2, noise_factor=0.5
    )  # fmt: skip
    np.testing.assert_allclose(noise(noise_factor=0.5), noise() / 2)
    assert broken.noise_stddev == honest.noise_stddev == pytest.approx(0.6)
    assert broken.noised(np.zeros(2), root=1, number=0, attempt=0).event == Gaussian(noise_multiplier=1.2)


@pytest.mark.parametrize("bad", [{"clip_norm": 0.0}, {"noise_multiplier": -1.0}, {"noise_multiplier": float("nan")}])
def test_senseless_parameters_are_refused(bad):
    with pytest.raises(UsageError):
        GaussianSum(**{"clip_norm": 1.0, "noise_multiplier": 1.0, **bad})


def test_momentum_accumulates_velocity():
    optimizer, weights = Sgd(0.1, momentum=0.5), np.zeros(2)
    for _ in range(3):
        weights = optimizer.step(weights, np.array([1.0, -2.0]))
    np.testing.assert_allclose(weights, -0.1 * (1 + 1.5 + 1.75) * np.array([1.0, -2.0]))


def test_adam_equals_keras():
    keras = pytest.importorskip("keras")
    variable = keras.Variable(np.zeros(3, np.float32))
    theirs = keras.optimizers.Adam(0.05)
    theirs.build([variable])
    ours, weights = Adam(0.05), np.zeros(3)
    for step in range(5):
        gradient = np.array([1.0, -3.0, 0.01 * step])
        weights = ours.step(weights, gradient)
        theirs.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))])
    np.testing.assert_allclose(weights, np.asarray(variable.value), rtol=1e-3)
