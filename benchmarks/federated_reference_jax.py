"""The references of federated_reference.py in JAX: an epoch of every client by vmap and jit. Its own environment."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax
import jax.numpy as jnp
import numpy as np
from _turns import serve

COHORT, STEPS, BATCH = 50, 5, 20


def loss(parts, x, y):
    hidden = jax.nn.relu(x @ parts[0] + parts[1])
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ parts[2] + parts[3]), y[:, None], 1).sum()


def plain(parts, x, y, key):
    del key
    return jax.grad(loss)(parts, x, y)


def clipped(parts, x, y, key):
    del key
    rows = jax.vmap(lambda a, b: jax.grad(loss)(parts, a[None], b[None]))(x, y)
    squares = sum((row.reshape(BATCH, -1) ** 2).sum(1) for row in rows)
    factors = 1.0 / jnp.maximum(jnp.sqrt(squares), 1.0)
    return [jnp.tensordot(factors, row, 1) for row in rows]


def noised(parts, x, y, key):
    keys = jax.random.split(key, len(parts))
    return [row + jax.random.normal(k, row.shape) for row, k in zip(clipped(parts, x, y, key), keys, strict=True)]


def main() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((20_000, 64)), jnp.float32)
    y = jnp.asarray(rng.integers(10, size=20_000))
    index = jnp.asarray(rng.integers(20_000, size=(COHORT, STEPS, BATCH)))
    shapes = [(64, 32), (32,), (32, 10), (10,)]
    start = [jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32) for shape in shapes]

    def epoch(direction):
        def of_client(start, x, y, positions, key):
            parts = start
            for step in range(STEPS):
                at = positions[step]
                rows = direction(parts, x[at], y[at], jax.random.fold_in(key, step))
                parts = [part - 0.1 / BATCH * row for part, row in zip(parts, rows, strict=True)]
            return jnp.concatenate([(a - b).ravel() for a, b in zip(parts, start, strict=True)])

        @jax.jit  # all that a round brings is an argument: constants would be computed with when it is compiled
        def call(start, x, y, index, seed):
            return jax.vmap(of_client, (None, None, None, 0, 0))(
                start, x, y, index, jax.random.split(jax.random.key(seed), COHORT)
            )

        numbers = iter(range(10**9))
        return lambda: np.asarray(call(start, x, y, index, next(numbers)))

    calls = {
        "vmap and jit of an epoch": epoch(plain),
        "vmap and jit, example-level clip": epoch(clipped),
        "vmap and jit, example-level clip and noise": epoch(noised),
    }
    serve(calls, about=f"JAX {jax.__version__}")


if __name__ == "__main__":
    main()
