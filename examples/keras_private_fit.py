"""Differential privacy for your own Keras model: compile it as usual, then `private_fit` in place of `fit`.

python examples/keras_private_fit.py            # scikit-learn's digits, epsilon 6, about 20 seconds
"""

import argparse
from pathlib import Path

import keras
from sklearn.datasets import load_digits

from dpaudit.pipeline.keras_fit import private_fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/keras"))
    parser.add_argument("--epochs", type=int, default=14)
    options = parser.parse_args()

    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target
    model = keras.Sequential([
        keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10),
    ])  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])

    fit = private_fit(
        model, x[:1348], y[:1348], epsilon=6, delta=1e-5, epochs=options.epochs, batch_size=256, canaries=500,
        validation_data=(x[1348:], y[1348:]), out=options.out,
    )  # fmt: skip

    print(f"accuracy on examples that nobody trained on: {fit.history.history['val_accuracy'][-1]:.3f}")
    print(
        f"epsilon spent, from the ledger: {fit.epsilon:.3f} at delta 1e-5 (noise multiplier {fit.noise_multiplier:.3f})"
    )
    for bound in fit.bounds:
        print(f"epsilon at least {bound.epsilon}, by {bound.method}: {bound.reason or 'with 95 % confidence'}")


if __name__ == "__main__":
    main()
