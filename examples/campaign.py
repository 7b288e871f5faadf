"""A campaign of one's own: an honest trainer and a broken one, audited over many trainings, on any executor.

Each task trains one small model with noisy full-batch gradient descent, with or without the canary, by a coin, and
returns one score: how well the noised gradients align with what the canary would add to them. Many such runs give a
multi-run bound that assumes nothing about the mechanism (method `clopper-pearson`).

    python examples/campaign.py                       # in this process
    python examples/campaign.py joblib                # one process per core
    python examples/campaign.py ray                   # a Ray of our own; with RAY_ADDRESS, an existing cluster

Interrupt it and start it again: it goes on with what is kept in the folder `campaign-results`.
"""

import sys
from pathlib import Path

import numpy as np

from dpaudit import _rng, accounting, estimation, events, fanout

STEPS, ROWS, FEATURES, CLIP = 10, 40, 5, 1.0
DELTA = 1e-5


def train_once(data, member, noise_multiplier, *, seed):
    """Train one model and score it; a pure function of its arguments and its seed."""
    x, y, canary_x, canary_y = data
    if member:
        x, y = np.vstack([x, canary_x]), np.append(y, canary_y)
    weights, noise, score = np.zeros(FEATURES), _rng.stream(seed, "noise"), 0.0
    for _ in range(STEPS):
        rows = (1 / (1 + np.exp(-x @ weights)) - y)[:, None] * x
        rows *= np.minimum(1, CLIP / np.maximum(np.linalg.norm(rows, axis=1), 1e-12))[:, None]
        release = rows.sum(axis=0) + noise.normal(scale=noise_multiplier * CLIP, size=FEATURES)
        rest = rows[:ROWS].sum(axis=0)  # an auditor of one's own training knows the other rows
        wanted = (1 / (1 + np.exp(-canary_x @ weights)) - canary_y) * canary_x
        wanted *= min(1, CLIP / np.linalg.norm(wanted))
        score += float((release - rest) @ wanted)
        weights -= 0.1 * release / ROWS
    return score


def run(backend, folder, *, trainings=400, promised=8.0, actual=8.0, seed=1):
    """Return the claimed epsilon and the bound that the campaign shows."""
    rng = _rng.stream(seed, "data")
    data = (rng.normal(size=(ROWS, FEATURES)), (rng.random(ROWS) < 0.5) * 1.0, 3 * rng.normal(size=FEATURES), 1.0)
    coins = _rng.stream(seed, "coins").random(trainings) < 0.5
    tasks = [
        fanout.Task(
            name=f"training {i}",
            function=train_once,
            arguments={"member": bool(coin), "noise_multiplier": actual},
            seed=fanout.task_seed(seed, f"training {i}"),
        )
        for i, coin in enumerate(coins)
    ]
    with fanout.open_executor(backend) as executor:
        scores = np.array(
            list(fanout.run_campaign(tasks, executor=executor, shared={"data": data}, cache=folder).values())
        )
    event = events.SelfComposed(event=events.Gaussian(noise_multiplier=promised), count=STEPS)
    claim = accounting.epsilon(event, DELTA)
    bound = estimation.estimate(
        scores[coins], scores[~coins], method="clopper-pearson", delta=DELTA, interest_epsilon=2 * claim,
        declared=("independent-runs",), seed=seed,
    )  # fmt: skip
    return claim, bound


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "serial"
    for name, actual in (("honest", 8.0), ("broken, with an eighth of the noise", 1.0)):
        claim, bound = run(where, Path("campaign-results"), actual=actual)
        verdict = "refuted" if bound.epsilon is not None and bound.epsilon > claim else "not refuted"
        print(f"{name}: claimed epsilon {claim:.3f}, shown {bound.epsilon:.3f} at 95 %: {verdict}")
