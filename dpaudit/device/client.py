"""One client's local training by the LiteRT runtime."""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpaudit.device.container import Description, unpack
from dpaudit.device.order import local_batches
from dpaudit.errors import DataError, MissingDependency

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
_ROUNDING = 2.0**-22


class Signature(Protocol):
    """A function of the LiteRT file: named arrays to named arrays."""

    def __call__(self, **arrays: Any) -> Mapping[str, NDArray[Any]]:
        """Run it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a client sends: `delta` float32 (parameters,), local minus global weights.

    `examples` and `norm` (of the delta before it was clipped to `clip_norm`) are the device's own business: the
    protocol of dpaudit sends neither, because nothing protects them.
    """

    delta: Floats
    examples: int
    norm: float
    clip_norm: float | None


class DeviceClient:
    """The local training of one client, from a file of `dpaudit export-device`; for one thread at a time."""

    def __init__(self, source: str | Path | bytes, *, threads: int = 1, expected_identity: str | None = None) -> None:
        """Open the file.

        Args:
            source: path of the file, or its bytes.
            threads: of the LiteRT runtime.
            expected_identity: the `identity` that the server named; another one is refused.

        Raises: DataError for a file that cannot be read, was changed, or is of another model; MissingDependency
            without ai-edge-litert.
        """
        name = "the client" if isinstance(source, bytes) else str(source)
        model, self._about = unpack(_read(source), name=name)
        if expected_identity not in {None, self._about.identity}:
            raise DataError(
                f"{name} is of another model or another local training: the server asks for {expected_identity}, the "
                f"file is {self._about.identity}. Fetch the file that belongs to this run."
            )
        self._interpreter = _interpreter(model, name=name, threads=threads)
        self._signatures: dict[str, Signature] = {}

    @property
    def description(self) -> Description:
        """What the file says of itself."""
        return self._about

    def update(self, weights: ArrayLike, x: ArrayLike, y: ArrayLike, *, key: int) -> Update:
        """Train on the device's own examples and return what is sent.

        With `local_dp` in the file every step is private (see `LocalDp`), with fresh noise from the operating
        system's generator in each call. With a `clip_norm` in the file the delta has at most that L2 norm.

        Args:
            weights: global weights (parameters,), in the order of the model's trainable variables.
            x: examples (n, *input_shape), n >= 1.
            y: their labels (n,), whole numbers below `classes`.
            key: of the round, from the server; it fixes the order of the examples.

        Raises: DataError for NaN, wrong shapes or sizes, labels out of range, no examples, a key that is no whole
            number of 64 bits, and when the training diverged (the delta is not finite).
        """
        about = self._about
        if isinstance(key, bool) or not isinstance(key, int | np.integer) or not 0 <= key < 2**64:
            raise DataError(f"key must be a whole number from 0 to 2^64 - 1; got {key!r}.")
        start, examples, labels = self._checked(weights, x, y)
        index, mask = local_batches(key, len(labels), epochs=about.epochs, batch=about.batch_size)
        if about.local_dp is None:
            delta, _ = self.train(start, examples, labels, index=index, mask=mask, clip_norm=None)
        else:
            end, rng = start, np.random.Generator(np.random.Philox(key=secrets.randbits(128)))
            stddev = np.float32(about.local_dp.noise_multiplier * about.local_dp.clip_norm)
            for batch, present in zip(index, mask, strict=True):
                noise = stddev * rng.standard_normal(about.parameters, dtype=np.float32)
                end = self.private_step(end, examples[batch], labels[batch], mask=present, noise=noise)
            delta = end - start
        delta, norm = _clipped(delta, about.clip_norm)
        if not (np.isfinite(delta).all() and np.isfinite(norm)):
            raise DataError(
                f"the local training diverged: the update is NaN or infinite after {about.epochs} epochs at learning "
                f"rate {about.learning_rate:g}. Nothing is sent. Scale the features, or look at the weights."
            )
        return Update(delta=delta, examples=len(labels), norm=norm, clip_norm=about.clip_norm)

    def train(
        self, weights: Floats, x: Floats, y: Ints, *, index: Ints, mask: Floats, clip_norm: float | None
    ) -> tuple[Floats, float]:
        """Return the delta of local SGD over the steps of `index` (steps, batch), and its norm before the clip.

        The clip in the file is for runtimes without this class: in float32, up to 2^-18 too short. Nothing is checked
        here, and a delta that is not finite is returned as it is: for engines, whose server checks.
        """
        found = self._run(
            "update",
            weights=weights,
            x=x,
            y=y,
            index=index,
            mask=mask,
            learning_rate=np.float32(self._about.learning_rate),
            clip_norm=np.float32(np.inf if clip_norm is None else clip_norm),
        )
        return found["delta"], float(found["norm"])

    def private_step(self, weights: Floats, x: Floats, y: Ints, *, mask: Floats, noise: Floats) -> Floats:
        """Return the weights after one step of local DP-SGD on one batch; `noise` (parameters,) is on the sum.

        An example that overflows counts as zero in it, so that it cannot decide whether this device answers.
        """
        local_dp = self._about.local_dp
        if local_dp is None:
            raise DataError("this file has no local DP-SGD; export it with --local-dp.")
        found = self._run(
            "private_step",
            weights=weights,
            x=x,
            y=y,
            mask=mask,
            noise=noise,
            learning_rate=np.float32(self._about.learning_rate),
            clip_norm=np.float32(local_dp.clip_norm),
        )
        return found["weights"]

    def logits(self, weights: ArrayLike, x: ArrayLike) -> Floats:
        """Return (n, classes) outputs of the model under `weights`, n >= 1. Raises: DataError as `update`."""
        start, examples, _ = self._checked(weights, x, None)
        size = self._about.batch_size
        parts = []
        for first in range(0, len(examples), size):
            batch = np.zeros((size, *self._about.input_shape), np.float32)
            part = examples[first : first + size]
            batch[: len(part)] = part
            parts.append(self._run("logits", weights=start, x=batch)["logits"][: len(part)])
        return np.concatenate(parts)

    def _run(self, name: str, **arrays: Any) -> Mapping[str, NDArray[Any]]:
        if name not in self._signatures:
            self._signatures[name] = self._interpreter.get_signature_runner(name)
        try:
            return self._signatures[name](**arrays)
        except (RuntimeError, ValueError) as error:
            raise DataError(f"LiteRT cannot run {name} on these examples: {error}") from error

    def _checked(self, weights: ArrayLike, x: ArrayLike, y: ArrayLike | None) -> tuple[Floats, Floats, Ints]:
        """Return all three in the types of the model; y is empty where none is given."""
        about = self._about
        start = _finite("weights", weights)
        if start.shape != (about.parameters,):
            raise DataError(f"weights must be ({about.parameters},) for this model; got shape {start.shape}.")
        examples = _finite("x", x)
        tokens = about.vocabulary
        if tokens is not None and examples.size and (examples.min() < 0 or examples.max() >= tokens):
            raise DataError(f"x must hold tokens in 0..{tokens - 1}; got {examples.min():g}..{examples.max():g}.")
        if examples.shape[1:] != about.input_shape or not len(examples):
            wanted = ", ".join(map(str, about.input_shape))
            raise DataError(f"x must be (n, {wanted}) with n >= 1; got shape {examples.shape}.")
        labels = np.zeros(0, np.int32) if y is None else _labels(y, classes=about.classes, count=len(examples))
        return start, examples, labels


def _clipped(delta: Floats, clip_norm: float | None) -> tuple[Floats, float]:
    """Return a vector of L2 norm at most `clip_norm`, after rounding too, and its norm before.

    In float64, so that the clip of the server, which comes after it, finds nothing to do.
    """
    wide = delta.astype(np.float64)
    norm = float(np.sqrt(wide @ wide))
    if clip_norm is None or not norm > clip_norm:
        return delta, norm
    return (wide * (clip_norm / norm * (1.0 - _ROUNDING))).astype(np.float32), norm


def _finite(name: str, value: ArrayLike) -> Floats:
    """Return a float32 array; raise DataError for what is not numbers, is not finite, or is too large for float32."""
    try:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers; got {type(value).__name__} ({error}).") from error
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise DataError(f"{name} must be finite in float32; {bad} of {array.size} values are not. Repair them.")
    return array


def _labels(value: ArrayLike, *, classes: int, count: int) -> Ints:
    array = np.asarray(value)
    if array.shape != (count,):
        raise DataError(f"y must be ({count},), one label per example; got shape {array.shape}.")
    if array.dtype.kind not in "iu":
        raise DataError(f"y must be whole numbers; got {array.dtype}.")
    if array.min() < 0 or array.max() >= classes:
        raise DataError(f"y must lie in 0..{classes - 1}; got {array.min()}..{array.max()}.")
    return np.ascontiguousarray(array, dtype=np.int32)


def _read(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the device client {source}: {error}.") from error


def _interpreter(model: bytes, *, name: str, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingDependency(
            f"a device client needs LiteRT: pip install 'dpaudit[litert]', or ai-edge-litert alone ({error})."
        ) from error
    try:
        return Interpreter(model_content=model, num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{name} cannot be loaded by this version of LiteRT on {sys.platform}: {error}") from error
