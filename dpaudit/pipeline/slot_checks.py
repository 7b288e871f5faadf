"""The checks of samplers that choose among slots: units first, then canaries, whatever their coins say."""

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng, events, verification
from dpaudit.config import RunConfig, TrainingSection
from dpaudit.federated.sampling import sample_size
from dpaudit.records import CheckResult, Status
from dpaudit.verification.sampler_claims import Sampler, check_sampler

Bools = NDArray[np.bool_]
_REPEATS = 1999


def _exact(check: str, wrong: int, what: str, refuted: str, n: int) -> CheckResult:
    return CheckResult(
        id=check,
        status=Status.FAIL if wrong else Status.PASS,
        statistic=float(wrong),
        threshold=0.0,
        detail=f"{wrong} {what}",
        refuted=refuted if wrong else None,
        n=n,
    )


def check_canary_slots(*, coins: Bools, participation: Bools, chosen: Bools, eligible: Bools) -> CheckResult:
    """Test that exactly those canaries took part whose coin says in, who were chosen, and whose client answered."""
    wrong = int(np.count_nonzero(participation != (chosen & eligible & coins)))
    return _exact(
        "sampling.canary-chosen",
        wrong,
        "participations of canaries differ from what their coins and the sampler of all units say",
        "canaries are sampled by the sampler of real units",
        int(participation.size),
    )


def check_slots(
    config: RunConfig, *, drawn: Bools, chosen: Bools, participation: Bools, significance: float, root: int
) -> list[CheckResult]:
    """Test the record of slots against the configured sampler, and the participants against the chosen.

    Args:
        config: the run.
        drawn: whom the sampler drew, (rounds, slots).
        chosen: whom it left in after a cut to the largest cohort, (rounds, slots).
        participation: which real units took part, (rounds, units).
        significance: false-alarm probability of all results together.
        root: root seed of the run, for permutations.
    """
    training, slots = config.training, drawn.shape[1]
    strangers = int(np.count_nonzero(participation & ~chosen[:, : participation.shape[1]]))
    invited = _exact(
        "sampling.invited", strangers, "participations of units that the sampler had not chosen",
        "only chosen units take part", int(participation.size),
    )  # fmt: skip
    if training.sampler == "poisson-padded":
        found = verification.check_sampling(drawn, sampling_rate=training.unit_rate, significance=significance / 2)
        return [invited, *found, *_check_cut(training, drawn, chosen, participation.shape[1], significance / 2, root)]
    batches = [np.flatnonzero(row) for row in chosen]
    found = check_sampler(
        batches, population=slots, sampler=_claim(training, slots), significance=significance,
        seed=_rng.seed_of(root, "sampler-check"),
    )  # fmt: skip
    return [invited, *found]


def _claim(training: TrainingSection, slots: int) -> Sampler:
    if training.sampler == "shuffle":
        return events.ShuffledBatches(event=events.NoOp(), batches=training.batches_per_pass)
    size = sample_size(training, slots)
    return events.SampledWithoutReplacement(population=slots, sample_size=size, event=events.NoOp())


def _check_cut(
    training: TrainingSection, drawn: Bools, chosen: Bools, units: int, share: float, root: int
) -> list[CheckResult]:
    """Test that cohorts were cut to the limit exactly, and that canaries were cut as often as others."""
    sizes, limit = drawn.sum(axis=1), training.cohort_limit or drawn.shape[1]
    wrong = int(np.count_nonzero(chosen & ~drawn)) + int(np.count_nonzero(chosen.sum(axis=1) != sizes.clip(max=limit)))
    refuted = f"Poisson cohorts are cut at random to {limit}"
    exact = _exact("sampling.cut", wrong, f"slots or rounds that no cut to {limit} explains", refuted, len(drawn))
    cut = drawn & ~chosen
    rounds = np.flatnonzero(cut.any(axis=1))
    if not rounds.size or units == drawn.shape[1]:
        return [exact]
    observed = int(cut[:, units:].sum())
    fakes, lost = drawn[rounds, units:].sum(axis=1), cut[rounds].sum(axis=1)
    rng = _rng.stream(root, "cut-check")
    draws = rng.hypergeometric(fakes, sizes[rounds] - fakes, lost, size=(_REPEATS, rounds.size)).sum(axis=1)
    tails = 1 + np.array([np.count_nonzero(draws <= observed), np.count_nonzero(draws >= observed)])
    p_value = min(1.0, 2 * float(tails.min()) / (_REPEATS + 1))
    fair = CheckResult(
        id="sampling.cut-fairness",
        status=Status.FAIL if p_value <= share else Status.PASS,
        statistic=float(observed),
        p_value=p_value,
        detail=f"{observed} canaries among {int(lost.sum())} units that were cut, {draws.mean():.1f} expected",
        refuted=refuted if p_value <= share else None,
        significance=share,
        n=int(lost.sum()),
    )
    return [exact, fair]
