"""Whole rounds of federated_peers.py in pfl 0.6.0: its simulated backend, FedAvg, Gaussian mechanism, Keras 2."""

import contextlib
import io
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # with Keras 3, pfl 0.6.0 leaves out variables of equal name
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import logging

os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = sys.argv[1]

import numpy as np
import tensorflow as tf
import tf_keras
from _turns import serve
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.model.tensorflow import TFModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

logging.disable(logging.CRITICAL)


def main() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 100, 64)).astype(np.float32), rng.integers(10, size=(200, 100)).astype(np.int32)
    inputs = tf_keras.Input((64,))
    hidden = tf_keras.layers.Dense(32, activation="relu")(inputs)
    network = tf_keras.Model(inputs, tf_keras.layers.Dense(10)(hidden))
    network.compile(loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model = TFModel(network, {}, tf_keras.optimizers.SGD(1.0))
    sampler = get_user_sampler("random", list(range(200)))
    people = FederatedDataset(lambda user: Dataset([tf.constant(x[user]), tf.constant(y[user])]), sampler)
    noise = CentrallyAppliedPrivacyMechanism(GaussianMechanism(1.0, 1.0))
    backend = SimulatedBackend(training_data=people, val_data=people, postprocessors=[noise])
    train = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.1, local_batch_size=20)

    def twenty() -> None:
        parameters = NNAlgorithmParams(
            central_num_iterations=20, evaluation_frequency=10**6, train_cohort_size=50, val_cohort_size=0
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its metrics
            FederatedAveraging().run(
                backend=backend, model=model, algorithm_params=parameters, model_train_params=train,
                model_eval_params=NNEvalHyperParams(local_batch_size=None), callbacks=[],
            )  # fmt: skip

    serve({"private rounds": twenty}, about="pfl 0.6.0, fixed cohort, clip, noise, no ledger")


if __name__ == "__main__":
    main()
