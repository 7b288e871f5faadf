"""Bugs planted in the training path, each run through the whole pipeline: none may end PASS.

A mutant changes the program, never the ledger's promise or the test. `caught_by` names the rule that must fail and
`words` what its message must hold, so that a mutant that dies for another reason is not counted as caught. Mutants
that still end PASS are marked xfail(strict=True) with what would catch them: when it does, the mark must go.

Failure probabilities: the honest twins are judged with fixed seeds. Over fresh seeds an honest run calibrated exactly
to its claim ends FAIL with probability up to 0.05 (per-step bound, 95 % confidence) + 0.05 (one-run bound) + 0.02
(checks); the seeds here are fixed, so the tests are deterministic.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dpaudit import _rng
from dpaudit.errors import DpauditError
from dpaudit.federated import canaries, clients, clipping, engine, sampling, server, trainer
from dpaudit.federated.aggregation import GaussianSum, Noised
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Status

Patch = pytest.MonkeyPatch


class Survived(AssertionError):
    """A mutant ended PASS."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One planted bug and the finding that must name it."""

    name: str
    plant: Callable[[Patch], None]
    caught_by: str
    words: str
    status: Status = Status.FAIL
    shape: str = "example"
    noise_multiplier: float | None = None
    slow: bool = False
    survives: str | None = None


# --- noise ------------------------------------------------------------------------------------------------------


def noise(change: Callable[..., np.ndarray]) -> Callable[[Patch], None]:
    """Replace the noise vector: `change(noise, root, number, parameters)` returns what is really added."""

    def plant(patch: Patch) -> None:
        honest = GaussianSum.noised

        def noised(self: GaussianSum, total: np.ndarray, *, root: int, number: int, **rest: Any) -> Noised:
            right = honest(self, total, root=root, number=number, **rest)
            wrong = change(right.vector - total, root=root, number=number, parameters=total.size - 1000)
            return dataclasses.replace(right, vector=total + wrong)

        patch.setattr(GaussianSum, "noised", noised)

    return plant


def scaled(factor: float) -> Callable[..., np.ndarray]:
    return lambda noise, **_: factor * noise


def some_rounds(factor: float, every: int, first: int = 0) -> Callable[..., np.ndarray]:
    return lambda noise, *, number, **_: noise * (factor if number % every == first else 1.0)


def same_every_round(noise: np.ndarray, *, root: int, **_: Any) -> np.ndarray:
    return _rng.stream(root, "stuck").standard_normal(noise.size) * 2.0 * 1.1


def sign_flips(noise: np.ndarray, *, root: int, number: int, **_: Any) -> np.ndarray:
    """Noise that cancels between two rounds."""
    vector = _rng.stream(root, "pairs", number // 2).standard_normal(noise.size) * 2.0 * 1.1
    return vector if number % 2 else -vector


def window_slides(noise: np.ndarray, *, root: int, number: int, **_: Any) -> np.ndarray:
    """One long stream, of which every round takes a window that starts before the last one ended."""
    start = 700 * number
    return _rng.stream(root, "long").standard_normal(start + noise.size)[start:] * 2.0 * 1.1


def uniform(noise: np.ndarray, *, root: int, number: int, **_: Any) -> np.ndarray:
    spread = 2.0 * 1.1 * np.sqrt(3)
    return _rng.stream(root, "uniform", number).uniform(-spread, spread, noise.size)


def none_on_the_model(noise: np.ndarray, *, parameters: int, **_: Any) -> np.ndarray:
    return np.concatenate([np.zeros(parameters), noise[parameters:]])


# --- clipping ---------------------------------------------------------------------------------------------------


def clip(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[Patch], None]:
    """Replace the clipped sum: `change(rows, clip_norm)` returns the sum that is really used."""

    def plant(patch: Patch) -> None:
        def summed(self: GaussianSum, rows: np.ndarray, *, width: int, **_: Any) -> np.ndarray:
            total = np.zeros(width)
            total[: rows.shape[1]] = change(rows.astype(np.float64), self.clip_norm)
            return total

        patch.setattr(GaussianSum, "clipped_sum", summed)

    return plant


def unclipped(rows: np.ndarray, clip_norm: float) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)  # measured, and never used
    assert (norms >= 0).all()
    return rows.sum(axis=0)


def clipped_at(factor: float) -> Callable[[np.ndarray, float], np.ndarray]:
    return lambda rows, clip_norm: clipping.clipped_sum(rows.astype(np.float32), clip_norm=factor * clip_norm)


def clipped_by_layer(rows: np.ndarray, clip_norm: float) -> np.ndarray:
    """Each layer to the whole clip norm: the sensitivity grows by the root of the number of layers."""
    parts = np.split(rows, [512, 520, 600], axis=1)
    return np.concatenate([clipping.clipped_sum(p.astype(np.float32), clip_norm=clip_norm) for p in parts])


def in_the_engine(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[Patch], None]:
    """Plant a wrong clip where real examples are clipped: the engine's book-keeping. Canaries never go there."""

    def plant(patch: Patch) -> None:
        def clipped_sum(self: Any, weights: Any, x: Any, y: Any, index: Any, *, clip_norm: float, seed: Any) -> Any:
            rows = self.per_example_gradients(weights, x, y, index, seed=seed).astype(np.float64)
            return change(rows, clip_norm), np.linalg.norm(rows, axis=1).astype(np.float32)

        patch.setattr(clients.ClientFunctions, "clipped_sum", clipped_sum)

    return plant


# --- sampling ---------------------------------------------------------------------------------------------------


def cohort(change: Callable[..., sampling.Cohort]) -> Callable[[Patch], None]:
    """Replace the draw of cohorts: `change(honest, training, population, root, number)`."""

    def plant(patch: Patch) -> None:
        honest = sampling.draw
        patch.setattr(
            sampling,
            "draw",
            lambda training, population, *, root, number, **_slots: change(honest, training, population, root, number),
        )

    return plant


def first_round_again(honest: Any, training: Any, population: Any, root: int, number: int) -> sampling.Cohort:
    return dataclasses.replace(honest(training, population, root=root, number=0), number=number)


def same_examples(honest: Any, training: Any, population: Any, root: int, number: int) -> sampling.Cohort:
    """The clients change, but each always takes the same of its examples."""
    drawn = honest(training, population, root=root, number=number)
    chosen = _rng.stream(root, "examples", 0).random(population.units) < training.example_sampling_rate
    return dataclasses.replace(drawn, units=np.flatnonzero(chosen & drawn.answered[population.client_of]))


def fixed_number(honest: Any, training: Any, population: Any, root: int, number: int) -> sampling.Cohort:
    """A fixed-size batch without replacement from the examples of the clients that answered."""
    drawn = honest(training, population, root=root, number=number)
    there = np.flatnonzero(drawn.answered[population.client_of])
    size = round(there.size * training.example_sampling_rate)
    return dataclasses.replace(
        drawn, units=np.sort(_rng.stream(root, "wor", number).choice(there, size, replace=False))
    )


def shuffled_epochs(honest: Any, training: Any, population: Any, root: int, number: int) -> sampling.Cohort:
    """Each client runs through its examples in a fixed shuffled order, a fifth of them at a time."""
    drawn = honest(training, population, root=root, number=number)
    order = _rng.stream(root, "shuffle", number // 5).permutation(population.units)
    batch = np.zeros(population.units, dtype=bool)
    batch[order[number % 5 :: 5]] = True
    return dataclasses.replace(drawn, units=np.flatnonzero(batch & drawn.answered[population.client_of]))


def more_clients(honest: Any, training: Any, population: Any, root: int, number: int) -> sampling.Cohort:
    more = training.model_copy(update={"client_sampling_rate": 1.3 * training.client_sampling_rate})
    return honest(more, population, root=root, number=number)


def more_examples(honest: Any, training: Any, population: Any, root: int, number: int) -> sampling.Cohort:
    more = training.model_copy(update={"example_sampling_rate": 1.3 * training.example_sampling_rate})
    return honest(more, population, root=root, number=number)


def engine_ignores_the_cohort(patch: Patch) -> None:
    """The engine labels its gradients with the sampled units, but computes them on the same examples every round."""
    honest = engine.FedSgdEngine.run_cohort

    def run(self: Any, weights: Any, chosen: sampling.Cohort) -> Any:
        for block in honest(self, weights, dataclasses.replace(chosen, units=np.arange(chosen.units.size))):
            yield dataclasses.replace(block, units=chosen.units[block.units])

    patch.setattr(engine.FedSgdEngine, "run_cohort", run)


# --- canaries ---------------------------------------------------------------------------------------------------


def canaries_changed(**change: Any) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        honest = canaries.make_canaries

        def make(section: Any, population: Any, *, root: int) -> canaries.Canaries:
            made = honest(section, population, root=root)
            values = {key: value(made) if callable(value) else value for key, value in change.items()}
            return dataclasses.replace(made, **values)

        patch.setattr(canaries, "make_canaries", make)

    return plant


def canaries_never_sent(patch: Patch) -> None:
    patch.setattr(canaries, "contributions", lambda *_args, **_options: iter(()))


def canaries_skip_the_sampling(patch: Patch) -> None:
    """Canaries that are in take part whenever their client does."""

    def takes_part(fakes: Any, training: Any, drawn: sampling.Cohort, *, root: int) -> np.ndarray:
        return np.asarray(fakes.coins & drawn.answered[fakes.client])

    patch.setattr(canaries, "takes_part", takes_part)


def canaries_hardly_sampled(patch: Patch) -> None:
    """Canaries take part with a tenth of the rate of an example: the audit is far weaker than it says."""
    honest = canaries.takes_part

    def takes_part(fakes: Any, training: Any, drawn: sampling.Cohort, *, root: int) -> np.ndarray:
        thin = _rng.stream(root, "thin", drawn.number).random(fakes.count) < 0.1
        return np.asarray(honest(fakes, training, drawn, root=root) & thin)

    patch.setattr(canaries, "takes_part", takes_part)


def observations_not_finite(patch: Patch) -> None:
    honest = server.Server.release

    def release(self: Any, collected: Any) -> Any:
        found = honest(self, collected)
        if found.number == 3:
            found.vector[-5:] = np.nan
        return found

    patch.setattr(server.Server, "release", release)


# --- ledger and server ------------------------------------------------------------------------------------------


def forgets_a_round(patch: Patch) -> None:
    honest = PrivacyLedger.record

    def record(self: PrivacyLedger, event: Any, **facts: Any) -> None:
        if facts.get("round") != 7:
            honest(self, event, **facts)

    patch.setattr(PrivacyLedger, "record", record)


def forgets_the_last_rounds(patch: Patch) -> None:
    honest = PrivacyLedger.record

    def record(self: PrivacyLedger, event: Any, **facts: Any) -> None:
        if facts.get("round", 0) < 30:
            honest(self, event, **facts)

    patch.setattr(PrivacyLedger, "record", record)


def divides_by_the_realised_batch(patch: Patch) -> None:
    honest = server.Server.collect

    def collect(self: Any, *arguments: Any) -> Any:
        collected = honest(self, *arguments)
        self.realised = max(1, collected.accepted)
        return collected

    def apply(self: Any, release: Any) -> None:
        mean = release.vector[: self.weights.size] / self.realised
        self.weights = self.optimizer.step(self.weights, self._plan.direction * mean)

    patch.setattr(server.Server, "collect", collect)
    patch.setattr(server.Server, "apply", apply)


def realised_denominator_recorded(patch: Patch) -> None:
    """The same bug in a trainer that at least says what it divided by."""
    honest = PrivacyLedger.record

    def record(self: PrivacyLedger, event: Any, **facts: Any) -> None:
        honest(self, event, **{**facts, "expected": float(max(1, facts["realised_units"]))})

    divides_by_the_realised_batch(patch)
    patch.setattr(PrivacyLedger, "record", record)


def releases_the_exact_sum(patch: Patch) -> None:
    """What is recorded and observed is noised; what trains the model is not."""
    honest_collect = server.Server.collect

    def collect(self: Any, *arguments: Any) -> Any:
        collected = honest_collect(self, *arguments)
        self.exact = collected.total
        return collected

    def apply(self: Any, release: Any) -> None:
        mean = self.exact[: self.weights.size] / self._plan.denominator
        self.weights = self.optimizer.step(self.weights, self._plan.direction * mean)

    patch.setattr(server.Server, "collect", collect)
    patch.setattr(server.Server, "apply", apply)


def a_second_release_in_each_round(patch: Patch) -> None:
    """The server noises the same sum twice with different noise, uses the average, and records one event."""
    honest = server.Server.release

    def release(self: Any, collected: Any) -> Any:
        found = honest(self, collected)
        place = {"root": self._plan.root + 1, "number": found.number, "attempt": 0}
        again = self._aggregator.noised(collected.total, state=self.aggregator_state, **place)
        mixed = found.vector.copy()
        mixed[: self.weights.size] = (mixed + again.vector)[: self.weights.size] / 2
        return dataclasses.replace(found, vector=mixed)

    patch.setattr(server.Server, "release", release)


def ledger_promises_more_noise(factor: float) -> Callable[[Patch], None]:
    """Header, lines and events all say `factor` times the noise that the server was built with."""

    def plant(patch: Patch) -> None:
        honest_record, honest_init = PrivacyLedger.record, PrivacyLedger.__init__

        def grow(event: Any) -> Any:
            if hasattr(event, "noise_multiplier"):
                return dataclasses.replace(event, noise_multiplier=factor * event.noise_multiplier)
            return dataclasses.replace(event, event=grow(event.event))

        def record(self: PrivacyLedger, event: Any, **facts: Any) -> None:
            honest_record(self, grow(event), **{**facts, "noise_stddev": factor * facts["noise_stddev"]})

        def start(self: PrivacyLedger, path: Any = None, **facts: Any) -> None:
            larger = {k: factor * facts[k] for k in ("noise_multiplier", "noise_stddev") if k in facts}
            honest_init(self, path, **{**facts, **larger})

        patch.setattr(PrivacyLedger, "record", record)
        patch.setattr(PrivacyLedger, "__init__", start)

    return plant


def fine_tunes_without_noise(patch: Patch) -> None:
    """What is saved is not what the private rounds made, as after a few plain steps on the training data."""
    honest = trainer.models.set_weights

    def set_weights(model: Any, weights: np.ndarray) -> None:
        honest(model, weights + 0.5 * _rng.stream(1, "stands for steps on raw data").standard_normal(weights.size))

    patch.setattr(trainer.models, "set_weights", set_weights)


NOT_SEEN = "nothing that a run records speaks of the model's own coordinates"
MUTANTS = (
    Mutant(name="noise x0.5", plant=noise(scaled(0.5)), caught_by="DPA007", words="noise.scale"),
    Mutant(name="noise x0.9", plant=noise(scaled(0.9)), caught_by="DPA007", words="noise.scale", slow=True),
    Mutant(name="noise x0.97", plant=noise(scaled(0.97)), caught_by="DPA007", words="noise.scale", slow=True),
    Mutant(name="no noise", plant=noise(scaled(0.0)), caught_by="DPA007", words="noise.scale", slow=True),
    Mutant(
        name="one round of ten without noise", plant=noise(some_rounds(0.0, 10)), caught_by="DPA007",
        words="noise.", slow=True,
    ),
    Mutant(
        name="one round of ten with a tenth of the noise", plant=noise(some_rounds(0.1, 10)), caught_by="DPA007",
        words="noise.scale", slow=True,
    ),
    Mutant(
        name="one round of all with 0.4 of the noise", plant=noise(some_rounds(0.4, 40, 3)),
        caught_by="DPA007", words="noise.",

    ),
    Mutant(
        name="the same noise in every round", plant=noise(same_every_round), caught_by="DPA007", words="noise.reuse"
    ),
    Mutant(name="noise that cancels", plant=noise(sign_flips), caught_by="DPA007", words="noise.reuse", slow=True),
    Mutant(
        name="overlapping windows of one noise stream", plant=noise(window_slides), caught_by="DPA007",
        words="noise.overlap",
    ),
    Mutant(name="uniform noise", plant=noise(uniform), caught_by="DPA007", words="noise.shape", slow=True),
    Mutant(
        name="noise on the canaries only", plant=noise(none_on_the_model), caught_by="DPA007", words="noise.",

    ),
    Mutant(name="canaries not clipped", plant=clip(unclipped), caught_by="DPA007", words="clip.contribution"),
    Mutant(
        name="canaries clipped at 2x", plant=clip(clipped_at(2.0)), caught_by="DPA007", words="clip.contribution",
        slow=True,
    ),
    Mutant(
        name="canaries clipped at 1.3x", plant=clip(clipped_at(1.3)), caught_by="DPA007",
        words="clip.contribution", slow=True,
    ),
    Mutant(
        name="examples clipped layer by layer", plant=in_the_engine(clipped_by_layer), caught_by="DPA102",
        words="step.sensitivity",
    ),
    Mutant(
        name="examples clipped at 2x", plant=in_the_engine(clipped_at(2.0)), caught_by="DPA102",
        words="step.sensitivity",
 slow=True,
    ),
    Mutant(
        name="examples not clipped", plant=in_the_engine(unclipped), caught_by="DPA102", words="step.sensitivity",
 slow=True,
    ),
    Mutant(
        name="the same clients and examples in every round", plant=cohort(first_round_again), caught_by="DPA102",
        words="sampling.client-inclusion",
    ),
    Mutant(
        name="the same examples in every round", plant=cohort(same_examples), caught_by="DPA102",
        words="sampling.example-inclusion",
    ),
    Mutant(
        name="batches of a fixed size", plant=cohort(fixed_number), caught_by="DPA102",
        words="sampling.example-batch-size",
        slow=True,
    ),
    Mutant(name="shuffled epochs", plant=cohort(shuffled_epochs), caught_by="DPA102", words="sampling.example-"),
    Mutant(
        name="clients sampled at 1.3x", plant=cohort(more_clients), caught_by="DPA102", words="sampling.client-rate",
        slow=True,
    ),
    Mutant(
        name="examples sampled at 1.3x", plant=cohort(more_examples), caught_by="DPA102",
        words="sampling.example-rate", slow=True,
    ),
    Mutant(
        name="the engine ignores the cohort", plant=engine_ignores_the_cohort, caught_by="DPA102",
        words="sampling.cohort",
    ),
    Mutant(
        name="unfair coins", plant=canaries_changed(coins=lambda made: np.arange(made.count) % 3 == 0),
        caught_by="DPA104", words="coins",
        slow=True,
    ),
    Mutant(
        name="canaries that are never sent", plant=canaries_never_sent, caught_by="DPA007", words="clip.contribution",
        status=Status.INCONCLUSIVE,
    ),
    Mutant(
        name="canaries below the clip norm", plant=canaries_changed(norm_factor=0.2), caught_by="DPA007",
        words="clip.contribution", status=Status.INCONCLUSIVE, slow=True,
    ),
    Mutant(
        name="canaries skip the sampling", plant=canaries_skip_the_sampling, caught_by="DPA102", words="canary",
 slow=True,
    ),
    Mutant(
        name="canaries hardly sampled", plant=canaries_hardly_sampled, caught_by="DPA102", words="canary",

    ),
    Mutant(name="a round is not recorded", plant=forgets_a_round, caught_by="DPA306", words="the ledger records"),
    Mutant(
        name="the last rounds are not recorded", plant=forgets_the_last_rounds, caught_by="DPA306",
        words="the ledger records", slow=True,
    ),
    Mutant(
        name="divides by the realised batch", plant=divides_by_the_realised_batch, caught_by="DPA102",
        words="realised batch",
    ),
    Mutant(
        name="divides by the realised batch and says so", plant=realised_denominator_recorded, caught_by="DPA102",
        words="ledger.denominator",
        slow=True,
    ),
    Mutant(
        name="the model steps on the exact sum", plant=releases_the_exact_sum, caught_by="DPA102", words="",
 slow=True,
    ),
    Mutant(
        name="a second release in each round", plant=a_second_release_in_each_round, caught_by="DPA102",
        words="step.sensitivity", slow=True,
    ),
    Mutant(
        name="the ledger promises 2x the noise", plant=ledger_promises_more_noise(2.0), caught_by="DPA101",
        words="above the claimed 6", noise_multiplier=0.55,
        slow=True,
    ),
    Mutant(
        name="the ledger promises 1.02x the noise", plant=ledger_promises_more_noise(1.02), caught_by="DPA102",
        words="ledger.noise", noise_multiplier=1.0525,

    ),
    Mutant(
        name="steps on raw data after the last round", plant=fine_tunes_without_noise, caught_by="DPA102",
        words="model", slow=True,
    ),
)  # fmt: skip


def cases() -> list[Any]:
    made = []
    for mutant in MUTANTS:
        marks = [pytest.mark.slow] if mutant.slow else []
        if mutant.survives:
            marks.append(pytest.mark.xfail(strict=True, reason=mutant.survives, raises=Survived))
        made.append(pytest.param(mutant, id=mutant.name, marks=marks))
    return made


@pytest.mark.parametrize("mutant", cases())
def test_a_planted_bug_does_not_pass(mutant, run_small, monkeypatch):
    mutant.plant(monkeypatch)
    verdict = run_small(shape=mutant.shape, noise_multiplier=mutant.noise_multiplier).verdict
    said = {finding.rule: finding for finding in verdict.findings}
    if verdict.status == Status.PASS:
        raise Survived(mutant.name)
    assert verdict.status == mutant.status
    assert said[mutant.caught_by].status == mutant.status
    assert mutant.words in said[mutant.caught_by].message


def test_canaries_whose_coins_are_all_the_same_fail(run_small, monkeypatch):
    canaries_changed(coins=lambda made: np.ones_like(made.coins))(monkeypatch)
    verdict = run_small().verdict
    assert {f.rule for f in verdict.findings if f.status == Status.FAIL} == {"DPA104"}


def test_observations_that_are_not_finite_never_reach_a_verdict(run_small, monkeypatch):
    observations_not_finite(monkeypatch)
    with pytest.raises(DpauditError, match="NaN"):
        run_small()


HONEST = [pytest.param(seed, marks=[] if seed == 1 else [pytest.mark.slow]) for seed in (1, 2, 3, 4, 5)]


@pytest.mark.statistical(failure_probability=0.12)
@pytest.mark.parametrize("seed", HONEST)
def test_the_honest_twin_passes(run_small, seed):
    verdict = run_small(seed).verdict
    wrong = {finding.rule: finding.message for finding in verdict.findings if finding.status != Status.PASS}
    assert verdict.status == Status.PASS, wrong


@pytest.mark.slow
@pytest.mark.statistical(failure_probability=0.12)
def test_the_honest_client_level_twin_passes(run_small):
    verdict = run_small(1, shape="client").verdict
    assert verdict.status == Status.PASS, [f for f in verdict.findings if f.status != Status.PASS]
