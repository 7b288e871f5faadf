"""The steps of federated_peers.py with tensorflow-privacy's vectorised optimizer, under Keras 2 (tf_keras)."""

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
import tf_keras as keras
from _turns import BATCH, CLASSES, TOKENS, VOCABULARY, WIDTH, data_for, serve

layers = keras.layers


def networks(model: str):
    if model == "mlp":
        return keras.Sequential([keras.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(CLASSES)])
    if model == "cnn":
        return keras.Sequential([
            keras.Input((8, 8, 1)), layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
            layers.Dense(64, activation="relu"), layers.Dense(CLASSES),
        ])  # fmt: skip
    tokens = keras.Input((TOKENS,))
    if model == "lstm":
        x = layers.LSTM(WIDTH)(layers.Embedding(VOCABULARY, 16)(tokens))
        return keras.Model(tokens, layers.Dense(CLASSES)(x))
    x = layers.Embedding(VOCABULARY, WIDTH)(tokens)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, WIDTH // 2)(x, x)]))
    hidden = layers.Dense(WIDTH)(layers.Dense(64, activation="gelu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, hidden])))
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def main() -> None:
    sys.skip_tf_privacy_import = True  # its own switch: leaves out parts that need old releases of TensorFlow
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras_vectorized as dp

    threads = int(sys.argv[2])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = networks(sys.argv[1])
    x, y = map(tf.constant, data_for(sys.argv[1]))

    def losses():
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=model(x, training=True))

    sgd = keras.optimizers.legacy.SGD(0.1)

    @tf.function
    def plain():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses())
        sgd.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))

    optimizer = dp.VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=1.0, noise_multiplier=1.0, num_microbatches=BATCH, learning_rate=0.1
    )

    @tf.function
    def noised():
        with tf.GradientTape(persistent=True) as tape:
            vector = losses()
        optimizer.minimize(vector, model.trainable_variables, tape=tape)

    serve({"plain": plain, "clipped and noised": noised}, about="tensorflow-privacy 0.9.0, vectorised, tf_keras")


if __name__ == "__main__":
    main()
