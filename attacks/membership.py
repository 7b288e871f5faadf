"""The join of scores with membership. Only the pipeline and the command line call this; attacks never do."""

import numpy as np
from numpy.typing import NDArray

from dpaudit.attacks import registry
from dpaudit.attacks.base import Floats, Observed
from dpaudit.errors import DataError
from dpaudit.records import ScoreSet


def scores_of(attack: str, observed: Observed) -> Floats:
    """Run the named attack; return one finite score per unit.

    Raises: UsageError for an unknown name, DataError when the attack lacks what it needs or returns wrong scores.
    """
    scores = np.asarray(registry.make(attack).score(observed), dtype=np.float64)
    if scores.shape != (observed.units,):
        raise DataError(
            f"the attack {attack!r} must return {observed.units} scores, one per unit; got shape {scores.shape}."
        )
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise DataError(f"the attack {attack!r} returned {bad} scores that are NaN or infinite.")
    return scores


def split(scores: Floats, is_member: NDArray[np.bool_]) -> ScoreSet:
    """Split scores (units,) by membership (units,).

    Raises: DataError if the shapes differ or one side is empty.
    """
    member = np.asarray(is_member)
    if member.dtype != np.bool_ or member.shape != np.shape(scores):
        raise DataError(f"is_member must be bool of shape {np.shape(scores)}; got {member.dtype} {member.shape}.")
    if not member.any() or member.all():
        raise DataError(f"an attack needs members and non-members; got {member.sum()} and {(~member).sum()}.")
    return ScoreSet(member=np.asarray(scores)[member], non_member=np.asarray(scores)[~member])
