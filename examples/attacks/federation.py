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
from dpaudit.attacks.gradient_inversion import invert, judge_inversion
from dpaudit.attacks.rounds import ObservedRounds, alignments
from dpaudit.attacks.trajectory import TrajectoryAttack
from dpaudit.federated import clients, models

CLIENTS, EACH, ROUNDS, CLIP = 20, 2, 6, 1.0


def clipped(rows: np.ndarray) -> np.ndarray:
    """Scale rows down to norm CLIP."""
    return rows * np.minimum(1, CLIP / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def simulate(noise: float, seed: int = 0) -> dict[str, float]:
    """Run a small federation and attack it; return AUCs and shares."""
    import tensorflow as tf

    data = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    x, y = (data.data[order] / 16).astype(np.float32), data.target[order].astype(np.int32)
    n = 2 * CLIENTS * EACH  # candidates: half of them are held by clients
    holder = np.repeat(np.arange(CLIENTS), EACH)
    model = models.mlp((64,), 10, hidden=(32,), root=seed)
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
    update = functions.per_example_gradients(models.get_weights(model), placed, labels, np.arange(EACH), seed=(0, 0))
    sent = clipped(update.mean(axis=0, keepdims=True))[0]
    sent = sent + noise * CLIP * rng.normal(size=sent.shape)
    rebuilt = judge_inversion(invert(model, sent, y[:EACH], low=0.0, high=1.0, steps=600), x[:EACH], x[n:])
    return {
        "noise": noise,
        "which example took part in a round, AUC": auc(took_part(observed).ravel(), took.ravel()),
        "whose it is, accuracy": float(np.mean(whose(observed)[: n // 2] == holder)),
        "membership from aggregates of all rounds, AUC": auc(TrajectoryAttack("sum").score(observed), member),
        "rebuilt images, mean squared error": rebuilt.error,
        "nearest public image, mean squared error": rebuilt.population_baseline,
    }


if __name__ == "__main__":
    print(json.dumps([simulate(0.0), simulate(1.0)], indent=2))
