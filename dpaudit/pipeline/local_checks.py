"""The checks of a dp-local run: noise of every device and step, local batches.

A release is one local step of one client. Its noise is seen on the client's canaries, where the client was there; the
rows of the records are the local steps, and what absent clients would have shown is masked.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dpaudit import verification
from dpaudit.config import RunConfig
from dpaudit.federated.run_files import TrainingRun
from dpaudit.ledger import LedgerEntry, PrivacyLedger
from dpaudit.pipeline.releases import Releases
from dpaudit.records import CheckResult, Status

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
TESTS = 9


def check_noise(
    ledger: PrivacyLedger,
    found: Releases,
    coins: Bools,
    canary_client: NDArray[np.int64],
    *,
    client_noise: Floats,
    model_noise: tuple[Floats, int],
    promised: float,
    significance: float,
) -> list[CheckResult]:
    """Test the noise of all local steps, on absent canaries and on the model, and the clip on canaries.

    Args:
        ledger: says how many updates were accepted.
        found: what the steps showed.
        coins: which canaries are in, (m,).
        canary_client: the client of each canary, (m,).
        client_noise: sum of squares of the noise in each client's update, (rounds, clients); NaN where there was none.
        model_noise: the same of the sum of a round's updates, (rounds,), and the number of coordinates.
        promised: noise multiplier of a local step.
        significance: false-alarm probability of all results together.
    """
    share = significance / TESTS
    order = np.argsort(canary_client, kind="stable")
    idle = order[~coins[order]]
    values = np.asarray(found.observations, dtype=np.float64)[:, idle]
    shown = found.released[:, idle]
    alone, counts = values[shown], shown.sum(axis=1)
    squares = np.where(shown, values**2, 0.0).sum(axis=1)
    present = np.asarray(found.observations)[found.present]
    claim = f"noise multiplier {promised:.4g} of the ledger"
    return [
        verification.check_noise_scale(alone, noise_multiplier=promised, significance=share, claim_text=claim),
        verification.check_noise_shape(alone, noise_multiplier=promised, significance=share),
        verification.check_noise_shared(values, shown, significance=share, rows="local steps"),
        *([_between_clients(found, ~coins, canary_client, share)] if client_noise.shape[1] > 1 else []),
        verification.check_noise_overlap(values, used=shown, significance=share),
        verification.check_noise_rounds(
            squares[counts > 0], counts[counts > 0], noise_multiplier=promised, significance=share
        ),
        *_on_the_model(ledger, client_noise, model_noise, promised, share),
        verification.check_contribution(present, noise_multiplier=promised, significance=share),
    ]


def _between_clients(found: Releases, idle: Bools, canary_client: NDArray[np.int64], share: float) -> CheckResult:
    """Test that no two clients share noise: rows are clients, columns a place in a client's noise in one step.

    A place counts all canaries of a client in their order, as its noise does; only those that are out are looked at.
    """
    order = np.argsort(canary_client, kind="stable")
    owner = canary_client[order]
    clients, first, row = np.unique(owner, return_index=True, return_inverse=True)
    place = np.arange(owner.size) - first[row]
    values, shown = np.asarray(found.observations)[:, order], (found.released & idle)[:, order]
    noise = np.zeros((clients.size, len(values), int(place.max(initial=0)) + 1))
    mask = np.zeros(noise.shape, dtype=np.bool_)
    noise[row, :, place], mask[row, :, place] = values.T, shown.T
    shape = clients.size, noise[0].size
    return verification.check_noise_shared(
        noise.reshape(shape), mask.reshape(shape), significance=share, check="noise.clients", rows="clients"
    )


def _on_the_model(
    ledger: PrivacyLedger, client_noise: Floats, model_noise: tuple[Floats, int], promised: float, share: float
) -> list[CheckResult]:
    """Test the noise on the model's own coordinates: in each client's update, and in the sum of a round's updates."""
    sums, parameters = model_noise
    known = np.isfinite(client_noise)
    accepted = sum(int(entry.facts.get("realised_units", 0)) for entry in _last_attempts(ledger))
    each = verification.check_noise_rounds(
        client_noise[known], np.full(int(known.sum()), parameters), noise_multiplier=promised, significance=share,
        check="noise.model", where="the model's own coordinates, in the update of a client",
    )  # fmt: skip
    if int(known.sum()) != accepted and each.status == Status.PASS:
        text = f"{accepted} updates were accepted, the noise of {int(known.sum())} is known; {each.detail}"
        each = replace(each, status=Status.INCONCLUSIVE, detail=text)
    used = np.isfinite(sums) & known.any(axis=1)
    spread = verification.check_noise_spread(
        sums[used], np.full(int(used.sum()), parameters), noise_multiplier=promised, significance=share,
        check="noise.model-sum", where="the sum of a round's updates",
    )  # fmt: skip
    return [each, spread]


def _last_attempts(ledger: PrivacyLedger) -> list[LedgerEntry]:
    last = {entry.facts["round"]: entry for entry in ledger.events() if "round" in entry.facts}
    return list(last.values())


def check_sampling(
    config: RunConfig, run: TrainingRun, participation: Bools, client_of: NDArray[np.int64], *, significance: float
) -> list[CheckResult]:
    """Test the clients of every round against their public coin, and the examples of every local step against theirs.

    `participation` is (rounds x steps, examples): whoever takes part in two steps of a round has two coins.
    """
    training, there = config.training, run.step_eligible()
    strangers = int(np.count_nonzero(participation & ~there[:, client_of]))
    absent = CheckResult(
        id="sampling.eligible", status=Status.FAIL if strangers else Status.PASS, statistic=float(strangers),
        threshold=0.0, detail=f"{strangers} participations of examples whose client was not there.",
        refuted="the claimed sampler" if strangers else None, significance=significance,
    )  # fmt: skip
    joining = training.client_sampling_rate * (1 - training.dropout_rate)
    clients = verification.check_sampling(run.eligible, sampling_rate=joining, significance=significance / 2)
    named = [replace(result, id=result.id.replace("sampling.", "sampling.client-", 1)) for result in clients]
    counts = verification.counts_given(there, participation, client_of)
    examples = verification.check_counts(
        counts, sampling_rate=training.example_sampling_rate, significance=significance / 2, level="example-"
    )
    return [absent, *named, *examples]
