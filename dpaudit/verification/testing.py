"""Assertions for the test suites of library authors: deterministic for a seed, with a stated chance of a false alarm.

    from dpaudit.verification.testing import assert_private

    def test_my_mechanism():
        assert_private(my_mechanism, epsilon=1.0, delta=1e-5)

A mechanism or step that could not be tested well enough does not pass either: an inconclusive result raises too,
unless `allow_inconclusive` is set.
"""

from collections.abc import Callable, Iterable

from dpaudit.records import CheckResult, Status
from dpaudit.verification._step_types import Step, StepClaim
from dpaudit.verification.claims import PrivacyClaim
from dpaudit.verification.draws import Mechanism
from dpaudit.verification.mechanism import MechanismSubject, check_mechanism
from dpaudit.verification.neighbours import SUMS, Pairs
from dpaudit.verification.step import check_step

FLAKE_PROBABILITY = 1e-6
"""Probability that an honest mechanism or step fails such a test, for a fresh seed."""


def assert_private(
    mechanism: Mechanism | MechanismSubject,
    pairs: Pairs | None = None,
    *,
    epsilon: float | None = None,
    delta: float = 0.0,
    claim: PrivacyClaim | None = None,
    max_pairs: int = 20_000,
    float_bits: bool = False,
    flake_probability: float = FLAKE_PROBABILITY,
    allow_inconclusive: bool = False,
    seed: int = 0,
) -> CheckResult:
    """Raise AssertionError if a mechanism is refuted (or could not be tested); return the result otherwise.

    Arguments as `check_mechanism`; without pairs, the data sets are the numbers 0 and 1 (a sum of sensitivity 1), or
    those that a `MechanismSubject` brings along. Give the mechanism an `rng` parameter to make the test deterministic.
    """
    subject = (
        mechanism if isinstance(mechanism, MechanismSubject) else MechanismSubject(mechanism=mechanism, pairs=SUMS)
    )
    result = check_mechanism(
        subject.mechanism,
        subject.pairs if pairs is None else pairs,
        epsilon,
        delta,
        claim=claim,
        significance=flake_probability,
        max_pairs=max_pairs,
        float_bits=float_bits,
        seed=seed,
    )
    _raise_unless_passed([result], flake_probability, allow_inconclusive=allow_inconclusive)
    return result


def assert_private_step(
    step_factory: Callable[[], Step],
    claim: StepClaim | float,
    *,
    flake_probability: float = FLAKE_PROBABILITY,
    allow_inconclusive: bool = False,
    seed: int = 0,
) -> list[CheckResult]:
    """Raise AssertionError if a training step is refuted (or could not be tested); return the results otherwise.

    Arguments as `check_step`.
    """
    results = check_step(step_factory, claim, significance=flake_probability, seed=seed)
    _raise_unless_passed(results, flake_probability, allow_inconclusive=allow_inconclusive)
    return results


def _raise_unless_passed(results: Iterable[CheckResult], flake_probability: float, *, allow_inconclusive: bool) -> None:
    accepted = {Status.PASS, Status.INCONCLUSIVE} if allow_inconclusive else {Status.PASS}
    wrong = [result for result in results if result.status not in accepted]
    if wrong:
        lines = [f"{result.status.value.upper()} {result.id}: {result.detail}" for result in wrong]
        lines.append(f"(an honest one fails with probability {flake_probability:g} for a fresh seed)")
        raise AssertionError("\n".join(lines))
