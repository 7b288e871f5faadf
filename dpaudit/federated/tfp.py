"""One adapter that makes any tensorflow-privacy DPQuery that sums a server aggregator.

Its queries are used unchanged: `preprocess_record` bounds each contribution, `accumulate_preprocessed_record` adds
it, `get_noised_result` noises the sum and says, as a DpEvent, what that cost. Queries are pure functions of a global
state; the server holds that state, and the checkpoint saves it as plain arrays. What a query counts beside the sum (how
many contributions were below the clip) travels behind the sum's coordinates.

The noise is drawn by TensorFlow's generator: `tf.random.set_seed` with 128 bits of the run's own stream (of which
TensorFlow keeps about 62) at the start of every 64 rounds, then the draws of one round after the other. Seeding throws
away all compiled functions of the process, which is why it is not done in every round. Any round can be reached again
by seeding its span and skipping the draws before it. If other code of the process uses TensorFlow's eager generator
meanwhile, a replayed round will not match its ledger line, and is then run with fresh noise and counted twice: the safe
side. Queries whose noise is part of their state (trees) are seeded once, with 62 bits, through `QueryRequest.seed`;
their rounds cannot be noised afresh, and a replay that does not match is refused. Use aggregator = 'gaussian' for
128-bit keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, _validate, events
from dpaudit.errors import DpauditError, UsageError
from dpaudit.federated import tfp_state
from dpaudit.federated.aggregation import Noised, State
from dpaudit.federated.tfp_events import import_queries, is_unsupported, translate

Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
_HUGE = 1e9
_SPAN = 64
_PREVIOUS = "previous"
_SHARES = "adds its noise to the records, a share to each, and none to the sum, and takes integers"
_REFUSED = {
    "DistributedDiscreteGaussianSumQuery": f"{_SHARES}. Use aggregator = 'discrete-gaussian', which counts shares.",
    "DistributedSkellamSumQuery": f"{_SHARES}, and in tensorflow-privacy 0.9.0 it seeds the noise from the clock. Use "
    "aggregator = 'skellam', which counts shares.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRequest:
    """What a query is built for.

    `noise_multiplier` is that of the whole round in clip norms (what is calibrated), `expected` the contributions
    expected in a round, `width` the coordinates of the sum, `seed` 62 secret bits for queries that draw noise from
    their state.
    """

    clip_norm: float
    noise_multiplier: float
    expected: float = 1.0
    width: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _validate.positive(clip_norm=self.clip_norm, noise_multiplier=self.noise_multiplier, expected=self.expected)


QueryBuilder = Callable[[QueryRequest], Any]
EventOfRound = Callable[[int], events.Event]


class QueryAggregator:
    """A DPQuery as a server aggregator."""

    _position: ClassVar[tuple[int, int, int] | None] = None
    """Where TensorFlow's generator stands, which all aggregators share: (owner, root, round that is drawn next)."""
    _seed: ClassVar[int | None] = None
    """What the generator was seeded with here; another number means that somebody else has seeded it since."""

    def __init__(
        self,
        build: QueryBuilder,
        request: QueryRequest,
        *,
        name: str,
        noise_factor: float = 1.0,
        stated: EventOfRound | None = None,
        stated_stddev: float | None = None,
        covered_by: Callable[[int], int | None] | None = None,
    ) -> None:
        """Take charge of a query.

        Args:
            build: returns the query for a request.
            request: clip norm, noise and expected contributions; width and seed are filled in by `start`.
            name: the name for the ledger.
            noise_factor: planted fault of demonstrations; scales the noise that is really added.
            stated: the event of each round, for a query that returns an UnsupportedDpEvent; without it, that is an
                error.
            stated_stddev: standard deviation of the noise on a coordinate, for a query whose state does not name it.
            covered_by: for stated events that pay for several rounds, the earlier round that pays for a round.
        """
        _validate.positive(noise_factor=noise_factor)
        self._stated_stddev, self._covered_by = stated_stddev, covered_by or (lambda _number: None)
        self._build, self._request, self._name = build, request, name
        self._noise_factor, self._stated = noise_factor, stated
        self._query: Any = None
        self._width = -1

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._name

    @property
    def noise_source(self) -> str:
        """The generator behind the noise, for the ledger."""
        return f"tensorflow Philox4x32, tf.random.set_seed from (root, 'noise-span', round // {_SPAN}, attempt)"

    @property
    def noise_stddev(self) -> float | None:
        """Promised standard deviation per coordinate of the first sum, if the query's state or event says it."""
        if self._stated_stddev is not None:
            return self._stated_stddev
        query = self._built(self._request)
        return tfp_state.noise_stddev(query.initial_global_state())

    def _built(self, request: QueryRequest) -> Any:
        query, base = self._build(request), import_queries().dp_query.SumAggregationDPQuery
        if not isinstance(query, base):
            raise UsageError(
                f"the aggregator needs a query that sums (SumAggregationDPQuery); {self._name} gives "
                f"{type(query).__name__}."
            )
        if type(query).__name__ in _REFUSED:
            raise UsageError(f"{type(query).__name__} {_REFUSED[type(query).__name__]}")
        return query

    def start(self, *, width: int, root: int) -> State:
        """Return the query's initial global state as arrays; build and compile the query for this width.

        Raises: UsageError when the query fails, or is not fit for a server; UnsupportedEvent when nobody says what a
            round of it costs.
        """
        try:
            return self._start(width, root)
        except DpauditError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise UsageError(
                f"the query of aggregator {self._name!r} cannot be used: {type(error).__name__}: {reason}. It must "
                f"take float vectors of {width} numbers, and draw noise from a seed (QueryRequest.seed), not from the "
                "clock."
            ) from error

    def _start(self, width: int, root: int) -> State:
        import tensorflow as tf

        seed = int(_rng.stream(root, "query-seed").integers(2**62))
        query = self._built(replace(self._request, width=width, seed=seed))
        initial = query.initial_global_state()
        if width != self._width:
            self._query, self._structure = query, initial
            self._empty = query.initial_sample_state(tf.zeros(width, tf.float32))
            tfp_state.check_sample(query, self._empty, width=width)
            self._preprocessed_sum = self._compile()
            self._fresh_noise = self._probe()
            self._width = width
        state = tfp_state.to_arrays(query, initial)
        return {**state, _PREVIOUS: np.zeros(width)} if tfp_state.is_cumulative(query) else state

    def _probe(self) -> bool:
        """Return whether a round's noise is drawn in that round, so that another seed gives other noise.

        Raises: UnsupportedEvent, before anything is trained, when nobody says what a round costs.
        """
        import tensorflow as tf

        def draw(seed: int) -> NDArray[Any]:
            tf.random.set_seed(seed)
            result, _, event = self._query.get_noised_result(self._empty, self._structure)
            self._event(event, 0)
            return np.asarray(result)

        QueryAggregator._position = None
        first = draw(1)
        return not first.any() or not np.array_equal(first, draw(2))

    def _event(self, event: Any, number: int) -> events.Event:
        """Return the cost of a round: what the query says, or what was stated for a query that does not know."""
        return self._stated(number) if self._stated is not None and is_unsupported(event) else translate(event)

    def _global_state(self, state: State) -> Any:
        return tfp_state.from_arrays(self._structure, state)

    def _compile(self) -> Any:
        import tensorflow as tf

        def preprocessed_sum(rows: Any, params: Any) -> Any:
            each = tf.vectorized_map(lambda row: self._query.preprocess_record(params, row), rows)
            return tf.nest.map_structure(lambda part: tf.reduce_sum(part, axis=0), each)

        return tf.function(preprocessed_sum, reduce_retracing=True)

    def clip_norm_of(self, state: State) -> float:
        """Return the clip norm that the query's state names, or the configured one."""
        return tfp_state.clip_norm(self._global_state(state)) or self._request.clip_norm

    def clipped_sum(self, rows: Matrix, *, width: int, state: State) -> Vector:
        """Return the sum of the preprocessed rows, all rows in one graph call.

        A row so long that its squared norm overflows float32 (where TensorFlow's clip returns NaN) is first
        shortened to a length that the query still clips; its direction stays.
        """
        import tensorflow as tf

        if not len(rows):
            return tfp_state.flatten_sample(self._empty)
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        if norms.max() > _HUGE:
            rows = (rows * (_HUGE / np.maximum(norms, _HUGE))[:, None]).astype(np.float32)
        if rows.shape[1] < width:
            rows = np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
        params = self._query.derive_sample_params(self._global_state(state))
        total = self._preprocessed_sum(tf.constant(rows, tf.float32), params)
        return tfp_state.flatten_sample(self._query.accumulate_preprocessed_record(self._empty, total))

    def _seek(self, root: int, number: int, attempt: int) -> None:
        """Bring TensorFlow's eager generator to the draws of (round, attempt).

        Code of the user's that seeds it in every round (`keras.utils.set_random_seed` in a callback) would otherwise
        make the noise of all rounds the same.
        """
        import tensorflow as tf
        from tensorflow.python.eager import context

        here = QueryAggregator._position == (id(self), root, number) and context.global_seed() == QueryAggregator._seed
        if attempt or not here or number % _SPAN == 0:
            span = (number // _SPAN,) if not attempt else (number, attempt)
            QueryAggregator._seed = int.from_bytes(_rng.stream(root, "noise-span", *span).bytes(16), "big")
            tf.random.set_seed(QueryAggregator._seed)
            for _ in range(0 if attempt else number % _SPAN):
                self._query.get_noised_result(self._empty, self._structure)
        QueryAggregator._position = None if attempt else (id(self), root, number + 1)

    def noised(self, total: Vector, *, state: State, root: int, number: int, attempt: int) -> Noised:
        """Let the query noise the sum; record what it says that this cost.

        Raises: UnsupportedEvent when nobody says what it cost; UsageError when noise that is part of the query's
            state would have to be drawn afresh.
        """
        if attempt and not self._fresh_noise:
            raise UsageError(
                f"round {number} cannot be reproduced to the bit here, and the noise of {self._name} is fixed when the "
                "run starts: showing it on another sum would reveal their difference. Resume where the run was made "
                "(same machine, same libraries); what was released until now stays accounted for in the ledger."
            )
        self._seek(root, number, attempt)
        before = self._global_state(state)
        result, after, event = self._query.get_noised_result(tfp_state.unflatten_sample(self._empty, total), before)
        vector = np.asarray(result, dtype=np.float64) * tfp_state.denominator(before)
        memory = tfp_state.to_arrays(self._query, after)
        if _PREVIOUS in state:
            memory, vector = {**memory, _PREVIOUS: vector}, vector - state[_PREVIOUS]
        if self._noise_factor != 1.0:
            clear = total[: vector.size]
            vector = clear + self._noise_factor * (vector - clear)
        stddev = self._stated_stddev if self._stated_stddev is not None else tfp_state.noise_stddev(before)
        return Noised(
            vector=vector,
            event=self._event(event, number),
            noise_stddev=stddev,
            state=memory,
            covered_by=self._covered_by(number),
        )
