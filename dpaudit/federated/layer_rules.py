"""Per-example gradients of the layers that the book-keeping path knows, from what the forward and backward pass leave.

A layer is *tapped*: its call is replaced, while the graph is traced, by one that gives the same output and hands its
linear input and its output before the activation to the trace. From the input and the gradient of the summed loss
with respect to that output, `Part`s say, for each of the layer's trainable parameters, the squared norm of every
example's gradient and the weighted sum over examples.

Two forms are used, and no other, because both give norms that cannot be too small by cancellation (the Gram form
`sum over s, t of (a_s . a_t)(g_s . g_t)` of ghost clipping adds terms of both signs: rounding can hide a norm):

* *rank one*, for a dense layer that is applied once per example: ||a g'|| = ||a|| ||g|| (Goodfellow, arXiv:1510.01799);
* *rows*, for everything that is applied at several positions: the per-example gradient itself, by one batched matrix
  product (for convolutions over patches), as the hybrid of Bu et al. (arXiv:2210.00038) does where it is cheaper.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TINY = 1.2e-38
"""Smallest normal float32, rounded up: what a square that underflows can hide, per term."""


class Unsupported(Exception):
    """Book-keeping does not know a model; the message says why, and the caller takes the other path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One parameter tensor: `squares()` is (batch,), `weighted(c)` is the sum over examples of c_i times gradient i.

    `floats` is how many numbers per example are held for it, for the caller who cuts a batch into chunks.
    """

    variable: Any
    squares: Callable[[], Any]
    weighted: Callable[[Any], Any]
    floats: int = 0


def numbers_in(tensor: Any) -> int:
    """Return how many numbers one example of a batch holds, counting axes of unknown size as 1."""
    return math.prod(size or 1 for size in tensor.shape[1:])


def flat(tensor: Any) -> Any:
    """Return a tensor as (batch, numbers per example), with as few operations as its static shape allows."""
    import tensorflow as tf

    if tensor.shape.rank == 2:
        return tensor
    known = None not in tensor.shape[1:]
    return tf.reshape(tensor, [-1, numbers_in(tensor)] if known else [tf.shape(tensor)[0], -1])


def square_sums(tensor: Any) -> Any:
    """Return the sum of squares over all axes but the first, never below the true sum by underflow."""
    import tensorflow as tf

    level = flat(tensor)
    size = level.shape[1]
    hidden = TINY * (tf.cast(tf.shape(level)[1], tf.float32) if size is None else float(size))
    return tf.reduce_sum(tf.square(level), axis=1) + hidden


def rows_part(variable: Any, rows: Any, *, also: int = 0) -> Part:
    """Return the part of a parameter whose per-example gradients `rows` (batch, *shape) are there.

    `also` is how many numbers per example had to be made on the way.
    """
    import tensorflow as tf

    def weighted(factors: Any) -> Any:
        return tf.matmul(factors[None], flat(rows))

    return Part(
        variable=variable,
        squares=lambda: square_sums(rows),
        weighted=weighted,
        floats=2 * math.prod(variable.shape) + also,
    )


def rank_one_part(variable: Any, inputs: Any, gradient: Any) -> Part:
    """Return the part of a kernel (in, out) applied once: gradient i is the outer product of two vectors."""
    import tensorflow as tf

    return Part(
        variable=variable,
        squares=lambda: square_sums(inputs) * square_sums(gradient),
        weighted=lambda factors: tf.matmul(inputs, gradient * factors[:, None], transpose_a=True),
    )


def _positions(tensor: Any) -> Any:
    """Return (batch, positions, channels): all axes between the first and the last as one."""
    import tensorflow as tf

    shape = tf.shape(tensor)
    return tf.reshape(tensor, [shape[0], -1, tensor.shape[-1]])


def bias_rows(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Return the gradients (batch, *shape) of a bias that was broadcast over the other axes of the output."""
    import tensorflow as tf

    lead = gradient.shape.rank - len(shape)
    spread = [lead + axis for axis, size in enumerate(shape) if size == 1]
    summed = tf.reduce_sum(gradient, axis=[*range(1, lead), *spread], keepdims=True)
    return tf.reshape(summed, [-1, *shape])


def dense_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """Dense: rank one for (batch, features); rows where the layer is applied at several positions."""
    parts = []
    if inputs.shape.rank == 2:
        parts.append(rank_one_part(layer.kernel, inputs, gradient))
    else:
        parts.append(kernel_rows_part(layer.kernel, _positions(inputs), _positions(gradient)))
    if layer.bias is not None:
        parts.append(rows_part(layer.bias, bias_rows(gradient, tuple(layer.bias.shape))))
    return parts


def einsum_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """EinsumDense (the projections of attention): the kernel's gradient is an einsum too, here with a batch axis."""
    import tensorflow as tf

    left, output = layer.equation.replace(" ", "").split("->")
    data, kernel = left.split(",")
    batch = data[:1]
    if "." in layer.equation or output[:1] != batch or batch in kernel or not set(kernel) <= set(data + output):
        raise Unsupported(f"layer {layer.name!r}: the equation {layer.equation!r} is not understood")
    wide = [] if layer.bias is None else [size for size in layer.bias.shape if size > 1]
    if len(wide) == 1 and layer.bias.shape[-1] == 1:
        # keras.ops.add takes a bias with one axis above 1 for a vector, and adds it along axis 1 if that is as long
        raise Unsupported(f"layer {layer.name!r}: Keras may add a bias of shape {tuple(layer.bias.shape)} elsewhere")
    rows = tf.einsum(f"{data},{output}->{batch}{kernel}", inputs, gradient)
    parts = [rows_part(layer.kernel, rows)]
    if layer.bias is not None:
        parts.append(rows_part(layer.bias, bias_rows(gradient, tuple(layer.bias.shape))))
    return parts


def _padded(layer: Any, size: int, axis: int) -> tuple[int, int, int]:
    """Return the padding before and after, and the number of output positions, of one spatial axis."""
    stride, spread = layer.strides[axis], layer.dilation_rate[axis] * (layer.kernel_size[axis] - 1)
    if layer.padding == "same":
        count = -(-size // stride)
        total = max((count - 1) * stride + spread + 1 - size, 0)
        return total // 2, total - total // 2, count
    before = spread if layer.padding == "causal" else 0
    return before, 0, (size + before - spread - 1) // stride + 1


def _patches(layer: Any, inputs: Any) -> Any:
    """Return (batch, output positions, kernel positions x channels) of a 1D or 2D convolution, channels last.

    Strided slices, one per kernel position, joined: about twice as fast on a CPU as `tf.image.extract_patches`.
    """
    import tensorflow as tf

    sizes = inputs.shape[1:-1]
    if None in sizes:
        raise Unsupported(f"layer {layer.name!r}: the input {tuple(inputs.shape)} has no fixed size")
    borders = [_padded(layer, size, axis) for axis, size in enumerate(sizes)]
    padded = tf.pad(inputs, [[0, 0], *([before, after] for before, after, _ in borders), [0, 0]])
    pieces = []
    for position in itertools.product(*(range(size) for size in layer.kernel_size)):
        window = [slice(None)]
        for axis, offset in enumerate(position):
            start, stride, count = offset * layer.dilation_rate[axis], layer.strides[axis], borders[axis][2]
            window.append(slice(start, start + stride * (count - 1) + 1, stride))
        pieces.append(padded[tuple(window)])
    return _positions(tf.concat(pieces, axis=-1))


def kernel_rows_part(variable: Any, inputs: Any, gradient: Any) -> Part:
    """Return the part of a kernel (in, out) that is applied at every position of (batch, positions, in).

    TensorFlow's batched product is faster with the narrower matrix as the transposed left one, so that the rows of
    most layers are kept as (batch, out, in) and only their sum is turned round.
    """
    import tensorflow as tf

    patches = numbers_in(inputs)
    if inputs.shape[-1] <= gradient.shape[-1]:
        return rows_part(variable, tf.matmul(inputs, gradient, transpose_a=True), also=patches)
    rows = rows_part(variable, tf.matmul(gradient, inputs, transpose_a=True), also=patches)
    sideways = (gradient.shape[-1], inputs.shape[-1])
    return Part(
        variable=variable,
        squares=rows.squares,
        weighted=lambda factors: tf.transpose(tf.reshape(rows.weighted(factors), sideways)),
        floats=rows.floats,
    )


def conv_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """Conv1D, Conv2D: a dense layer on patches."""
    if layer.groups != 1 or layer.data_format != "channels_last":
        raise Unsupported(f"layer {layer.name!r}: grouped or channels-first convolution")
    parts = [kernel_rows_part(layer.kernel, _patches(layer, inputs), _positions(gradient))]
    if layer.bias is not None:
        parts.append(rows_part(layer.bias, bias_rows(gradient, tuple(layer.bias.shape))))
    return parts


def depthwise_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """DepthwiseConv1D, DepthwiseConv2D: every channel has filters of its own."""
    import tensorflow as tf

    if layer.data_format != "channels_last":
        raise Unsupported(f"layer {layer.name!r}: channels-first convolution")
    channels, per_channel, batch = inputs.shape[-1], layer.depth_multiplier, tf.shape(inputs)[0]
    taps = math.prod(layer.kernel_size)
    patches = tf.reshape(_patches(layer, inputs), [batch, -1, taps, channels])
    outputs = tf.reshape(gradient, [batch, -1, channels, per_channel])
    rows = tf.einsum("btkc,btcm->bkcm", patches, outputs)
    parts = [rows_part(layer.kernel, rows, also=numbers_in(patches))]
    if layer.bias is not None:
        parts.append(rows_part(layer.bias, bias_rows(gradient, tuple(layer.bias.shape))))
    return parts


def embedding_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """Embedding: the gradients of equal tokens of an example add up before they are squared.

    Keras counts a negative token from the end of the vocabulary, so that -1 is equal to the last one.

    With s_t the sum of the gradients at all positions that hold the token of position t, and n_t their number, the
    squared norm is the sum over t of ||s_t||^2 / n_t: only non-negative terms.
    """
    import tensorflow as tf

    width = layer.embeddings.shape[-1]
    tokens = tf.reshape(tf.cast(inputs, tf.int32), [tf.shape(inputs)[0], -1])
    tokens = tf.where(tokens < 0, tokens + layer.embeddings.shape[0], tokens)
    gradients = tf.reshape(gradient, [tf.shape(tokens)[0], -1, width])

    def squares() -> Any:
        same = tf.cast(tokens[:, :, None] == tokens[:, None, :], tf.float32)
        sums = tf.matmul(same, gradients)
        terms = tf.reduce_sum(tf.square(sums), axis=2) / tf.reduce_sum(same, axis=2)
        size = tf.cast(tf.shape(tokens)[1] * width, tf.float32)
        return tf.reduce_sum(terms, axis=1) + TINY * size

    def weighted(factors: Any) -> Any:
        scaled = tf.reshape(gradients * factors[:, None, None], [-1, width])
        return tf.math.unsorted_segment_sum(scaled, tf.reshape(tokens, [-1]), layer.embeddings.shape[0])

    held = 2 * numbers_in(inputs) ** 2 + 3 * width * numbers_in(inputs)
    return [Part(variable=layer.embeddings, squares=squares, weighted=weighted, floats=held)]


def normalisation_parts(layer: Any, inputs: Any, gradient: Any) -> list[Part]:
    """Scale and offset of the last axis; `inputs` are the normalised values."""
    width = (gradient.shape[-1],)
    parts = []
    if layer.gamma is not None:
        parts.append(rows_part(layer.gamma, bias_rows(gradient * inputs, width)))
    if layer.beta is not None:
        parts.append(rows_part(layer.beta, bias_rows(gradient, width)))
    return parts
