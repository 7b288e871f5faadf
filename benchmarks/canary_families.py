"""What canary families add to a round: CPU seconds with and without them, interleaved in one process.

    python benchmarks/canary_families.py

Each setting trains on digits; every round of the plain server is followed by one of the server with a family. Printed
are medians of CPU time per round (training and what is written of it), their ratio, and the bytes on disk per round.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from dpaudit.config import RunConfig
from dpaudit.federated import canary_log, clients, models
from dpaudit.federated.aggregation import GaussianSum
from dpaudit.federated.canaries import make_canaries
from dpaudit.federated.canary_families import make_families
from dpaudit.federated.data import FederatedData, prepare
from dpaudit.federated.engine import make_engine
from dpaudit.federated.journal import Journal
from dpaudit.federated.optimizers import make_optimizer
from dpaudit.federated.server import Plan, Server
from dpaudit.federated.trainer import population_of
from dpaudit.ledger import PrivacyLedger

ROUNDS, WARM_UP = 40, 5
SETTINGS = {
    "none": (),
    "random 300": ({"kind": "random", "count": 300},),
    "random 3,000": ({"kind": "random", "count": 3000},),
    "chosen 400": ({"kind": "chosen", "count": 400},),
    "feature 200": ({"kind": "feature", "count": 200},),
    "mislabelled 100": ({"kind": "mislabelled", "count": 100},),
    "blank 10": ({"kind": "blank", "count": 10},),
}


def config_of(families: tuple[dict[str, object], ...]) -> RunConfig:
    """Return a run on digits with 16 hidden units and these families."""
    return RunConfig.model_validate({
        "run": {"name": "benchmark", "seed": 1}, "claim": {"epsilon": 6.0, "delta": 1e-5, "unit": "example"},
        "data": {"source": "digits"}, "partition": {"kind": "iid", "clients": 20}, "model": {"hidden": [16]},
        "training": {
            "algorithm": "dp-fedsgd", "rounds": ROUNDS, "client_sampling_rate": 1.0, "example_sampling_rate": 0.3,
        },
        "canaries": {"count": 400, "family": list(families)},
    })  # fmt: skip


class Setting:
    """A server and its files."""

    def __init__(self, families: tuple[dict[str, object], ...], out: Path) -> None:
        config = config_of(families)
        data: FederatedData = prepare(config, root=1)
        population, shape = population_of(config, data), data.train.x.shape[1:]
        model = models.build_model(config.model, shape, data.train.classes, root=1)
        functions = clients.ClientFunctions(model, shape)
        made = make_families(config, data, population, functions, noise_multiplier=1.5, root=1)
        dirac = make_canaries(config.canaries, population, root=1)
        self.runner = make_engine(functions, data.train, config.training, root=1)
        plan = Plan(
            training=config.training, population=population, canaries=dirac, root=1, direction=1.0, families=made
        )
        self.journal = Journal(out, parameters=functions.parameters, canaries=dirac, families=made)
        out.mkdir(parents=True)
        self.journal.describe(clients=20, units=population.units, rounds=ROUNDS)
        self.server = Server(
            plan, aggregator=GaussianSum(clip_norm=1.0, noise_multiplier=1.5), ledger=PrivacyLedger(),
            optimizer=make_optimizer(config.training), weights=models.get_weights(model),
        )  # fmt: skip
        self.bytes = sum(sum(canary_log.line_sizes(family.name, family.count).values()) for family in made)
        self.seconds: list[float] = []

    def round(self, number: int) -> None:
        """Do one round, and write what it shows."""
        start = time.process_time()
        self.journal.observe(*self.server.run_round(number, self.runner.run_cohort))
        self.seconds.append(time.process_time() - start)


def main() -> None:
    """Print the table."""
    clients.deterministic_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            name: Setting(families, Path(folder) / str(n)) for n, (name, families) in enumerate(SETTINGS.items())
        }
        for number in range(ROUNDS):
            for setting in settings.values():
                setting.round(number)
        plain = statistics.median(settings["none"].seconds[WARM_UP:])
        for name, setting in settings.items():
            median = statistics.median(setting.seconds[WARM_UP:])
            low, high = np.percentile(setting.seconds[WARM_UP:], [25, 75])
            print(
                f"{name:16} {1000 * median:7.1f} ms ({1000 * low:.1f} to {1000 * high:.1f})  "
                f"{median / plain:5.2f} x  {setting.bytes:6d} bytes"
            )


if __name__ == "__main__":
    main()
