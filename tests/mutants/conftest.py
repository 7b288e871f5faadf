"""A small run that goes through the whole pipeline in about two seconds, and the plain memory that makes it so fast.

The accountants are asked the same questions by every mutant (same configuration, same events), so their answers are
kept, and so is the model without privacy on which the attacks must be alive, by the records that it was trained on;
nothing that depends on what a mutant did is kept.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpaudit import accounting, config, events, pipeline
from dpaudit.ledger import PrivacyLedger
from dpaudit.pipeline import alive, canary_audit, design, membership, per_step
from dpaudit.pipeline.progress import Quiet
from dpaudit.policy import load_policy

SMALL = """
[run]
name = "small"
seed = {seed}

[claim]
epsilon = 6.0
delta = 1e-5
unit = "{unit}"

[data]
source = "digits"

[partition]
clients = {clients}
alpha = 1.0

[model]
hidden = [8]

[training]
algorithm = "{algorithm}"
rounds = {rounds}
{rates}
clip_norm = 2.0
server_learning_rate = 1.0

[canaries]
count = {canaries}

[audit]
methods = ["one-run", "per-step"]
attacks = ["loss"]
reference_models = 0
power_trials = 30
"""
SHAPES = {
    "example": {
        "unit": "example",
        "algorithm": "dp-fedsgd",
        "clients": 20,
        "rounds": 40,
        "canaries": 1000,
        "rates": "client_sampling_rate = 0.5\nexample_sampling_rate = 0.2",
    },
    "client": {
        "unit": "client",
        "algorithm": "dp-fedavg",
        "clients": 100,
        "rounds": 40,
        "canaries": 1000,
        "rates": "client_sampling_rate = 0.3",
    },
    "local": {
        "unit": "example",
        "algorithm": "dp-local",
        "clients": 12,
        "rounds": 15,
        "canaries": 1000,
        "rates": "client_sampling_rate = 0.6\nexample_sampling_rate = 0.25\nlocal_learning_rate = 0.5",
    },
}

Run = Callable[..., pipeline.Outcome]


def small(seed: int, *, shape: str = "example", noise_multiplier: float | None = None) -> config.RunConfig:
    text = SMALL.format(seed=seed, **SHAPES[shape])
    if noise_multiplier is not None:
        text = text.replace("clip_norm = 2.0", f"clip_norm = 2.0\nnoise_multiplier = {noise_multiplier!r}")
    return config.parse(text)


def _key(*parts: object) -> str:
    return hashlib.sha256(pickle.dumps(parts)).hexdigest()


def _about(facts: Any) -> list[tuple[str, Any]]:
    """Return the facts that an accounting may depend on: all but digests, versions and realised numbers."""
    changing = ("sha256", "commitment", "realised", "versions", "dropouts", "rejected")
    return sorted((key, repr(value)) for key, value in facts.items() if not any(word in key for word in changing))


def _remember_answers(patch: pytest.MonkeyPatch, known: dict[str, Any]) -> None:
    """Keep the answers of the accountants and the control of the attacks, by everything that they depend on."""
    noise_for, summarize, comparable = design.noise_for, accounting.summarize, membership.comparable.check_comparable
    make_control = alive.make_control

    def remembered_noise(settings: config.RunConfig, epsilon: float, **options: Any) -> float:
        training = settings.training.model_dump(exclude={"noise_multiplier"})
        key = _key("noise", settings.claim.model_dump(), training, epsilon, sorted(options.items()))
        if key not in known:
            known[key] = noise_for(settings, epsilon, **options)
        return float(known[key])

    def remembered_summary(ledger: PrivacyLedger, **options: Any) -> Any:
        said = [(events.to_json(entry.event), _about(entry.facts)) for entry in ledger.events() if entry.event]
        key = _key("summary", said, sorted(options.items()), _about(ledger.facts))
        if key not in known:
            known[key] = summarize(ledger, **options)
        return replace(known[key], ledger_digest=ledger.digest)

    def remembered_comparable(x: Any, y: Any, is_member: Any, **options: Any) -> Any:
        key = _key("comparable", x.tobytes(), y.tobytes(), is_member.tobytes(), sorted(options))
        if key not in known:
            known[key] = comparable(x, y, is_member, **options)
        return known[key]

    def remembered_control(section: Any, x: Any, y: Any, unit: Any, attacks: Any, **options: Any) -> Any:
        records = [None if part is None else np.asarray(part).tobytes() for part in (x, y, unit)]
        key = _key("control", section.model_dump(), records, list(attacks), sorted(options.items()))
        if key not in known:
            known[key] = make_control(section, x, y, unit, attacks, **options)
        return known[key]

    for module in (design, canary_audit, per_step):
        patch.setattr(module, "noise_for", remembered_noise)
    patch.setattr(accounting, "summarize", remembered_summary)
    patch.setattr(membership.comparable, "check_comparable", remembered_comparable)
    patch.setattr(alive, "make_control", remembered_control)


@pytest.fixture(scope="session")
def answers() -> dict[str, Any]:
    """What the accountants have said so far in this process."""
    return {}


@pytest.fixture(scope="module")
def fast_accounting(answers: dict[str, Any]) -> Iterator[None]:
    """Patched for one module only, so that no other test is answered from memory."""
    with pytest.MonkeyPatch.context() as patch:
        _remember_answers(patch, answers)
        yield


@pytest.fixture
def run_small(fast_accounting: None, tmp_path: Path) -> Run:
    """Return a function that does the whole job on a small configuration, in this process."""

    def run(
        seed: int = 1,
        *,
        shape: str = "example",
        policy: str = "demonstration",
        resume: bool = False,
        noise_multiplier: float | None = None,
    ) -> pipeline.Outcome:
        return pipeline.run(
            small(seed, shape=shape, noise_multiplier=noise_multiplier),
            tmp_path / f"run-{shape}-{seed}",
            policy=load_policy(policy),
            resume=resume,
            today=datetime.now(UTC).date(),
            reporter=Quiet(),
        )

    return run


@pytest.fixture(scope="module")
def small_config() -> Callable[..., config.RunConfig]:
    """Return the function that makes small configurations."""
    return small
