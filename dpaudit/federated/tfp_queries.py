"""The queries of tensorflow-privacy that the configuration knows by name, and those that a user's function returns."""

from typing import Any

import numpy as np

from dpaudit._objects import load_object
from dpaudit.errors import UsageError
from dpaudit.federated.tfp import QueryAggregator, QueryBuilder, QueryRequest
from dpaudit.federated.tfp_events import import_queries


def _gaussian(request: QueryRequest) -> Any:
    """Return a GaussianSumQuery whose float32 ratio of noise to clip norm is not below the request's.

    Rounding down would spend more than was calibrated.
    """
    stddev, clip = np.float32(request.noise_multiplier * request.clip_norm), np.float32(request.clip_norm)
    while float(stddev / clip) < request.noise_multiplier:
        stddev = np.nextafter(stddev, np.float32(np.inf))
    return import_queries().gaussian_query.GaussianSumQuery(l2_norm_clip=float(clip), stddev=float(stddev))


def _adaptive_clip(request: QueryRequest) -> Any:
    """Return a QuantileAdaptiveClipSumQuery that tracks the median norm (Andrew et al., arXiv:1905.03871).

    The request's noise multiplier z is split as in Theorem 1 there: the count of unclipped contributions (sensitivity
    1/2) gets noise sigma_b, the sum (z^-2 - (2 sigma_b)^-2)^(-1/2). sigma_b is a twentieth of the expected cohort, as
    they advise, and at least z, so that the sum's noise grows by 16 % at most.
    """
    z = request.noise_multiplier
    count = max(request.expected / 20, z)
    # A margin of two float32 roundings, so that the recorded noise is never below what was calibrated.
    multiplier = (1 + 2**-21) / np.sqrt(z**-2 - (2 * count) ** -2)
    return import_queries().quantile_adaptive_clip_sum_query.QuantileAdaptiveClipSumQuery(
        initial_l2_norm_clip=request.clip_norm,
        noise_multiplier=float(multiplier),
        target_unclipped_quantile=0.5,
        learning_rate=0.2,
        clipped_count_stddev=float(count * (1 + 2**-21)),
        expected_num_records=request.expected,
    )


QUERIES: dict[str, QueryBuilder] = {"tfp-gaussian": _gaussian, "tfp-adaptive-clip": _adaptive_clip}
"""The queries that the configuration knows by name."""


def query_from(name: str, request: QueryRequest, *, noise_factor: float = 1.0) -> QueryAggregator:
    """Return the aggregator of a configured name: one of `QUERIES`, or `module:function` (QueryRequest to DPQuery).

    Raises: UsageError when the function cannot be imported or fails.
    """
    if name in QUERIES:
        return QueryAggregator(QUERIES[name], request, name=name, noise_factor=noise_factor)
    function = load_object(name)

    def build(wanted: QueryRequest) -> Any:
        try:
            return function(wanted)
        except Exception as error:
            raise UsageError(f"training.aggregator = {name!r} failed: {type(error).__name__}: {error}") from error

    return QueryAggregator(build, request, name=name, noise_factor=noise_factor)
