"""The step test: honest steps pass as often as stated, every planted bug is caught by the check that should."""

import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from dpaudit import accounting, events
from dpaudit.errors import DataError, UsageError
from dpaudit.records import Status
from dpaudit.verification import (
    Step,
    StepClaim,
    check_step,
    subject_clipping,
    subject_cohort,
    subject_model,
    subject_noise,
    subject_server,
)
from dpaudit.verification._results import chi2_quantile

SERVERS = {}
for _module in (subject_server, subject_clipping, subject_noise, subject_cohort):
    SERVERS |= {
        name: found
        for name, found in vars(_module).items()
        if inspect.isclass(found) and issubclass(found, subject_server.Server)
    }
S, M = SimpleNamespace(**SERVERS), subject_model

MUTANTS = {
    "step.sensitivity": [
        S.ClipAverage, S.ClipAggregate, S.NoClip, S.ClipPerTensor, S.ClipMaximum, S.ClipThenUseRaw, S.BiasUnclipped,
        S.NormOfFirstTensor, S.ClipAfterNoise, S.MicrobatchMean, S.AugmentationsSummed, S.NormaliseByBatch,
        S.HeavyWeights, S.TripleWeight, S.HalfNoise, S.FivePercentLess, S.NoiseDividedTwice, S.NoiseBySqrtBatch,
        S.VarianceForDeviation, S.NoisePerMicroStep, M.BatchNormalised, M.BatchClipped, M.LastLayerUnclipped, M.NoClip,
        M.ClipPerTensor, M.FixedSizeNoClip,
    ],
    "step.noise": [S.NoNoise, S.FixedSeed, S.BiasUnnoised, S.IntegerTensor],
    "step.noise-reuse": [
        S.OneKeyForAll, S.RowsRepeat, S.SameNoiseEveryStep, S.RestoreReplaysNoise, S.WorkersShareSeed, S.SparseNoise,
    ],
    "step.noise-shape": [S.LaplaceNoise, S.UniformNoise, S.TruncatedNoise],
    "step.denominator": [
        S.ActualBatch, S.NoiseForThoseWhoCame, S.MeanOfThoseWhoCame, S.NoEmptyBatch, S.EmptyBatchSkipped, M.ActualBatch,
    ],
    "step.robust": [S.NanComesThrough, S.ZeroCrashes, M.NanComesThrough],
    "step.carry-over": [S.LeftOver],
    "step.adaptive-clip": [S.AdaptiveInverted],
    "step.runs": [S.ReleasesNan],
}  # fmt: skip
HONEST = [S.Server, S.AdaptiveServer, S.WeightedServer, S.AlwaysUnitNorm, M.Model, M.FixedSizeModel]
UNTESTABLE = {S.NotSeeded: "step.seeded", S.SharedGenerator: "step.randomness", S.Crashes: "step.runs"}
BY_CHANCE = {S.FivePercentLess, S.ClipAfterNoise, S.LaplaceNoise, S.UniformNoise, S.TruncatedNoise, S.MicrobatchMean}
EVERY = [(check, mutant) for check, mutants in MUTANTS.items() for mutant in mutants]
NAMES = [f"{mutant.__module__.split('_')[-1]}.{mutant.__name__}" for _, mutant in EVERY]


def by_id(step, claim=1.0, **options):
    return {result.id: result for result in check_step(step, claim, **options)}


def failed(results):
    return {name for name, result in results.items() if result.status == Status.FAIL}


def test_every_subject_is_in_a_list():
    listed = {mutant for _, mutant in EVERY} | set(HONEST) | set(UNTESTABLE)
    models = {c for c in vars(M).values() if inspect.isclass(c) and issubclass(c, M.Model)}
    assert {*SERVERS.values(), *models} == listed


@pytest.mark.parametrize(("check", "mutant"), EVERY, ids=NAMES)
def test_every_mutant_is_caught(check, mutant):
    results = by_id(mutant.step)
    assert results[check].status == Status.FAIL, results[check].detail
    assert results[check].refuted


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-4)
@pytest.mark.parametrize(("check", "mutant"), EVERY, ids=NAMES)
def test_every_mutant_is_caught_with_probability_99_percent(check, mutant):
    runs = 100 if mutant in BY_CHANCE else 20
    caught = sum(by_id(mutant.step, seed=1000 * run)[check].status == Status.FAIL for run in range(runs))
    assert caught >= binom.ppf(1e-6, runs, 0.995)


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("honest", HONEST, ids=lambda c: c.__name__)
def test_honest_steps_pass(honest):
    runs, level = 3 if honest is S.AlwaysUnitNorm else 12, 0.01
    alarms = 0
    for run in range(runs):
        results = by_id(honest.step, seed=1000 * run, significance=level)
        alarms += bool(failed(results))
        assert not [r.detail for r in results.values() if r.status == Status.INCONCLUSIVE]
    assert alarms <= binom.isf(1e-6, runs, level)


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("honest", [S.Server, M.Model], ids=lambda c: c.__name__)
def test_total_false_alarm(honest):
    runs = 400
    alarms = sum(bool(failed(by_id(honest.step, seed=1000 * run))) for run in range(runs))
    assert alarms <= binom.isf(1e-6, runs, 0.01)


@pytest.mark.parametrize(("subject", "check"), UNTESTABLE.items(), ids=lambda c: getattr(c, "__name__", c))
def test_what_cannot_be_tested_is_inconclusive(subject, check):
    results = by_id(subject.step)
    assert results[check].status == Status.INCONCLUSIVE
    assert not failed(results)
    assert "step.sensitivity" not in results or results["step.sensitivity"].status == Status.INCONCLUSIVE


@pytest.mark.parametrize("subject", [S.NotSeeded, S.SharedGenerator], ids=lambda c: c.__name__)
def test_gross_faults_are_seen_without_common_random_numbers(subject):
    broken = type("Broken", (subject, S.NoClip), {})
    result = by_id(broken.step)["step.sensitivity"]
    assert result.status == Status.FAIL, result.detail
    assert result.statistic > 1000
    assert 0.9 < by_id(subject.step)["step.sensitivity"].minimum_detectable < 1


@pytest.mark.parametrize("honest", HONEST, ids=lambda c: c.__name__)
def test_every_check_says_what_it_could_have_seen(honest):
    silent = {"step.robust", "step.adaptive-clip"}  # not a matter of more or less
    for result in by_id(honest.step).values():
        assert result.id in silent or result.minimum_detectable is not None, result.id


def test_what_comes_with_half_the_batch_is_weighed():
    result = by_id(S.MeanOfThoseWhoCame.step)["step.denominator"]
    assert "one unit counts" in result.detail
    assert "times as large" not in result.detail


def test_a_sampled_release_hides_little_from_other_seeds():
    first, second = by_id(S.Server.step, seed=1), by_id(S.Server.step, seed=2)
    assert first["step.sensitivity"].statistic != second["step.sensitivity"].statistic


def test_the_effective_noise_multiplier_and_the_epsilon_that_follows():
    claim = StepClaim(noise_multiplier=1.0, sampling_rate=0.01, steps=1000, delta=1e-5)
    result = by_id(S.HalfNoise.step, claim)["step.sensitivity"]
    effective = 1 / result.statistic
    assert 0.49 < effective < 0.53  # an upper confidence limit on 0.5
    assert f"at most {effective:.4g}" in result.detail
    assert "1.828" in result.detail  # what the claim would be worth: PLD of z = 1, q = 0.01, 1000 steps
    event = events.PoissonSampled(sampling_rate=0.01, event=events.Gaussian(noise_multiplier=effective))
    spent = accounting.epsilon(events.SelfComposed(event=event, count=1000), 1e-5)
    assert f"epsilon at least {spent:.4g} instead" in result.detail


@pytest.mark.parametrize("z", [0.3, 1.0, 4.0])
def test_the_limit_is_exact_when_one_canary_contributes_exactly_the_clip_norm(z):
    """z_eff <= its confidence limit except with the stated probability; here for one known mechanism."""

    def run(batch, seed):
        total = np.clip(batch[0], -1, 1).sum(axis=0, dtype=np.float64)
        return [total + z * np.random.default_rng((7, seed)).standard_normal(1)]

    step = Step(run=run, batch=(np.full((4, 1), 0.1),))
    results = by_id(lambda: step, z)
    sensitivity = results["step.sensitivity"]
    assert sensitivity.status == Status.PASS
    assert sensitivity.n == 40  # a step of one number is executed with more seeds
    draws = np.array([run(step.batch, seed)[0][0] for seed in range(41)])
    squares = ((draws - draws.mean()) ** 2).sum()
    assert sensitivity.statistic == pytest.approx(math.sqrt(chi2_quantile(0.0025, 40) / squares), rel=1e-3)


def test_more_noise_than_claimed_passes_or_says_that_it_cannot_tell():
    assert by_id(S.Server.step, 0.9)["step.sensitivity"].status == Status.PASS
    far = by_id(S.Server.step, 0.2)["step.sensitivity"]
    assert far.status == Status.INCONCLUSIVE
    assert "more noise than claimed" in far.detail


def test_a_step_that_ignores_its_data_is_inconclusive():
    def run(batch, seed):
        return [np.random.default_rng(seed).standard_normal(5000)]

    result = by_id(lambda: Step(run=run, batch=(np.zeros((4, 5000)),)))["step.sensitivity"]
    assert result.status == Status.INCONCLUSIVE
    assert "moved the release" in result.detail


def test_scale_and_learning_rate_cancel():
    reference = by_id(S.Server.step)["step.sensitivity"].statistic
    base = S.Server.step()
    for factor in (1e-6, -3.0, 1e5):
        step = Step(
            run=lambda batch, seed, f=factor: [f * t.astype(np.float64) for t in base.run(batch, seed)],
            batch=base.batch,
            clip_norm=base.clip_norm,
        )
        assert by_id(lambda s=step: s)["step.sensitivity"].statistic == pytest.approx(reference, rel=1e-4)


def test_rounding_is_not_a_finding():
    """Released weights of size 100 with noise of 0.01, in float32: differences carry rounding of 1e-5."""
    base = S.Server.step()

    def run(batch, seed):
        return [(100 + t.astype(np.float64)).astype(np.float32) for t in base.run(batch, seed)]

    results = by_id(lambda: Step(run=run, batch=base.batch, clip_norm=base.clip_norm))
    assert not failed(results), [results[name].detail for name in failed(results)]


def test_users_add_canaries():
    class Backdoor(S.Server):
        def clip(self, rows):
            special = rows[:, 3] == 42.0
            return np.where(special[:, None], rows, super().clip(rows))

    base = Backdoor.step()
    row = tuple(np.zeros((1, *array.shape[1:]), np.float32) for array in base.batch)
    row[0].reshape(-1)[3] = 42.0
    plain = Step(run=base.run, batch=base.batch, clip_norm=base.clip_norm)
    told = Step(run=base.run, batch=base.batch, clip_norm=base.clip_norm, canaries={"backdoor": row})
    assert not failed(by_id(lambda: plain))
    assert failed(by_id(lambda: told)) == {"step.sensitivity"}


def test_replays_that_crash_are_inconclusive():
    base = S.Server.step()

    def broken(batch, seed):
        raise OSError("no checkpoint")

    step = Step(run=base.run, batch=base.batch, clip_norm=base.clip_norm, replays=broken, second=broken)
    results = by_id(lambda: step)
    assert results["step.noise-reuse"].status == Status.INCONCLUSIVE
    assert "no checkpoint" in results["step.noise-reuse"].detail
    assert results["step.noise-shape"].status == Status.PASS


def test_without_replays_the_result_says_what_was_not_compared():
    base = S.Server.step()
    results = by_id(lambda: Step(run=base.run, batch=base.batch, clip_norm=base.clip_norm))
    assert "not compared" in results["step.noise-reuse"].detail


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"batch": ()}, DataError),
        ({"batch": (np.zeros((1, 3)),)}, DataError),
        ({"batch": (np.zeros((4, 3)), np.zeros(3))}, DataError),
        ({"kind": "images"}, UsageError),
        ({"weighted": True, "kind": "examples"}, UsageError),
        ({"clip_norm": 0.0}, UsageError),
        ({"canaries": {"two": (np.zeros((2, 3)),)}}, DataError),
    ],
)
def test_steps_that_make_no_sense_are_refused(changes, error):
    with pytest.raises(error):
        Step(**{"run": lambda batch, seed: [], "batch": (np.zeros((4, 3)),), **changes})


def test_claims_that_make_no_sense_are_refused():
    for bad in (
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 1.0, "sampling_rate": 2.0},
        {"noise_multiplier": 1.0, "delta": 1.0},
    ):
        with pytest.raises(UsageError):
            StepClaim(**bad)
    with pytest.raises(UsageError, match="function"):
        check_step("no function", 1.0)
    with pytest.raises(UsageError, match="must return"):
        check_step(lambda: 3, 1.0)


@pytest.mark.parametrize(
    ("released", "what"),
    [([], "releases nothing"), ([np.zeros(0)], "releases nothing"), ([np.array(["a"])], "something else than numbers")],
)
def test_a_step_that_releases_nothing_of_use_is_inconclusive(released, what):
    results = by_id(lambda: Step(run=lambda batch, seed: released, batch=(np.zeros((4, 3)),)))
    assert results["step.runs"].status == Status.INCONCLUSIVE
    assert what in results["step.runs"].detail


@pytest.mark.parametrize("when", ["crash", "nan", "shape", "later"])
def test_a_step_that_works_only_once_is_not_a_pass(when):
    base = S.Server.step()
    calls = []

    def run(batch, seed):
        calls.append(seed)
        tensors = base.run(batch, seed)
        if when == "later" and seed > 50:
            raise RuntimeError("out of memory")
        if len(calls) < 2 or when == "later":
            return tensors
        if when == "crash":
            raise RuntimeError("out of memory")
        return [t * np.nan for t in tensors] if when == "nan" else [t[:-1] for t in tensors]

    results = by_id(lambda: Step(run=run, batch=base.batch, clip_norm=base.clip_norm))
    if when == "later":
        assert not failed(results)
        return
    expected = Status.FAIL if when == "nan" else Status.INCONCLUSIVE
    assert results["step.runs"].status == expected
