"""The step test on other people's training steps; each part runs where its library is installed.

    OMP_NUM_THREADS=1 python benchmarks/verification_peers.py [jax] [opacus] [flower] [queries]

Needs jax 0.10; opacus 1.6 with torch; flwr 1.41; tensorflow-privacy 0.9 without its pins. The Keras optimizers of
tensorflow-privacy need tf_keras in a process of their own: tests/verification/test_adapters.py.
What was seen is in docs/step-test-findings.md.
"""

import sys
import time
from importlib.util import find_spec

import numpy as np

from dpaudit.records import Status
from dpaudit.verification import Step, check_step

EXAMPLES, FEATURES, HIDDEN, CLASSES = 16, 30, 40, 4


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32), rng.integers(0, CLASSES, EXAMPLES)


def report(name, factory, claim=1.0):
    start = time.process_time()
    results = check_step(factory, claim)
    print(f"\n## {name} ({time.process_time() - start:.2f} CPU s)\n", flush=True)
    for result in results:
        shown = result.detail if result.status != Status.PASS or result.id == "step.sensitivity" else ""
        print(f"* {result.status.value.upper()} {result.id} {shown[:330]}", flush=True)


def jax_parts():
    """A DP-SGD step as in the examples of JAX, and the same with one key for all tensors (jax-ml/jax PR 3646)."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(1)
    params = [
        jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)
        for shape in ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
    ]

    def loss(weights, x, y):
        first, b, last, c = weights
        scores = jnp.tanh(x @ first + b) @ last + c
        return -jax.nn.log_softmax(scores)[y]

    def clipped(weights, x, y):
        grads = jax.grad(loss)(weights, x, y)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in grads))
        factor = jnp.where(jnp.isfinite(norm), jnp.minimum(1.0, 1.0 / jnp.maximum(norm, 1e-12)), 0.0)
        return [jnp.where(jnp.isfinite(g), g, 0.0) * factor for g in grads]

    def step(batch, seed, one_key):
        x, y = jnp.asarray(batch[0]), jnp.asarray(batch[1])
        sums = [g.sum(0) for g in jax.vmap(clipped, (None, 0, 0))(params, x, y)]
        keys = jax.random.split(jax.random.PRNGKey(seed), len(sums))
        keys = [keys[0]] * len(sums) if one_key else keys
        return [(s + jax.random.normal(k, s.shape)) / EXAMPLES for s, k in zip(sums, keys, strict=True)]

    for name, one_key in (("honest", False), ("one key for all tensors", True)):
        made = Step(run=lambda b, s, k=one_key: step(b, s, k), batch=data(), kind="examples", clip_norm=1.0)
        report(f"JAX {jax.__version__}, vmap of grad, {name}", lambda made=made: made)


def opacus_parts():
    """Opacus' optimizer on the per-sample gradients of its own module wrapper."""
    import opacus
    import torch
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    torch.manual_seed(1)
    layers = torch.nn.Sequential(torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, CLASSES))
    start = {name: value.clone() for name, value in layers.state_dict().items()}
    model = GradSampleModule(layers)

    def run(batch, seed, noise_multiplier):
        model._module.load_state_dict(start)
        optimizer = DPOptimizer(
            torch.optim.SGD(model.parameters(), lr=1.0),
            noise_multiplier=noise_multiplier,
            max_grad_norm=1.0,
            expected_batch_size=EXAMPLES,
            generator=torch.Generator().manual_seed(seed),
        )
        optimizer.zero_grad()
        x, y = torch.as_tensor(batch[0]), torch.as_tensor(batch[1])
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        return [(p.detach() - start[name]).numpy().copy() for name, p in model._module.named_parameters()]

    for name, z in (("as claimed", 1.0), ("half the noise", 0.5)):
        made = Step(run=lambda b, s, z=z: run(b, s, z), batch=data(), kind="examples", clip_norm=1.0)
        report(f"Opacus {opacus.__version__}, DPOptimizer, {name}", lambda made=made: made)


def flower_parts():
    """The strategies with server-side clipping, without an accountant."""
    import logging

    import flwr.serverapp.strategy as strategies

    from dpaudit.verification.adapters_flower import flower_step

    logging.getLogger("flwr").setLevel(logging.CRITICAL)

    def fixed():
        return strategies.DifferentialPrivacyServerSideFixedClipping(
            strategies.FedAvg(), noise_multiplier=1.0, clipping_norm=0.5, num_sampled_clients=20
        )

    def adaptive():
        return strategies.DifferentialPrivacyServerSideAdaptiveClipping(
            strategies.FedAvg(), noise_multiplier=1.0, num_sampled_clients=20, initial_clipping_norm=0.5
        )

    report("Flower, fixed clipping", lambda: flower_step(fixed, clip_norm=0.5))
    report("Flower, fixed clipping, equal weights", lambda: flower_step(fixed, clip_norm=0.5, weighted=False))
    report(
        "Flower, fixed clipping, a tensor of whole numbers",
        lambda: flower_step(fixed, clip_norm=0.5, weighted=False, integers=True),
    )
    report(
        "Flower, adaptive clipping, equal weights",
        lambda: flower_step(adaptive, clip_norm=0.5, weighted=False, adaptive=True),
    )


def query_parts():
    """tensorflow-privacy's queries, through the same interface."""
    from dpaudit.verification.adapters_tfp import query_step

    query_step(lambda: None)  # sets their import switch
    from tensorflow_privacy.privacy.dp_query.gaussian_query import GaussianSumQuery
    from tensorflow_privacy.privacy.dp_query.normalized_query import NormalizedQuery

    units = 12
    report(
        "tensorflow-privacy, GaussianSumQuery", lambda: query_step(lambda: GaussianSumQuery(1.0, 1.0), clip_norm=1.0)
    )
    report(
        "tensorflow-privacy, NormalizedQuery of it with a fixed denominator",
        lambda: query_step(lambda: NormalizedQuery(GaussianSumQuery(1.0, 1.0), units), clip_norm=1.0, units=units),
    )


PARTS = {
    "jax": ("jax", jax_parts),
    "opacus": ("opacus", opacus_parts),
    "flower": ("flwr", flower_parts),
    "queries": ("tensorflow_privacy", query_parts),
}


def main():
    for name in sys.argv[1:] or PARTS:
        module, part = PARTS[name]
        if find_spec(module) is None:
            print(f"\n{name}: {module} is not installed.")
            continue
        part()


if __name__ == "__main__":
    main()
