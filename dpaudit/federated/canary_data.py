"""The examples of data canaries, and where they come from: never from the data of a protected unit.

A canary that was a copy of a training example would hand that example to the sum a second time, under the clip of
another unit: the example would be protected half as well as claimed. So `blank` and `feature` canaries are made of
nothing, and `mislabelled` ones of hold-out units that are set aside: each serves one canary and is no non-member of
the attacks any more.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpaudit import _rng
from dpaudit.config import CanaryFamily
from dpaudit.errors import DataError, UsageError

if TYPE_CHECKING:
    from dpaudit.federated.data import Dataset

MISLABELLED = "mislabelled"


def with_private_features(data: "Dataset", count: int) -> "Dataset":
    """Return the data with `count` features more, all 0: the private one-hot features of `feature` canaries.

    The model must be built for the wider input.

    Raises: UsageError unless the features are vectors.
    """
    if data.x.ndim != 2:
        raise UsageError(
            f"canaries of kind 'feature' need examples that are vectors; these have shape {data.x.shape[1:]}. "
            "Use another kind of canaries."
        )
    return replace(data, x=np.pad(data.x, ((0, 0), (0, count))))


def set_aside(holdout: "Dataset", count: int, *, by_client: bool, root: int) -> tuple["Dataset", "Dataset"]:
    """Take `count` units out of the hold-out data for mislabelled canaries; return (originals, the rest).

    `originals.client` is the number 0..count-1 of the canary. Units are examples, or devices (`by_client`).

    Raises: DataError when that is more than half of the units.
    """
    unit_of = np.asarray(holdout.client) if by_client else np.arange(holdout.y.size, dtype=np.int32)
    units, what = int(unit_of.max()) + 1, "devices" if by_client else "examples"
    if count > units // 2:
        raise DataError(
            f"{count} mislabelled canaries need as many of the {units} held-out {what}, and at most half of them are "
            f"set aside. Use at most {units // 2} such canaries, or a larger data.holdout_fraction."
        )
    number = np.full(units, -1, dtype=np.int32)
    number[_rng.stream(root, "canary-originals").permutation(units)[:count]] = np.arange(count, dtype=np.int32)
    canary = number[unit_of]
    taken = np.flatnonzero(canary >= 0)
    taken = taken[np.argsort(canary[taken], kind="stable")]
    rest = holdout.take(np.flatnonzero(canary < 0))
    if by_client:
        rest = replace(rest, client=np.unique(np.asarray(rest.client), return_inverse=True)[1].astype(np.int32))
    return replace(holdout.take(taken), client=canary[taken]), rest


def canary_examples(
    family: CanaryFamily, train: "Dataset", originals: "Dataset | None" = None, *, first_feature: int = 0, root: int
) -> "Dataset":
    """Return the examples of the canaries 0..count-1 of a data family; `client` says whose each is.

    Args:
        family: its configuration.
        train: the training data: their shape and number of classes, nothing else.
        originals: the hold-out examples of `mislabelled` canaries, `client` from 0.
        first_feature: place of the first private feature of a `feature` family.
        root: root seed.

    Raises: UsageError for more blank canaries than classes (they would be copies of each other, and say nothing about
        each other's coins), or a single class where a wrong label is needed.
    """
    rng = _rng.stream(root, f"canary-examples/{family.name}")
    name = f"{train.name} ({family.name} canaries)"
    if family.kind == MISLABELLED:
        if originals is None or train.classes < 2:
            raise UsageError("mislabelled canaries need two classes or more, and hold-out examples that are set aside.")
        kept = _first_of_each(np.asarray(originals.client), family.examples)
        shift = rng.integers(1, train.classes, size=family.count)
        copies = originals.take(kept)
        wrong = (copies.y + shift[np.asarray(copies.client)]) % train.classes
        return replace(copies, y=wrong.astype(np.int32), name=name)
    owner = np.repeat(np.arange(family.count, dtype=np.int32), family.examples or 1)
    x = np.zeros((owner.size, *train.x.shape[1:]), dtype=train.x.dtype)
    if family.kind == "blank":
        if family.count > train.classes:
            raise UsageError(
                f"blank canaries differ by their label only: at most {train.classes} are possible, got {family.count}."
            )
        return replace(train, x=x, y=owner.copy(), client=owner, name=name)
    labels = rng.integers(train.classes, size=family.count).astype(np.int32)
    x[np.arange(owner.size), first_feature + owner] = family.value
    return replace(train, x=x, y=labels[owner], client=owner, name=name)


def _first_of_each(owner: NDArray[np.int32], limit: int | None) -> NDArray[np.int64]:
    """Return the positions of the first `limit` examples of each owner; `owner` is sorted."""
    place = np.arange(owner.size) - np.searchsorted(owner, owner)
    return np.flatnonzero(place < (owner.size if limit is None else limit))
