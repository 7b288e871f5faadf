"""Files of other tools for tests/accounting/test_importers.py, made by the tools themselves.

In an environment with Opacus 1.6.0, Flower 1.41.0 (extra `dp`) and JAX-Privacy 2.0.0:

    python tests/accounting/files/make.py

`history` is what the tool kept, `epsilon` what the tool says of it.
"""

import dataclasses
import enum
import json
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
DELTA = 1e-5


def write(name, body):
    (HERE / f"{name}.json").write_text(json.dumps(body) + "\n", encoding="utf-8")


def opacus():
    """A state_dict after training steps of Opacus's own PrivacyEngine, and one after steps by hand."""
    import torch
    from opacus import PrivacyEngine
    from opacus.accountants import RDPAccountant

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    data = torch.utils.data.TensorDataset(torch.randn(200, 4), torch.zeros(200, dtype=torch.long))
    engine = PrivacyEngine(accountant="rdp")
    model, optimizer, loader = engine.make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), noise_multiplier=1.1, max_grad_norm=1.0,
        data_loader=torch.utils.data.DataLoader(data, batch_size=20),
    )  # fmt: skip
    for _ in range(3):
        for inputs, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    trained = engine.accountant
    by_hand = RDPAccountant()
    for noise, rate, steps in [(1.0, 0.01, 600), (1.3, 0.02, 400)]:
        for _ in range(steps):
            by_hand.step(noise_multiplier=noise, sample_rate=rate)
    write(
        "opacus",
        {
            "made_by": f"opacus {version('opacus')}, torch {version('torch')}",
            "delta": DELTA,
            "trained": {"state_dict": trained.state_dict(), "epsilon": trained.get_epsilon(delta=DELTA)},
            "by_hand": {"state_dict": by_hand.state_dict(), "epsilon": by_hand.get_epsilon(delta=DELTA)},
        },
    )


def flower():
    """The state of Flower's accountant for each sampling method, and the attributes of a DP strategy."""
    from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
    from flwr.supercore import privacy_accounting as pa
    from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

    states = []
    for relation, method in [
        (pa.NeighboringRelation.ADD_OR_REMOVE_ONE, pa.SamplingMethod.POISSON),
        (pa.NeighboringRelation.REPLACE_ONE, pa.SamplingMethod.WITHOUT_REPLACEMENT),
        (pa.NeighboringRelation.ADD_OR_REMOVE_ONE, pa.SamplingMethod.NO_AMPLIFICATION),
    ]:
        config = pa.PrivacyConfig(
            target_delta=DELTA, population_size=1000, neighboring_relation=relation, sampling_method=method
        )
        accountant = RdpAccountant(config)
        for size, rounds in ((50, 30), (40, 1)):
            event = pa.GaussianPrivacyEvent(noise_multiplier=4.0, sample_size=size, population_size=1000)
            accountant.compose(event, rounds)
        states.append({"state_dict": accountant.state_dict(), "epsilon": accountant.get_epsilon(DELTA)})
    strategy = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=1.2, clipping_norm=0.5, num_sampled_clients=50
    )
    plain = {key: value for key, value in vars(strategy).items() if isinstance(value, int | float | str)}
    write("flower", {"made_by": f"flwr {version('flwr')}", "delta": DELTA, "states": states, "strategy": plain})


def jax_privacy():
    """The fields of JAX-Privacy's DpParams, and epsilon by its accountants."""
    from jax_privacy import accounting as ja

    cases = []
    poisson, fixed = ja.SamplingMethod.POISSON, ja.SamplingMethod.FIXED_BATCH_SIZE
    for changes in (
        {},
        {"sampling_method": fixed},
        {"truncated_batch_size": 90},
        {"examples_per_user": 3},
        {"examples_per_user": 3, "sampling_method": fixed},
        {"cycle_length": 4},
        {"noise_multipliers": [(0, 3.0), (100, 2.0)]},
    ):
        usual = {"noise_multipliers": 3.0, "num_samples": 1000, "delta": DELTA, "batch_size": 50}
        params = ja.DpParams(**{**usual, "sampling_method": poisson, **changes})
        kind = ja.DpsgdTrainingUserLevelAccountant if params.examples_per_user else ja.DpsgdTrainingAccountant
        accountant = kind(ja.PldAccountantConfig(value_discretization_interval=1e-3))
        fields = {
            key: value.name if isinstance(value, enum.Enum) else value
            for key, value in dataclasses.asdict(params).items()
        }
        cases.append({"dp_params": fields, "num_updates": 300, "epsilon": accountant.compute_epsilon(300, params)})
    write("jax_privacy", {"made_by": f"jax_privacy {version('jax_privacy')}", "delta": DELTA, "cases": cases})


if __name__ == "__main__":
    opacus()
    flower()
    jax_privacy()
