"""Private training of somebody's Keras model in one call: calibrate, train, account, audit with canaries.

from dpaudit.pipeline.keras_fit import private_fit

model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
fit = private_fit(model, x, y, epsilon=6, delta=1e-5, epochs=10, out="runs/mine", canaries=500)
print(fit.epsilon, fit.history.history, fit.bounds)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpaudit import _validate, accounting, estimation, events
from dpaudit.attacks import canary
from dpaudit.errors import DataError, UsageError
from dpaudit.federated import run_files, tf_data
from dpaudit.federated.keras_trainer import PrivateTrainer
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Bound, Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateFit:
    """What came of a private training.

    `epsilon` is the upper bound from the ledger, of what ran; `bounds` are lower bounds from the canaries (none without
    them): one that lies above the claim refutes it. `history` is the Keras History.
    """

    history: Any
    ledger: PrivacyLedger
    epsilon: float
    noise_multiplier: float
    bounds: tuple[Bound, ...]
    clipping_path: str


def private_fit(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    epsilon: float,
    delta: float,
    out: str | Path,
    batch_size: int = 256,
    epochs: int = 1,
    clip_norm: float = 1.0,
    canaries: int = 0,
    seed: int | None = None,
    validation_data: tuple[Any, Any] | None = None,
    callbacks: Sequence[Any] = (),
    verbose: int = 0,
    resume: bool = False,
) -> PrivateFit:
    """Train a compiled Keras 3 model so that it is (epsilon, delta)-private towards each example.

    The noise is calibrated for all epochs by PLD, for Poisson sampling at batch_size / examples and add-or-remove-one.
    For the arguments see `dpaudit.federated.keras_trainer.PrivateTrainer` and its `fit`.

    Raises: UsageError unless delta < 1 / examples, and for what `PrivateTrainer` refuses; CannotCalibrate when no
        noise reaches epsilon.
    """
    _validate.positive(epsilon=epsilon)
    _validate.open_unit_interval(delta=delta)
    _validate.positive_integer(batch_size=batch_size, epochs=epochs)
    if y is None:
        x, y = tf_data.arrays_of(x)
    examples = len(x)
    if delta * examples >= 1 or batch_size > examples:
        raise UsageError(
            f"delta must be below 1/N = {1 / examples:.2e} and batch_size at most N = {examples}; "
            f"got {delta:g} and {batch_size}."
        )
    steps = epochs * -(-examples // batch_size)
    noise = accounting.calibrate_noise(epsilon, delta, sampling_rate=batch_size / examples, steps=steps)
    trainer = PrivateTrainer(
        model, noise_multiplier=noise, out=out, clip_norm=clip_norm, canaries=canaries, seed=seed
    )  # fmt: skip
    history = trainer.fit(
        x, y, batch_size=batch_size, epochs=epochs, validation_data=validation_data, callbacks=callbacks,
        verbose=verbose, resume=resume,
    )  # fmt: skip
    if trainer.ledger is None:
        raise DataError("the training left no ledger.")
    rate = batch_size / examples
    return PrivateFit(
        history=history, ledger=trainer.ledger, epsilon=accounting.epsilon(trainer.ledger, delta),
        noise_multiplier=noise, clipping_path=trainer.clipping_path,
        bounds=canary_bounds(Path(out), delta=delta, claim=epsilon, noise_multiplier=noise, sampling_rate=rate),
    )  # fmt: skip


def canary_bounds(
    out: Path, *, delta: float, claim: float, noise_multiplier: float, sampling_rate: float, confidence: float = 0.95
) -> tuple[Bound, ...]:
    """Return the lower bounds on epsilon that the canaries of a run support: `one-run` and `per-step`.

    The number of guesses is planned for the claim, never from scores. Empty for a run without canaries.
    """
    run = run_files.open_run(out)
    if run.observations.shape[1] == 0:
        return ()
    scores = canary.llr_scores(
        run.observations, run.canary_eligible(), noise_multiplier=noise_multiplier, secret_sampling_rate=sampling_rate
    )
    coins, present = run_files.load_coins(out), run_files.load_canary_participation(out)
    whole = estimation.estimate(
        scores[coins], scores[~coins], method="one-run", delta=delta, confidence=confidence, interest_epsilon=claim,
        relation=Relation.ADD_OR_REMOVE_ONE, declared=("fair-coins",),
    )  # fmt: skip
    rounds = run.rounds_done

    def compose(noise: float) -> float:
        gaussian = events.Gaussian(noise_multiplier=noise)
        step = gaussian if sampling_rate == 1 else events.PoissonSampled(sampling_rate=sampling_rate, event=gaussian)
        return accounting.epsilon(events.SelfComposed(event=step, count=rounds), delta)

    step = estimation.per_step_bound(
        run.observations[present], run.observations[~present], compose=compose, delta=delta, confidence=confidence,
        relation=Relation.ADD_OR_REMOVE_ONE, declared=("iid-steps",), seed=0,
    )  # fmt: skip
    return whole, step
