"""One adapter that makes a tensorflow-privacy DPQuery a server aggregator, and its DpEvent one of ours.

tensorflow-privacy 0.9.0 is imported with its own switch `sys.skip_tf_privacy_import`, which leaves out the parts
that need old releases of TensorFlow. Its queries are used unchanged: `preprocess_record` bounds each contribution,
`accumulate_preprocessed_record` adds it, `get_noised_result` noises the sum and says, as a DpEvent, what that cost.

The noise is drawn by TensorFlow's generator: `tf.random.set_seed` with 128 bits of the run's own stream (of which
TensorFlow keeps about 62) at the start of every 64 rounds, then one draw per round. Seeding throws away all compiled
functions of the process, which is why it is not done in every round. Any round can be reached again by seeding its
span and skipping the draws before it. If other code of the process uses TensorFlow's eager generator meanwhile, a
replayed round will not match its ledger line, and is then run with fresh noise and counted twice: the safe side.
Use aggregator = 'gaussian' for 128-bit keys.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, events
from dpaudit.errors import MissingDependency, UnsupportedEvent, UsageError
from dpaudit.federated.aggregation import Noised

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
_HUGE = 1e9
_SPAN = 64


def translate(event: Any) -> events.Event:
    """Return our event for a dp_accounting DpEvent.

    Raises: UnsupportedEvent for anything that is not known here, UnsupportedDpEvent included: an event that is
        skipped would be an epsilon of zero.
    """
    kind = type(event).__name__
    if not type(event).__module__.startswith("dp_accounting") or kind not in _TRANSLATIONS:
        raise UnsupportedEvent(
            f"the query returned the event {kind}, which has no counterpart in dpaudit.events. "
            f"Known: {', '.join(sorted(_TRANSLATIONS))}."
        )
    translated: events.Event = _TRANSLATIONS[kind](event)
    return translated


def _tree(event: Any) -> events.Event:
    counts = event.step_counts
    steps = (int(counts),) if np.ndim(counts) == 0 else tuple(int(count) for count in counts)
    return events.TreeAggregation(noise_multiplier=float(event.noise_multiplier), steps=steps)


_TRANSLATIONS: dict[str, Any] = {
    "NoOpDpEvent": lambda _: events.NoOp(),
    "NonPrivateDpEvent": lambda _: events.NonPrivate(reason="the query reports a NonPrivateDpEvent"),
    "GaussianDpEvent": lambda e: events.Gaussian(noise_multiplier=float(e.noise_multiplier)),
    "LaplaceDpEvent": lambda e: events.Laplace(noise_multiplier=float(e.noise_multiplier)),
    "PoissonSampledDpEvent": lambda e: events.PoissonSampled(
        sampling_rate=float(e.sampling_probability), event=translate(e.event)
    ),
    "SampledWithoutReplacementDpEvent": lambda e: events.SampledWithoutReplacement(
        population=int(e.source_dataset_size), sample_size=int(e.sample_size), event=translate(e.event)
    ),
    "SelfComposedDpEvent": lambda e: events.SelfComposed(event=translate(e.event), count=int(e.count)),
    "ComposedDpEvent": lambda e: events.Composed(events=tuple(translate(item) for item in e.events)),
    "SingleEpochTreeAggregationDpEvent": _tree,
}


def import_queries() -> Any:
    """Return tensorflow_privacy's `dp_query` package with its base and Gaussian modules loaded.

    Raises: MissingDependency when tensorflow-privacy is not installed.
    """
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    try:
        from tensorflow_privacy.privacy import dp_query
        from tensorflow_privacy.privacy.dp_query import dp_query as _base
        from tensorflow_privacy.privacy.dp_query import gaussian_query as _gaussian
    except ImportError as error:
        raise MissingDependency(
            "aggregator = 'tfp-gaussian' needs tensorflow-privacy without its stale pins: "
            "pip install --no-deps tensorflow-privacy==0.9.0 (see `dpaudit doctor`), or use aggregator = 'gaussian'."
        ) from error
    del _base, _gaussian
    return dp_query


class QueryAggregator:
    """Any summing DPQuery whose global state stays as it was, as a server aggregator.

    A query whose state moves from round to round (adaptive clipping, trees) is refused: nothing would save the
    state with the checkpoint, so a resumed run would silently be another mechanism.
    """

    def __init__(self, query: Any, *, name: str, noise_stddev: float, noise_factor: float = 1.0) -> None:
        """Wrap a query; raise UsageError unless it aggregates by summing.

        Args:
            query: a tensorflow_privacy DPQuery.
            name: the name for the ledger.
            noise_stddev: the standard deviation that the query promises per coordinate.
            noise_factor: planted fault of demonstrations; scales the noise that is really added.
        """
        base = import_queries().dp_query.SumAggregationDPQuery
        if not isinstance(query, base):
            raise UsageError(
                f"the aggregator needs a query that sums (SumAggregationDPQuery); got {type(query).__name__}."
            )
        self._query = query
        self._state = query.initial_global_state()
        self._params = query.derive_sample_params(self._state)
        self._name, self._noise_stddev, self._noise_factor = name, noise_stddev, noise_factor
        self._preprocessed_sum = self._compile()
        self._next_draw: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._name

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""
        return f"tensorflow Philox4x32, tf.random.set_seed from (root, 'noise-span', round // {_SPAN}, attempt)"

    @property
    def noise_stddev(self) -> float:
        """Promised standard deviation per coordinate of the sum."""
        return self._noise_stddev

    def _compile(self) -> Any:
        import tensorflow as tf

        def one(row: Any) -> Any:
            return self._query.preprocess_record(self._params, row)

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)])  # type: ignore[untyped-decorator]
        def preprocessed_sum(rows: Any) -> Any:
            return tf.nest.map_structure(lambda part: tf.reduce_sum(part, axis=0), tf.vectorized_map(one, rows))

        return preprocessed_sum

    def clipped_sum(self, rows: Matrix) -> Vector:
        """Return the sum of the preprocessed rows, all rows in one graph call.

        A row so long that its squared norm overflows float32 (where TensorFlow's clip returns NaN) is first
        shortened to a length that the query still clips; its direction stays.
        """
        import tensorflow as tf

        if not len(rows):
            return np.zeros(rows.shape[1])
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        if norms.max() > _HUGE:
            rows = (rows * (_HUGE / np.maximum(norms, _HUGE))[:, None]).astype(np.float32)
        state = self._query.initial_sample_state(tf.zeros(rows.shape[1], tf.float32))
        state = self._query.accumulate_preprocessed_record(state, self._preprocessed_sum(tf.constant(rows)))
        if not tf.is_tensor(state):
            raise UsageError(
                f"the query {type(self._query).__name__} accumulates more than one vector, which has no place here."
            )
        return np.asarray(state, dtype=np.float64)

    def _seek(self, root: int, number: int, attempt: int) -> None:
        """Bring TensorFlow's eager generator to the draw of (round, attempt)."""
        import tensorflow as tf

        if attempt or self._next_draw != (root, number) or number % _SPAN == 0:
            span = (number // _SPAN,) if not attempt else (number, attempt)
            tf.random.set_seed(int.from_bytes(_rng.stream(root, "noise-span", *span).bytes(16), "big"))
            for _ in range(0 if attempt else number % _SPAN):
                self._query.get_noised_result(tf.zeros(1), self._state)
        self._next_draw = None if attempt else (root, number + 1)

    def noised(self, total: Vector, *, root: int, number: int, attempt: int) -> Noised:
        """Let the query noise the sum; record what it says that this cost."""
        import tensorflow as tf

        self._seek(root, number, attempt)
        before = tf.constant(total, dtype=tf.float32)
        result, state, event = self._query.get_noised_result(before, self._state)
        if not _same(state, self._state):
            raise UsageError(
                f"the state of {type(self._query).__name__} changes from round to round and would not survive a "
                "resume; use a query with a fixed state."
            )
        vector = np.asarray(result, dtype=np.float64)
        if self._noise_factor != 1.0:
            clear = np.asarray(before, dtype=np.float64)
            vector = clear + self._noise_factor * (vector - clear)
        return Noised(vector=vector, event=translate(event))


def _same(new: Any, old: Any) -> bool:
    import tensorflow as tf

    pairs = zip(tf.nest.flatten(new), tf.nest.flatten(old), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def gaussian_sum_query(*, clip_norm: float, noise_multiplier: float, noise_factor: float = 1.0) -> QueryAggregator:
    """Return tensorflow-privacy's GaussianSumQuery as an aggregator.

    The query keeps float32 numbers. Its standard deviation is the smallest float32 whose ratio to the clip norm, as
    the query computes it, is not below `noise_multiplier`; rounding down would spend more than was calibrated.
    """
    queries = import_queries()
    stddev, clip = np.float32(noise_multiplier * clip_norm), np.float32(clip_norm)
    while float(stddev / clip) < noise_multiplier:
        stddev = np.nextafter(stddev, np.float32(np.inf))
    query = queries.gaussian_query.GaussianSumQuery(l2_norm_clip=float(clip), stddev=float(stddev))
    return QueryAggregator(query, name="tfp-gaussian", noise_stddev=float(stddev), noise_factor=noise_factor)
