"""`fit` with differential privacy for a compiled Keras model: Poisson sampling, clipping, noise, ledger, canaries.

The examples are the units of privacy. Every step draws each example with probability batch_size / examples by a coin
of its own, clips and sums their gradients, adds noise and records the release before anything uses it; the server of
`dpaudit.federated.server` does this, here with one client that holds all the data. The model's own optimizer makes a
step of the noised mean, which costs no privacy whatever the optimizer does with it.

    model.compile(optimizer="adam", loss=SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    trainer = PrivateTrainer(model, noise_multiplier=1.1, out="runs/mine", canaries=500)
    history = trainer.fit(x, y, batch_size=256, epochs=10, validation_data=(x_test, y_test))
    trainer.ledger.epsilon(1e-5)

`dpaudit.pipeline.keras_fit.private_fit` calibrates the noise and audits the canaries as well.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import __version__, _rng, _validate, serialize
from dpaudit.config import CanarySection, TrainingSection
from dpaudit.errors import DataError, UsageError
from dpaudit.federated import canaries as canary
from dpaudit.federated import engine, models, tf_data
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.data import Dataset
from dpaudit.federated.journal import Identity, Journal, claim
from dpaudit.federated.keras_functions import LossFunctions
from dpaudit.federated.keras_optimizer import KerasOptimizer
from dpaudit.federated.rounds import Plan
from dpaudit.federated.run_files import MODEL, RESULT, stored_root
from dpaudit.federated.sampling import Population
from dpaudit.federated.server import Server
from dpaudit.federated.trainer import data_commitment, deferred_interrupt
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation, Unit

Vector = NDArray[np.float64]


def _arrays(x: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return features and labels as arrays that can be trained on; raise DataError otherwise."""
    x, y = tf_data.arrays_of(x) if y is None else (np.asarray(x), np.asarray(y))
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or len(x) < 2 or "O" in (x.dtype.kind, y.dtype.kind):
        raise DataError(f"x and y must be arrays with one row per example, 2 or more; got {x.shape} and {y.shape}.")
    x, y = (a.astype({"f": np.float32, "b": np.int32}.get(a.dtype.kind, a.dtype)) for a in (x, y))
    for name, values in (("x", x), ("y", y)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError(f"{name} holds NaN or infinity. Remove or repair those examples.")
    return x, y


class PrivateTrainer:
    """DP-SGD for a compiled Keras 3 model. The files of the run are in `out`, as those of `dpaudit train`."""

    def __init__(
        self,
        model: Any,
        *,
        noise_multiplier: float,
        out: str | Path,
        clip_norm: float = 1.0,
        canaries: int = 0,
        seed: int | None = None,
        checkpoint_every: int = 10,
    ) -> None:
        """Set up; nothing is written before `fit`.

        Args:
            model: compiled, with one input and one output. What differential privacy cannot bear is refused.
            noise_multiplier: standard deviation of the noise on the sum, in clip norms
                (`dpaudit.accounting.calibrate_noise` finds it for an epsilon).
            out: folder of the run: ledger, observations, coins (apart), checkpoints.
            clip_norm: what the gradient of one example is clipped to.
            canaries: number of gradient canaries, each in or out by a coin of its own.
            seed: None draws all randomness from the operating system; a number makes the noise predictable.
            checkpoint_every: steps between checkpoints.

        Raises: UsageError for a model that is not compiled or not fit for differential privacy.
        """
        models.import_keras()
        _validate.positive(noise_multiplier=noise_multiplier, clip_norm=clip_norm)
        if getattr(model, "optimizer", None) is None or getattr(model, "loss", None) is None:
            raise UsageError("the model must be compiled with an optimizer and a loss: call model.compile first.")
        self.model, self.out = model, Path(out)
        self.ledger: PrivacyLedger | None = None
        self.clipping_path = ""
        self._noise_multiplier, self._clip_norm, self._seed = noise_multiplier, clip_norm, seed
        self._canaries, self._checkpoint_every = CanarySection(count=canaries), checkpoint_every

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 256,
        epochs: int = 1,
        validation_data: tuple[Any, Any] | None = None,
        callbacks: Sequence[Any] = (),
        verbose: int = 0,
        resume: bool = False,
    ) -> Any:
        """Train privately and return the Keras History, which holds the metrics of `validation_data` only.

        Metrics of the training data are left out: they would not be private. Callbacks see every step and epoch, and
        may stop the training. A step draws a random number of examples, `batch_size` on average.

        Args:
            x: features (n, ...), or a finite `tf.data.Dataset` of (features, label).
            y: labels (n, ...); None for a dataset.
            batch_size: expected number of examples per step; the divisor of every sum.
            epochs: passes over the data, on average; an epoch has ceil(n / batch_size) steps.
            validation_data: (x, y) that nobody trains on.
            callbacks: Keras callbacks.
            verbose: as in Keras.
            resume: go on with the run in `out`, with the same data and settings; one that has ended is left as it is.

        Raises: DataError for data that cannot be trained on; OutputExists when `out` holds a run and `resume` is not
            set; UsageError when it holds another one.
        """
        _validate.positive_integer(batch_size=batch_size, epochs=epochs)
        features, labels = _arrays(x, y)
        if batch_size > len(features):
            raise UsageError(f"batch_size must be at most the number of examples, {len(features)}; got {batch_size}.")
        models.check_private(self.model, features.shape[1:], dtype=features.dtype)
        steps = -(-len(features) // batch_size)
        training = TrainingSection(
            algorithm="dp-fedsgd", rounds=epochs * steps, client_sampling_rate=1.0, clip_norm=self._clip_norm,
            example_sampling_rate=batch_size / len(features), noise_multiplier=self._noise_multiplier,
        )  # fmt: skip
        server, runner, journal, first = self._open(training, features, labels, resume=resume)
        import keras

        watchers = keras.callbacks.CallbackList(
            list(callbacks), add_history=True, add_progbar=verbose != 0, model=self.model, epochs=epochs,
            steps=steps, verbose=verbose,
        )  # fmt: skip

        def validate() -> dict[str, float]:
            if validation_data is None:
                return {}
            found = self.model.evaluate(*validation_data, verbose=0, return_dict=True)
            return {f"val_{name}": value for name, value in found.items()}

        self.model.stop_training = False
        if resume and (self.out / RESULT).is_file():  # finished, or stopped early: nothing is left to do
            models.set_weights(self.model, server.weights)
            watchers.on_train_begin()
            watchers.on_train_end()
            return self.model.history
        self._run(server, runner, journal, watchers, validate, first=first, steps=steps, rounds=training.rounds)
        return self.model.history

    def _open(
        self, training: TrainingSection, x: NDArray[Any], y: NDArray[Any], *, resume: bool
    ) -> tuple[Server, Any, Journal, int]:
        """Return the server, the engine and the files, brought to the last checkpoint, and the steps that are done."""
        owner = np.zeros(len(x), np.int32)
        data = Dataset(x=x, y=y, client=owner, classes=2, name="keras")
        root = _root(self.out, self._seed, resume=resume)
        functions = LossFunctions(self.model, self.model.loss, x=x, y=y)
        runner = engine.FedSgdEngine(functions, data, root=root, clip_norm=self._clip_norm)  # type: ignore[arg-type]
        self.clipping_path = runner.clipping_path
        population = Population(clients=1, client_of=owner)
        fakes = canary.make_canaries(self._canaries, population, root=root)
        plan = Plan(training=training, population=population, canaries=fakes, root=root, direction=runner.direction)
        layers = [type(layer).__name__ for layer in self.model._flatten_layers()]
        shapes = [list(v.shape) for v in self.model.trainable_variables]
        identity = {"training": training.model_dump(mode="json"), "canaries": self._canaries.count, "model": layers}
        identity["parameters"] = shapes
        claim(
            self.out,
            Identity(root=root, noise_multiplier=self._noise_multiplier, config=serialize.to_jsonable(identity)),
            resume=resume,
        )
        journal = Journal(self.out, parameters=runner.parameters, canaries=fakes)
        aggregator = GaussianSum(clip_norm=self._clip_norm, noise_multiplier=self._noise_multiplier)
        facts = {
            "clipping_path": runner.clipping_path,
            "data_commitment": data_commitment(data, root=root),
            "seed_origin": "os-entropy" if self._seed is None else "configuration (predictable noise)",
        }
        self.ledger = journal.open_ledger({**facts, **_header(plan, aggregator)})
        journal.describe(clients=1, units=len(x), rounds=training.rounds)
        server = Server(
            plan, aggregator=aggregator, optimizer=KerasOptimizer(self.model),
            weights=models.get_weights(self.model), ledger=self.ledger, on_draw=journal.draw,
        )  # fmt: skip
        return server, runner, journal, journal.restore(server)

    def _run(
        self, server: Server, runner: Any, journal: Journal, watchers: Any, validate: Callable[[], dict[str, float]],
        *, first: int, steps: int, rounds: int,
    ) -> None:  # fmt: skip
        logs: dict[str, float] = {}
        done = first
        models.set_weights(self.model, server.weights)
        watchers.on_train_begin()
        with deferred_interrupt() as interrupted:
            for number in range(first, rounds):
                epoch, step = divmod(number, steps)
                if step == 0 or number == first:
                    watchers.on_epoch_begin(epoch)
                watchers.on_train_batch_begin(step)
                journal.observe(*server.run_round(number, runner.run_cohort))
                watchers.on_train_batch_end(step, {})
                done, ends = number + 1, step == steps - 1
                if ends:
                    logs = validate()
                    watchers.on_epoch_end(epoch, logs)
                stop = interrupted() or (ends and self.model.stop_training)
                if done % self._checkpoint_every == 0 or done == rounds or stop:
                    journal.save(server, done)
                if interrupted():
                    raise KeyboardInterrupt
                if stop:
                    break
        watchers.on_train_end(logs)
        models.save_model(self.model, self.out / MODEL)
        journal.finish(rounds=done, holdout_accuracy=None)


def _root(out: Path, seed: int | None, *, resume: bool) -> int:
    stored = stored_root(out) if resume else None
    if stored is not None:
        return stored
    return _rng.root_from_entropy() if seed is None else seed


def _header(plan: Plan, aggregator: GaussianSum) -> dict[str, Any]:
    training = plan.training
    return {
        "unit": Unit.EXAMPLE,
        "relation": Relation.ADD_OR_REMOVE_ONE,
        "algorithm": training.algorithm,
        "sampler": {"kind": "poisson", "client_rate": 1.0, "example_rate": training.example_sampling_rate},
        "clip_norm": training.clip_norm,
        "noise_stddev": aggregator.noise_stddev,
        "noise_multiplier": aggregator.noise_multiplier,
        "denominator": plan.denominator,
        "units": plan.population.units,
        "canaries": plan.canaries.count,
        "rounds": training.rounds,
        "aggregator": aggregator.name,
        "noise_source": aggregator.noise_source,
        "versions": {"dpaudit": __version__, **{name: version(name) for name in ("tensorflow", "keras", "numpy")}},
    }
