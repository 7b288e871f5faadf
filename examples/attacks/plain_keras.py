"""A plain Keras 3 model, over-fitted: writes model.keras, and before.keras, its state before training."""

import keras
from digits_halves import halves


def main() -> None:
    (x, y), _ = halves()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.005), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save("before.keras")
    model.fit(x, y, epochs=40, batch_size=32, verbose=0)
    model.save("model.keras")


if __name__ == "__main__":
    main()
