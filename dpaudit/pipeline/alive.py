"""Would the attack have seen anything? The control beside every audit: the same attacks on a twin without privacy.

The twin is trained on balanced halves of the same kind of records until it fits, without clipping or noise. Some of the
records, inside and outside, carry wrong labels: planted canaries, which a model can only know by heart. An attack is
alive when it tells the twin's members from its non-members, among the ordinary records or among the canaries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.attacks import registry
from dpaudit.attacks.base import EARLIER_MODEL, GRADIENTS, LABEL_QUERIES, POPULATION, REFERENCE_MODELS, Observed
from dpaudit.attacks.membership import scores_of, split
from dpaudit.attacks.subset import with_population
from dpaudit.config import ModelSection
from dpaudit.errors import DataError, DpauditError
from dpaudit.estimation.auc import exact_auc, exact_interval
from dpaudit.federated.reference import balanced_masks
from dpaudit.federated.twins import Twins, train_twins
from dpaudit.records import CheckResult, Status

CHECK_ID = "attack.alive"
SIGNIFICANCE = 0.01

_MOST_EXAMPLES = 4000
_CANARIES = 60  # planted, at least
_SHARE = 0.1
_FEWEST_REFERENCES = 8
_EPOCHS, _BATCH, _RATE = 60, 64, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A twin as attackers see it, who was in it, which units are canaries, and which are scored at all."""

    observed: Observed
    is_member: NDArray[np.bool_]
    canary: NDArray[np.bool_]


def check_alive(
    section: ModelSection,
    x: NDArray[np.floating],
    y: NDArray[np.integer],
    unit: NDArray[np.integer] | None,
    attacks: Sequence[str],
    *,
    classes: int,
    root: int,
    references: int = _FEWEST_REFERENCES,
) -> CheckResult:
    """Run attacks on a non-private twin; see docs/attacks.md for the fields of the result.

    Args:
        section: architecture of the twin.
        x: records (n, ...), numbers.
        y: labels (n,).
        unit: privacy unit of each record (n,), or None.
        attacks: names of the attacks that gave a result on the audited model.
        classes: number of classes.
        root: root seed.
        references: reference models to train beside the twin, for attacks that need them (at least 8 are).

    Returns: INCONCLUSIVE, with the reason, when an attack is not alive or the control could not run; never FAIL.
    """
    if not attacks:
        return _silent("no attack gave a result on the audited model, so none was tried on a control")
    try:
        control = make_control(section, x, y, unit, attacks, classes=classes, root=root, references=references)
    except DpauditError as error:
        return _silent(f"the control could not run: {error}")
    told = [_alive(name, control) for name in attacks]
    dead = [name for name, (limit, _, _) in zip(attacks, told, strict=True) if limit <= 0.5]
    text = "; ".join(f"{name}: {words}" for name, (_, _, words) in zip(attacks, told, strict=True))
    head = f"not alive on the control: {', '.join(dead)}. " if dead else ""
    return CheckResult(
        id=CHECK_ID,
        status=Status.INCONCLUSIVE if dead else Status.PASS,
        statistic=min(limit for limit, _, _ in told),
        threshold=0.5,
        detail=f"{head}AUC on a non-private twin (p-value of chance {max(p for _, p, _ in told):.2g}), {text}",
        significance=SIGNIFICANCE,
        n=len(control.is_member),
    )


def _silent(reason: str) -> CheckResult:
    return CheckResult(id=CHECK_ID, status=Status.INCONCLUSIVE, detail=reason, threshold=0.5, significance=SIGNIFICANCE)


def _alive(name: str, control: Control) -> tuple[float, float, str]:
    """Return the larger lower limit of AUC of the two groups, the p-value of both together, and words."""
    try:
        scores = scores_of(name, control.observed)
    except DpauditError as error:
        return 0.0, 1.0, f"did not run ({error})"
    limits, p_values, words = [0.0], [1.0], []
    for what, chosen in (("ordinary records", ~control.canary), ("planted canaries", control.canary)):
        if not 0 < control.is_member[chosen].sum() < chosen.sum():
            continue
        sides = split(scores[chosen], control.is_member[chosen])
        auc, n = exact_auc(sides), min(sides.member.size, sides.non_member.size)
        limits.append(exact_interval(sides, 1 - SIGNIFICANCE)[0])  # one-sided error significance / 2
        p_values.append(math.exp(-n * _divergence_from_half(auc)) if auc > 0.5 else 1.0)
        words.append(f"{auc:.3f} on {chosen.sum()} {what}")
    return max(limits), min(1.0, 2 * min(p_values)), ", ".join(words)


def _divergence_from_half(p: float) -> float:
    """Return the Kullback-Leibler divergence of a coin with probability p from a fair one."""
    return math.log(2) + (p * math.log(p) if p > 0 else 0.0) + ((1 - p) * math.log1p(-p) if p < 1 else 0.0)


def make_control(
    section: ModelSection,
    x: NDArray[np.floating],
    y: NDArray[np.integer],
    unit: NDArray[np.integer] | None,
    attacks: Sequence[str],
    *,
    classes: int,
    root: int,
    references: int = _FEWEST_REFERENCES,
) -> Control:
    """Train the twin and its reference models, and observe it as `attacks` need; arguments as `check_alive`.

    Raises: DataError for records that are no numbers, or fewer than 40 units.
    """
    rng = _rng.stream(root, "control")
    x, y, unit = _some_units(rng, x, y, unit)
    units = int(unit.max()) + 1
    if units < 40:
        raise DataError(f"a control needs at least 40 units; got {units}.")
    canary = np.zeros(units, dtype=np.bool_)
    canary[rng.permutation(units)[: min(max(_CANARIES, int(_SHARE * units)), units // 2)]] = True
    wrong = (y + rng.integers(1, classes, size=y.size)) % classes
    labels = np.where(canary[unit], wrong, y).astype(np.int32)
    beside = max(references, _FEWEST_REFERENCES) if REFERENCE_MODELS in _needs(attacks) else 0
    inside = balanced_masks(rng, models_count=1 + beside, units=units)
    inside[0] = _halves(rng, canary)
    known = _known_outside(rng, inside[0], canary) if POPULATION in _needs(attacks) else np.zeros(units, dtype=np.bool_)
    inside[:, known] = False
    twins = train_twins(
        section, x, labels, inside[:, unit], classes=classes, root=root, epochs=_EPOCHS, batch=_BATCH,
        learning_rate=_RATE,
    )  # fmt: skip
    observed = _observe(twins, x, labels, unit, inside, known, attacks)
    return Control(observed=observed, is_member=inside[0][~known], canary=canary[~known])


def _some_units(
    rng: np.random.Generator, x: NDArray[np.floating], y: NDArray[np.integer], unit: NDArray[np.integer] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the records of random whole units, about 4000 at most, with units numbered anew."""
    try:
        wide = np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the records must be numbers to train a twin on; got {np.asarray(x).dtype}.") from error
    if not np.isfinite(wide).all():
        raise DataError("the records hold NaN or infinity, so that no twin can be trained on them.")
    whole = np.arange(len(y)) if unit is None else unit
    order = rng.permutation(int(whole.max()) + 1)
    taken = order[np.cumsum(np.bincount(whole)[order]) <= _MOST_EXAMPLES]
    keep = np.flatnonzero(np.isin(whole, taken))
    return wide[keep], np.asarray(y)[keep].astype(np.int64), np.unique(whole[keep], return_inverse=True)[1]


def _halves(rng: np.random.Generator, canary: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Put exactly half of the canaries and half of the others in."""
    inside = np.zeros(canary.size, dtype=np.bool_)
    for group in (np.flatnonzero(canary), np.flatnonzero(~canary)):
        inside[rng.permutation(group)[: group.size // 2]] = True
    return inside


def _needs(attacks: Sequence[str]) -> frozenset[str]:
    return frozenset(need for name in attacks for need in registry.make(name).needs)


def _known_outside(rng: np.random.Generator, inside: NDArray[np.bool_], canary: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Choose half of the ordinary units outside the twin: those that the attacker knows to be outside."""
    known = np.zeros(inside.size, dtype=np.bool_)
    out = rng.permutation(np.flatnonzero(~inside & ~canary))
    known[out[: out.size // 2]] = True
    return known


def _observe(
    twins: Twins,
    x: NDArray[np.float32],
    y: NDArray[np.int32],
    unit: NDArray[np.int64],
    inside: NDArray[np.bool_],
    known: NDArray[np.bool_],
    attacks: Sequence[str],
) -> Observed:
    logits, needs = twins.logits(x), _needs(attacks)
    facts: dict[str, NDArray[np.float64]] = {}
    if needs & {GRADIENTS, EARLIER_MODEL}:
        from dpaudit.attacks.gradients import gradient_facts

        start = twins.keras_model(0, at_start=True) if EARLIER_MODEL in needs else None
        facts = gradient_facts(twins.keras_model(0), x, y, earlier=start)
    observed = Observed(
        logits=logits[0],
        labels=y,
        unit=unit,
        reference_logits=logits[1:] if len(logits) > 1 else None,
        reference_in=inside[1:] if len(logits) > 1 else None,
        x=x,
        label_oracle=(lambda records: twins.labels(0, records)) if LABEL_QUERIES in needs else None,
        gradient_norm=facts.get("gradient_norm"),
        gradient_alignment=facts.get("gradient_alignment"),
    )
    return with_population(observed, known) if known.any() else observed
