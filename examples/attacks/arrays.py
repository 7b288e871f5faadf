"""Outputs of any framework as arrays: writes outputs.npz with logits, labels, membership, and reference models."""

import warnings

import numpy as np
from digits_halves import halves
from sklearn.neural_network import MLPClassifier

REFERENCES = 8


def main() -> None:
    warnings.simplefilter("ignore")  # scikit-learn would rather train longer
    (x1, y1), (x0, y0) = halves()
    x, y = np.concatenate([x1, x0]), np.concatenate([y1, y0])
    member = np.arange(len(y)) < len(y1)
    rng = np.random.default_rng(0)
    inside = np.argsort(rng.random((REFERENCES, len(y))), axis=0) < REFERENCES // 2
    outputs = []
    for number, chosen in enumerate([member, *inside]):  # the target first, then the attacker's own models
        model = MLPClassifier(
            (32,), max_iter=60, learning_rate_init=0.01, tol=0, n_iter_no_change=60, random_state=number
        )
        outputs.append(model.fit(x[chosen], y[chosen]).predict_proba(x))
    np.savez(
        "outputs.npz", logits=outputs[0], labels=y, is_member=member,
        reference_logits=np.stack(outputs[1:]), reference_in=inside,
    )  # fmt: skip


if __name__ == "__main__":
    main()
