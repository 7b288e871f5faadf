"""The steps of federated_peers.py in JAX: vmap of grad and jit, models written by hand. Runs in its own environment."""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax
import jax.numpy as jnp
import numpy as np
from _turns import BATCH, CLASSES, VOCABULARY, WIDTH, data_for, serve

HEADS, FEED = 2, 64


def _dense(key: int, n: int, m: int) -> dict:
    rng = np.random.default_rng(key)
    return {"w": jnp.asarray(rng.standard_normal((n, m)) / np.sqrt(n), jnp.float32), "b": jnp.zeros(m)}


def _apply(p: dict, x):
    return x @ p["w"] + p["b"]


def mlp():
    params = [_dense(0, 64, 64), _dense(1, 64, CLASSES)]
    return params, lambda p, x: _apply(p[1], jax.nn.relu(_apply(p[0], x)))


def _conv(p: dict, x):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, p["w"], (1, 1), "SAME", dimension_numbers=dims) + p["b"]


def cnn():
    rng = np.random.default_rng(0)
    kernels = [jnp.asarray(0.1 * rng.standard_normal((3, 3, *io)), jnp.float32) for io in ((1, 16), (16, 32))]
    convs = [{"w": k, "b": jnp.zeros(k.shape[-1])} for k in kernels]
    params = [*convs, _dense(2, 512, 64), _dense(3, 64, CLASSES)]

    def forward(p, x):
        h = jax.nn.relu(_conv(p[1], jax.nn.relu(_conv(p[0], x[None]))))
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return _apply(p[3], jax.nn.relu(_apply(p[2], h.ravel())))

    return params, forward


def _norm(p: dict, x):
    centred = x - x.mean(-1, keepdims=True)
    return p["w"] * centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-3) + p["b"]


def transformer():
    rng = np.random.default_rng(0)
    unit = {"w": jnp.ones(WIDTH), "b": jnp.zeros(WIDTH)}
    params = {
        "embed": jnp.asarray(0.05 * rng.standard_normal((VOCABULARY, WIDTH)), jnp.float32),
        **{name: _dense(i, WIDTH, WIDTH) for i, name in enumerate(("q", "k", "v", "o"))},
        "n1": unit, "n2": dict(unit), "f1": _dense(5, WIDTH, FEED), "f2": _dense(6, FEED, WIDTH),
        "out": _dense(7, WIDTH, CLASSES),
    }  # fmt: skip

    def forward(p, tokens):
        x = p["embed"][tokens]
        q, k, v = (_apply(p[n], x).reshape(len(tokens), HEADS, -1) for n in ("q", "k", "v"))
        scores = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / np.sqrt(WIDTH // HEADS))
        x = _norm(p["n1"], x + _apply(p["o"], jnp.einsum("hts,shd->thd", scores, v).reshape(len(tokens), -1)))
        x = _norm(p["n2"], x + _apply(p["f2"], jax.nn.gelu(_apply(p["f1"], x))))
        return _apply(p["out"], x.mean(0))

    return params, forward


def lstm():
    rng = np.random.default_rng(0)
    embed = jnp.asarray(0.05 * rng.standard_normal((VOCABULARY, 16)), jnp.float32)
    cell = {"x": _dense(1, 16, 4 * WIDTH), "h": _dense(2, WIDTH, 4 * WIDTH)["w"]}
    params = {"embed": embed, "cell": cell, "out": _dense(3, WIDTH, CLASSES)}

    def forward(p, tokens):
        def step(state, x):
            h, c = state
            i, f, g, o = jnp.split(_apply(p["cell"]["x"], x) + h @ p["cell"]["h"], 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros(WIDTH)
        (h, _), _ = jax.lax.scan(step, (zeros, zeros), p["embed"][tokens])
        return _apply(p["out"], h)

    return params, forward


def main() -> None:
    model = sys.argv[1]
    params, forward = {"mlp": mlp, "cnn": cnn, "transformer": transformer, "lstm": lstm}[model]()
    x, y = map(jnp.asarray, data_for(model))

    def loss(p, x, y):
        return -jax.nn.log_softmax(forward(p, x))[y]

    def descend(p, gradient):
        return jax.tree.map(lambda a, g: a - 0.1 / BATCH * g, p, gradient)

    @jax.jit
    def plain(p, key):
        del key
        return descend(p, jax.grad(lambda p: jax.vmap(loss, (None, 0, 0))(p, x, y).sum())(p))

    def clipped(p):
        rows = jax.vmap(jax.grad(loss), (None, 0, 0))(p, x, y)
        squares = sum((leaf.reshape(BATCH, -1) ** 2).sum(1) for leaf in jax.tree.leaves(rows))
        factors = 1.0 / jnp.maximum(jnp.sqrt(squares), 1.0)
        return jax.tree.map(lambda leaf: jnp.tensordot(factors, leaf, 1), rows)

    @jax.jit
    def private(p, key):
        del key
        return descend(p, clipped(p))

    @jax.jit
    def noised(p, key):
        leaves, shape = jax.tree.flatten(clipped(p))
        keys = jax.random.split(key, len(leaves))
        leaves = [leaf + jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
        return descend(p, jax.tree.unflatten(shape, leaves))

    key = jax.random.key(0)
    steps = {"plain": plain, "clipped": private, "clipped and noised": noised}
    calls = {name: (lambda f=f: jax.block_until_ready(f(params, key))) for name, f in steps.items()}
    serve(calls, about=f"JAX {jax.__version__}, vmap and jit")


if __name__ == "__main__":
    main()
