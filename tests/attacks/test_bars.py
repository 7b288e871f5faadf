"""The bars: chance where nothing leaks, LiRA and RMIA ahead where much does, on real models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpaudit import config as configuration
from dpaudit.attacks import registry
from dpaudit.attacks.base import LABEL_QUERIES, POPULATION, Observed
from dpaudit.attacks.membership import scores_of, split
from dpaudit.attacks.subset import with_population
from dpaudit.config import ModelSection
from dpaudit.estimation.auc import delong_interval

pytest.importorskip("tensorflow")
from dpaudit.attacks.gradients import gradient_facts
from dpaudit.federated.twins import train_twins

ROOT = Path(__file__).resolve().parents[2]
ERROR = 1e-6 / len(registry.names())


@pytest.fixture(scope="module")
def strangers():
    """A model over-fitted on some digits, seen on others that it never saw: half of those are called members."""
    from sklearn.datasets import load_digits

    data, rng = load_digits(), np.random.default_rng(0)
    x, y = (data.data / 16).astype(np.float32), data.target.astype(np.int32)
    own = rng.random(len(y)) < 0.3
    inside = np.concatenate([own[None], np.argsort(rng.random((8, len(y))), axis=0) < 4])
    twins = train_twins(ModelSection(hidden=(64,)), x, y, inside, classes=10, root=1, epochs=40, batch=64)
    rest = ~own
    logits = twins.logits(x)[:, rest]
    seen = Observed(
        logits=logits[0], labels=y[rest], reference_logits=logits[1:], reference_in=inside[1:, rest], x=x[rest],
        label_oracle=lambda records: twins.labels(0, records),
        **gradient_facts(twins.keras_model(0), x[rest], y[rest], earlier=twins.keras_model(0, at_start=True)),
    )  # fmt: skip
    known = rng.random(int(rest.sum())) < 0.3
    seen = with_population(seen, known)
    return seen, rng.random(seen.units) < 0.5


@pytest.mark.statistical(failure_probability=1e-6)
@pytest.mark.parametrize("name", registry.names())
def test_non_members_split_in_two_are_told_apart_by_chance_alone(strangers, name):
    seen, fake_member = strangers
    scores = split(scores_of(name, seen), fake_member)
    low, high = delong_interval(scores, 1 - ERROR)
    assert low <= 0.5 <= high
    assert high - low < 0.3


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-6)
def test_a_model_with_epsilon_1_gives_chance(tmp_path):
    """Digits with DP-SGD at epsilon 1, 16 reference models, every attack."""
    from dpaudit.federated import models
    from dpaudit.federated.data import prepare
    from dpaudit.federated.reference import train_references
    from dpaudit.pipeline import membership
    from dpaudit.pipeline.design import make_design

    names = registry.names()
    text = (ROOT / "examples" / "digits_federated.toml").read_text()
    text = text.replace("epsilon = 6.0", "epsilon = 1.0").replace("reference_models = 8", "reference_models = 16")
    config = configuration.parse(text)
    data = prepare(config, root=1)
    design = make_design(config)
    found = train_references(config, data, root=1, noise_multiplier=design.noise_multiplier, count=17)
    pool = membership.make_pool(config, data, root=1)
    logits = found.logits(pool.x)  # the first is the target, trained like the others on a random half
    target, earlier = (
        models.build_model(config.model, pool.x.shape[1:], data.train.classes, root=root) for root in (1, 2)
    )
    models.set_weights(target, found.weights[0].astype(np.float64))
    seen = Observed(
        logits=logits[0], labels=pool.y, reference_logits=logits[1:], reference_in=found.inside[1:], x=pool.x,
        label_oracle=lambda x: found.logits(np.asarray(x, np.float32))[0].argmax(axis=1).astype(np.int64),
        **gradient_facts(target, pool.x, pool.y, earlier=earlier),
    )  # fmt: skip
    member = found.inside[0]
    known = ~member & (np.random.default_rng(2).random(member.size) < 0.4)
    for name in names:
        needs = registry.make(name).needs
        kept = ~known if POPULATION in needs else np.ones(member.size, bool)
        observed = with_population(seen, known) if POPULATION in needs else seen
        low, high = delong_interval(split(scores_of(name, observed), member[kept]), 1 - ERROR)
        assert low <= 0.5 <= high, name
        assert LABEL_QUERIES in needs or high - low < 0.3, name


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=1e-3)
def test_lira_and_rmia_beat_the_loss_on_overfitted_models():
    """5 seeds, 64 reference models: the 95 % interval of the margin in TPR at 1 % FPR lies above 0."""
    script = ROOT / "benchmarks" / "attacks_ranking.py"
    done = subprocess.run([sys.executable, script, "--json"], capture_output=True, text=True, check=True)
    for source, result in json.loads(done.stdout).items():
        assert result["train_accuracy"] > result["test_accuracy"] + 0.01, source
        for name in ("lira", "rmia"):
            assert result["attacks"][name]["margin_over_loss"][1] > 0, (source, name)
