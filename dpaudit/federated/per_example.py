"""A function of one example, mapped over many: vectorised where TensorFlow can, one after the other where it cannot.

`tf.vectorized_map` is much faster and usually right. It is not where the function holds

* a loop (a recurrent layer): TensorFlow 2.21 raises TypeError while it vectorises the loop's list of tensors;
* a batched matrix product (attention): an example's leading axis of size one becomes a second batch axis, and
  oneDNN's kernel for `BatchMatMulV2` of (n, 1, a, b) with (b, c) writes past its memory in TensorFlow 2.21. The
  process dies, or the numbers are wrong. `TF_ENABLE_ONEDNN_OPTS=0` avoids it, but only if set before TensorFlow loads.

So the function is traced once and looked at before it is mapped. The reason is returned, for the ledger.
"""

from collections.abc import Callable
from typing import Any

_LOOPS = ("While", "StatelessWhile", "TensorListReserve", "TensorArrayV3", "If", "StatelessIf", "Case", "StatelessCase")
_PRODUCTS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def not_vectorised(function: Callable[[Any], Any], spec: Any) -> str | None:
    """Say why `function` of one element must not go through `tf.vectorized_map`; None where it may.

    Args:
        function: of one element, as for `tf.map_fn`; it is traced once and not run.
        spec: `tf.TensorSpec` of an element, or a nested structure of them.
    """
    import tensorflow as tf

    traced = tf.function(function, autograph=False).get_concrete_function(spec)
    kinds = {operation.type for operation in traced.graph.get_operations()}
    for inner in traced.graph.as_graph_def().library.function:
        kinds |= {node.op for node in inner.node_def}
    found = sorted(kinds & {*_LOOPS, *_PRODUCTS})
    if not found:
        return None
    return f"one example at a time, because TensorFlow's vectorized_map cannot be trusted with {', '.join(found)}"


def map_examples(function: Callable[[Any], Any], elements: Any) -> Any:
    """Return `function` of every element along the first axis, stacked: what `tf.vectorized_map` is meant to return.

    For use while a graph is traced. Raises what `function` raises.
    """
    import tensorflow as tf

    specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape[1:], t.dtype), elements)
    if not_vectorised(function, specs) is None:
        return tf.vectorized_map(function, elements)
    output = tf.function(function, autograph=False).get_concrete_function(specs).structured_outputs
    signature = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), output)
    return tf.map_fn(function, elements, fn_output_signature=signature)
