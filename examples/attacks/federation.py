"""What a curious server learns from a federation, with and without noise: rounds, holders, and a client's images.

Prints one JSON document. Clients send the clipped gradient of their two examples; with noise, the server sees it noised
(local noise: the harshest setting; central noise protects what is released, not what the server sees).
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.datasets import load_digits

from dpaudit.attacks.client_updates import took_part, whose
from dpaudit.attacks.comparable import auc
from dpaudit.attacks.gradient_inversion import invert, invert_dense, judge_inversion
from dpaudit.attacks.rounds import ObservedRounds, alignments
from dpaudit.attacks.trajectory import TrajectoryAttack
from dpaudit.federated import clients, models

CLIENTS, EACH, ROUNDS, CLIP, HIDDEN = 20, 2, 6, 1.0, 32


def clipped(rows: np.ndarray) -> np.ndarray:
    """Scale rows down to norm CLIP."""
    return rows * np.minimum(1, CLIP / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def first_layer(update: np.ndarray) -> np.ndarray:
    """Return the inputs that the gradient of the first dense layer gives away."""
    kernel, bias = update[: 64 * HIDDEN].reshape(64, HIDDEN), update[64 * HIDDEN : 65 * HIDDEN]
    return invert_dense(kernel, bias)


def simulate(noise: float, seed: int = 0) -> dict[str, float]:
    """Run a small federation and attack it; return AUCs and shares."""
    import tensorflow as tf

    data = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    x, y = (data.data[order] / 16).astype(np.float32), data.target[order].astype(np.int32)
    n = 2 * CLIENTS * EACH  # candidates: half of them are held by clients
    holder = np.repeat(np.arange(CLIENTS), EACH)
    model = models.mlp((64,), 10, hidden=(HIDDEN,), root=seed)
    functions, weights = clients.ClientFunctions(model, (64,)), models.get_weights(model)
    placed, labels = tf.constant(x[:n]), tf.constant(y[:n])
    sampled, seen = rng.random((ROUNDS, CLIENTS)) < 0.5, []
    for number in range(ROUNDS):
        rows = functions.per_example_gradients(weights, placed, labels, np.arange(n), seed=(0, number))
        updates = clipped(rows[: n // 2].reshape(CLIENTS, EACH, -1).mean(axis=1)) * sampled[number, :, None]
        updates = updates + noise * CLIP * rng.normal(size=updates.shape)
        seen.append((alignments(rows, updates), alignments(rows, updates.sum(axis=0, keepdims=True))))
        weights = weights - 0.5 * updates.mean(axis=0)
    observed = ObservedRounds(
        alignment=np.concatenate([total for _, total in seen]), client_alignment=np.stack([each for each, _ in seen])
    )
    member = np.arange(n) < n // 2
    took = np.concatenate([sampled[:, holder], np.zeros((ROUNDS, n // 2), bool)], axis=1)
    start = functions.per_example_gradients(models.get_weights(model), placed, labels, np.arange(n // 2), seed=(0, 0))
    pair, alone, everybody = start[:EACH].mean(axis=0), start[0], start.sum(axis=0)
    sent = [
        clipped(update[None])[0] + noise * CLIP * rng.normal(size=update.size) for update in (pair, alone, everybody)
    ]
    public = x[n:]
    rebuilt = judge_inversion(invert(model, sent[0], y[:EACH], low=0.0, high=1.0, steps=600), x[:EACH], public)
    read_off = [judge_inversion(np.clip(first_layer(update), 0, 1), x[:1], public).error for update in sent[1:]]
    return {
        "noise": noise,
        "which example took part in a round, AUC": auc(took_part(observed).ravel(), took.ravel()),
        "whose it is, accuracy": float(np.mean(whose(observed)[: n // 2] == holder)),
        "membership from aggregates of all rounds, AUC": auc(TrajectoryAttack("sum").score(observed), member),
        "one image read off the first layer, mean squared error": read_off[0],
        "the same from the sum of all clients": read_off[1],
        "two images searched for, mean squared error": rebuilt.error,
        "nearest public image, mean squared error": rebuilt.population_baseline,
    }


if __name__ == "__main__":
    print(json.dumps([simulate(0.0), simulate(1.0)], indent=2))
