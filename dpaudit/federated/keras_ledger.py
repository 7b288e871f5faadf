"""A privacy ledger for a tensorflow-privacy optimizer that somebody already trains with (Keras 2, tf_keras).

    optimizer = VectorizedDPKerasSGDOptimizer(l2_norm_clip=1.0, noise_multiplier=1.1, num_microbatches=256, ...)
    record = OptimizerLedger(optimizer, "ledger.jsonl", examples=60_000, batch_size=256)
    model.fit(x, y, batch_size=256, epochs=10, callbacks=[record.callback()])
    record.ledger.epsilon(1e-5)

What is written down is what runs, not what is meant: `model.fit` goes through fixed batches, so that a pass is recorded
as shuffled batches, without amplification, however often people account for it as Poisson sampling. A line is on disk
before the steps that it pays for. Microbatches of more than one example are recorded, for they double the sensitivity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from dpaudit import _validate
from dpaudit import events as ev
from dpaudit.errors import UsageError
from dpaudit.federated.tfp_events import translate
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation, Unit


def _mechanism(optimizer: Any) -> tuple[ev.Event, float | None, float | None]:
    """Return the event of one step, the clip norm and the noise multiplier that the optimizer works with."""
    clip, multiplier = (getattr(optimizer, name, None) for name in ("_l2_norm_clip", "_noise_multiplier"))
    query = getattr(optimizer, "_dp_sum_query", None)
    if multiplier is not None and clip is not None:  # the vectorised optimizers noise by themselves
        return ev.Gaussian(noise_multiplier=float(multiplier)), float(clip), float(multiplier)
    if query is None:
        raise UsageError(
            f"{type(optimizer).__name__} is not a tensorflow-privacy optimizer: it has neither a DPQuery nor a clip "
            "norm and a noise multiplier."
        )
    import tensorflow as tf

    state = query.initial_global_state()
    event = translate(query.get_noised_result(query.initial_sample_state(tf.zeros(1)), state)[2])
    found = getattr(state, "l2_norm_clip", None)
    return event, None if found is None else float(found), getattr(event, "noise_multiplier", None)


def _of_microbatches(event: ev.Event, size: int) -> ev.Event:
    """Return the event of a step that clips means over `size` examples: one example turns a mean around by 2 clips."""
    if size == 1:
        return event
    if not isinstance(event, ev.Gaussian):
        raise UsageError(f"microbatches of {size} examples with a query other than Gaussian: use microbatches of one.")
    return ev.Gaussian(noise_multiplier=event.noise_multiplier / 2)


class OptimizerLedger:
    """Records every step of a tensorflow-privacy Keras optimizer in a ledger."""

    def __init__(
        self,
        optimizer: Any,
        path: str | Path | None = None,
        *,
        examples: int,
        batch_size: int,
        sampler: Literal["shuffle", "poisson"] = "shuffle",
        **facts: Any,
    ) -> None:
        """Start the ledger.

        Args:
            optimizer: any of tensorflow-privacy's DP Keras optimizers.
            path: of the ledger, or None to keep it in memory.
            examples: size of the data set; the example is the unit of privacy.
            batch_size: examples per step; the expected number for Poisson sampling.
            sampler: `shuffle` for `model.fit` and every loop over fixed batches; `poisson` only if each example is
                drawn for each step by a coin of its own.
            **facts: what else the header should say.

        Raises: UsageError for another optimizer; UnsupportedEvent for a query whose event is not known.
        """
        _validate.positive_integer(examples=examples, batch_size=batch_size)
        if batch_size > examples:
            raise UsageError(f"batch_size must be at most the number of examples, {examples}; got {batch_size}.")
        self._optimizer, self._sampler = optimizer, sampler
        self._event, clip, multiplier = _mechanism(optimizer)
        self._rate, self._batches = batch_size / examples, -(-examples // batch_size)
        microbatches = getattr(optimizer, "_num_microbatches", None) or batch_size
        self._event = _of_microbatches(self._event, -(-batch_size // microbatches))
        header = {
            "unit": Unit.EXAMPLE, "relation": Relation.ADD_OR_REMOVE_ONE, "clip_norm": clip,
            "noise_multiplier": multiplier, "denominator": microbatches, "units": examples,
            "noise_stddev": None if clip is None or multiplier is None else clip * multiplier,
            "microbatch_size": -(-batch_size // microbatches), "optimizer": type(optimizer).__name__,
            "sampler": {"kind": sampler, **({"example_rate": self._rate} if sampler == "poisson" else {})},
        }  # fmt: skip
        self.ledger = PrivacyLedger(
            path, **{key: value for key, value in {**facts, **header}.items() if value is not None}
        )
        self._paid = self._taken = self._iterations()
        self._checked = False

    def _iterations(self) -> int:
        return int(self._optimizer.iterations)

    def pay(self, steps: int = 1) -> None:
        """Record what is about to run, before it does: one line for a pass over shuffled batches, or for a step."""
        while self._paid < self._taken + steps:
            if self._sampler == "shuffle":
                self.ledger.record(ev.ShuffledBatches(event=self._event, batches=self._batches), first_step=self._paid)
                self._paid += self._batches
            else:
                event = (
                    self._event if self._rate == 1 else ev.PoissonSampled(sampling_rate=self._rate, event=self._event)
                )
                self.ledger.record(event, step=self._paid)
                self._paid += 1

    def begin_pass(self) -> None:
        """Say that a new pass over the data begins: batches of the last one that did not run are not credited."""
        if self._sampler == "shuffle":
            self._paid = self._taken

    def settle(self) -> None:
        """Compare with the optimizer's own count of steps; record what ran beyond what was paid for.

        A step that went past the private gradients makes the run not private, and is recorded as that.
        """
        ran = self._iterations() - self._taken
        self._taken += ran
        if self._paid < self._taken:
            self.pay(0)
        if ran and not self._checked:
            self._checked = True
            if not getattr(self._optimizer, "_was_dp_gradients_called", True):
                reason = "the optimizer applied gradients that it did not clip and noise itself"
                self.ledger.record(ev.NonPrivate(reason=reason))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Surround one step of a training loop of the user's own."""
        self.pay()
        yield
        self.settle()

    def callback(self) -> Any:
        """Return a callback for `model.fit`, of the Keras that the optimizer belongs to."""
        theirs = any(kind.__module__.startswith("tf_keras") for kind in type(self._optimizer).__mro__)
        base: Any = import_module("tf_keras.callbacks" if theirs else "keras.callbacks").Callback
        record = self

        class Recorder(base):  # type: ignore[misc]
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                del epoch, logs
                record.begin_pass()

            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                del batch, logs
                record.pay()

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                del batch, logs
                record.settle()

        return Recorder()
