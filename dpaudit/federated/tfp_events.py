"""tensorflow-privacy 0.9.0 without the parts that need old releases of TensorFlow, and its DpEvents as ours."""

import sys
from typing import Any

import numpy as np

from dpaudit import events
from dpaudit.errors import MissingDependency, UnsupportedEvent


def import_queries() -> Any:
    """Return tensorflow_privacy's `dp_query` package with the modules loaded that this package uses.

    The import is made with tensorflow-privacy's own switch `sys.skip_tf_privacy_import`.

    Raises: MissingDependency when tensorflow-privacy is not installed.
    """
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    try:
        from tensorflow_privacy.privacy import dp_query
        from tensorflow_privacy.privacy.dp_query import (
            dp_query as _base,
        )
        from tensorflow_privacy.privacy.dp_query import (
            gaussian_query,
            normalized_query,
            quantile_adaptive_clip_sum_query,
            restart_query,
            tree_aggregation_query,
        )
    except ImportError as error:
        raise MissingDependency(
            "aggregators of tensorflow-privacy need it without its stale pins: "
            "pip install --no-deps tensorflow-privacy==0.9.0 (see `dpaudit doctor`), or use aggregator = 'gaussian'."
        ) from error
    del _base, gaussian_query, normalized_query, quantile_adaptive_clip_sum_query, restart_query, tree_aggregation_query
    return dp_query


def is_unsupported(event: Any) -> bool:
    """Return whether a query says that it does not know what its release costs."""
    return type(event).__name__ == "UnsupportedDpEvent"


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
