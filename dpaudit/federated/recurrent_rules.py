"""Recurrent layers (SimpleRNN, LSTM, GRU) for the book-keeping path: the recurrence, written so that it can be tapped.

The products of the inputs with the kernel are made for all steps at once, X = x W + b, and the steps add R_t, the
product of the last state with the recurrent kernel. The gradients of the loss with respect to X and R, together with
x and the states, are all that the gradients of one example need:

    dW = sum over t of x_t dX_t',    dU = sum over t of h_{t-1} dR_t',    db = sum over t of dX_t.

In SimpleRNN and LSTM R_t is added to X_t, so that dR = dX. In a GRU the candidate takes r * R_t (`reset_after`), whose
gradient is had from a tensor of zeros that is added to R_t, or the product of r * h_{t-1} with its kernel. Steps that
the mask leaves out keep the state, and so have no gradient. The numbers are those of Keras's own layers, in another
order of summation; layers that keep state between batches or drop at random are not known here.
"""

from collections.abc import Callable
from typing import Any

from dpaudit.federated.layer_rules import Part, Unsupported, bias_rows, kernel_rows_part, rows_part

RECURRENT = ("SimpleRNN", "LSTM", "GRU")
CELLS = tuple(f"{name}Cell" for name in RECURRENT)
_UNROLLED = 64
"""Sequences up to this length are unrolled: faster than a loop in the graph, and quick to trace."""

Watch = Callable[[Any], None]
Record = Callable[[Any, Any, Any], Any]


def check_recurrent(layer: Any) -> None:
    """Raise Unsupported unless a SimpleRNN, LSTM or GRU is in a configuration that this file can reproduce."""
    named = f"layer {layer.name!r} ({type(layer).__name__})"
    if layer.stateful or layer.return_state:
        raise Unsupported(f"{named} keeps or returns its state")
    if layer.dropout or layer.recurrent_dropout:
        raise Unsupported(f"{named} drops inputs or states at random")
    if layer.unroll and layer.go_backwards and layer.zero_output_for_mask:  # Keras 3.15 reverses the mask only once
        raise Unsupported(f"{named} reads its mask in another order than its inputs")
    if type(layer.cell).__name__ != f"{type(layer).__name__}Cell":
        raise Unsupported(f"{named} has a cell of its own")
    gate = getattr(layer, "recurrent_activation", None)
    if gate is not None and not str(getattr(gate, "__module__", "")).startswith("keras.src.activations"):
        raise Unsupported(f"{named} has a recurrent activation of its own")


def recurrent_call(layer: Any, watch: Watch, record: Record) -> Callable[..., Any]:
    """Return a call with the same output as the layer's own that leaves behind what `recurrent_parts` needs.

    `watch` tells the gradient tape of a tensor; `record` takes the layer, its inputs and the watched tensors.
    """

    def call(sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        import tensorflow as tf

        del training
        if initial_state is not None:
            raise Unsupported(f"layer {layer.name!r} is given an initial state")
        if layer.go_backwards:
            sequences = tf.reverse(sequences, [1])
            mask = None if mask is None else tf.reverse(mask, [1])
        weights = [None if w is None else tf.convert_to_tensor(w) for w in _weights(layer.cell)]
        outside = tf.tensordot(sequences, weights[0], 1)
        outside = outside if weights[2] is None else outside + _input_bias(layer, weights[2])
        tapped = [outside]
        if _resets_after(layer):
            tapped.append(tf.zeros([tf.shape(outside)[0], tf.shape(outside)[1], layer.cell.units]))
        watch(tapped)
        states, before = _run(layer, weights, tapped, mask)
        record(layer, (sequences, *before), tapped)
        if layer.zero_output_for_mask and mask is not None:
            states = tf.where(mask[:, :, None], states, 0.0)
        return states if layer.return_sequences else states[:, -1]

    return call


def _weights(cell: Any) -> tuple[Any, Any, Any]:
    return cell.kernel, cell.recurrent_kernel, cell.bias


def _resets_after(layer: Any) -> bool:
    return type(layer).__name__ == "GRU" and bool(layer.cell.reset_after)


def _input_bias(layer: Any, bias: Any) -> Any:
    return bias[0] if _resets_after(layer) else bias


def _run(layer: Any, weights: list[Any], tapped: list[Any], mask: Any) -> tuple[Any, tuple[Any, Any]]:
    """Run the steps over X (batch, steps, gates); return all states h and what multiplied the recurrent kernel."""
    import tensorflow as tf

    zeros = tf.zeros([tf.shape(tapped[0])[0], layer.cell.units])
    elements = list(tapped)
    if mask is not None:
        elements.append(tf.cast(mask, tf.bool)[:, :, None])
    step = {"SimpleRNN": _simple_step, "LSTM": _lstm_step, "GRU": _gru_step}[type(layer).__name__]

    def advance(states: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[Any, ...]:
        new = step(layer.cell, weights, states, items)
        if mask is None:
            return new
        kept = tuple(tf.where(items[-1], a, b) for a, b in zip(new[:2], states[:2], strict=True))
        return (*kept, *new[2:])

    # h, c (LSTM; else unused), r * h (GRU without reset_after; else unused)
    history = _scan(advance, elements, (zeros, zeros, zeros), tapped[0].shape[1])
    previous = tf.concat([zeros[:, None], history[0][:, :-1]], axis=1)
    return history[0], (previous, history[2])


def _scan(step: Callable[..., Any], elements: list[Any], start: tuple[Any, ...], length: int | None) -> list[Any]:
    """Return the states after every step, each (batch, steps, units)."""
    import tensorflow as tf

    if length is not None and length <= _UNROLLED:
        series = [tf.unstack(element, num=length, axis=1) for element in elements]
        found, states = [], start
        for items in zip(*series, strict=True):
            states = step(states, items)
            found.append(states)
        return [tf.stack(column, axis=1) for column in zip(*found, strict=True)]
    by_time = tuple(tf.transpose(element, [1, 0, 2]) for element in elements)
    columns = tf.scan(step, by_time, initializer=start)
    return [tf.transpose(column, [1, 0, 2]) for column in columns]


def _simple_step(cell: Any, weights: list[Any], states: Any, items: Any) -> tuple[Any, ...]:
    import tensorflow as tf

    total = items[0] + tf.matmul(states[0], weights[1])
    return (total if cell.activation is None else cell.activation(total), *states[1:])


def _lstm_step(cell: Any, weights: list[Any], states: Any, items: Any) -> tuple[Any, ...]:
    import tensorflow as tf

    last, carry, unused = states
    i, f, c, o = tf.split(items[0] + tf.matmul(last, weights[1]), 4, axis=1)
    gate = cell.recurrent_activation
    carry = gate(f) * carry + gate(i) * cell.activation(c)
    return gate(o) * cell.activation(carry), carry, unused


def _gru_step(cell: Any, weights: list[Any], states: Any, items: Any) -> tuple[Any, ...]:
    import tensorflow as tf

    last, unused, _ = states
    units, gate = cell.units, cell.recurrent_activation
    outer, candidate = items[0][:, : 2 * units], items[0][:, 2 * units :]
    if cell.reset_after:
        inner = tf.matmul(last, weights[1])
        inner = inner if weights[2] is None else inner + weights[2][1]
        z, r = tf.split(gate(outer + inner[:, : 2 * units]), 2, axis=1)
        reset, inside = last, r * (inner[:, 2 * units :] + items[1])
    else:
        z, r = tf.split(gate(outer + tf.matmul(last, weights[1][:, : 2 * units])), 2, axis=1)
        reset = r * last
        inside = tf.matmul(reset, weights[1][:, 2 * units :])
    return z * last + (1 - z) * cell.activation(candidate + inside), unused, reset


def recurrent_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """Return the parts of kernel, recurrent kernel and bias.

    Args:
        layer: the layer.
        inputs: (sequences, states before each step, for a GRU without `reset_after` r * h), in the order of the steps.
        gradient: with respect to X, and for a GRU with `reset_after` also to the candidate's share of R.
    """
    import tensorflow as tf

    (sequences, before, reset), outside, cell, units = inputs, gradient[0], layer.cell, layer.cell.units
    parts = [kernel_rows_part(cell.kernel, sequences, outside)]
    inner = outside
    if type(layer).__name__ == "GRU" and not cell.reset_after:
        left = tf.matmul(before, outside[..., : 2 * units], transpose_a=True)
        right = tf.matmul(reset, outside[..., 2 * units :], transpose_a=True)
        parts.append(rows_part(cell.recurrent_kernel, tf.concat([left, right], axis=2)))
    else:
        if len(gradient) > 1:
            inner = tf.concat([outside[..., : 2 * units], gradient[1]], axis=2)
        parts.append(kernel_rows_part(cell.recurrent_kernel, before, inner))
    if cell.bias is not None:
        rows = bias_rows(outside, tuple(outside.shape[-1:]))
        if len(cell.bias.shape) == 2:
            rows = tf.stack([rows, bias_rows(inner, tuple(inner.shape[-1:]))], axis=1)
        parts.append(rows_part(cell.bias, rows))
    return parts
