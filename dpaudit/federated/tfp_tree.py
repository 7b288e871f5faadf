"""tensorflow-privacy's tree aggregation with restarts as the aggregator of dp-ftrl.

Its TreeResidualSumQuery says UnsupportedDpEvent of every round; what a tree costs is known here, because the sampler
guarantees that each client is in a tree once: `TreeAggregation`, with the first round of each tree.
"""

from typing import Any

from dpaudit import events
from dpaudit.federated.tfp import QueryAggregator, QueryRequest
from dpaudit.federated.tfp_events import import_queries

NAME = "tfp-tree"


def tree_aggregator(request: QueryRequest, *, period: int, rounds: int, noise_factor: float = 1.0) -> QueryAggregator:
    """Return the query that restarts its tree every `period` rounds, with the cost of each tree stated.

    Every node has noise of `noise_multiplier` clip norms; nodes are used as they are (`use_efficient=False`), so that
    the audit can take rounds apart into nodes.
    """

    def build(wanted: QueryRequest) -> Any:
        import tensorflow as tf

        queries = import_queries()
        residual = queries.tree_aggregation_query.TreeResidualSumQuery.build_l2_gaussian_query(
            wanted.clip_norm,
            wanted.noise_multiplier,
            tf.TensorSpec([wanted.width]),
            noise_seed=wanted.seed,
            use_efficient=False,
        )
        indicator = queries.restart_query.PeriodicRoundRestartIndicator(period)
        return queries.restart_query.RestartQuery(residual, indicator)

    def stated(number: int) -> events.Event:
        if number % period:
            return events.NoOp()
        steps = min(period, max(1, rounds - number))
        return events.TreeAggregation(noise_multiplier=request.noise_multiplier, steps=(steps,))

    return QueryAggregator(
        build,
        request,
        name=NAME,
        noise_factor=noise_factor,
        stated=stated,
        stated_stddev=request.noise_multiplier * request.clip_norm,
        covered_by=lambda number: number - number % period if number % period else None,
    )
