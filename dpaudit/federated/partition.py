"""How examples are spread over clients: IID, Dirichlet over labels, or by a column; and how many each may bring."""

import numpy as np
from numpy.typing import NDArray

from dpaudit.errors import DataError

Ints = NDArray[np.int32]
_ATTEMPTS = 100


def iid(rng: np.random.Generator, *, n: int, clients: int) -> Ints:
    """Return the client of each of `n` examples: shuffled, then dealt out evenly.

    Raises: DataError when there are fewer examples than clients (somebody would be empty).
    """
    _refuse_too_few(n, clients)
    return np.asarray(rng.permutation(np.arange(n, dtype=np.int32) % np.int32(clients)))


def dirichlet(rng: np.random.Generator, labels: Ints, *, clients: int, alpha: float) -> Ints:
    """Return the client of each example; every label is spread over the clients by Dirichlet(alpha) shares.

    Small `alpha` gives each client few labels (Li et al., arXiv:2102.02079, section 4, "distribution-based label
    imbalance"). A draw that leaves a client empty is drawn anew, up to 100 times.

    Raises: DataError when there are fewer examples than clients, or every draw left a client empty.
    """
    _refuse_too_few(labels.size, clients)
    for _ in range(_ATTEMPTS):
        owner = _dirichlet_once(rng, labels, clients, alpha)
        if np.bincount(owner, minlength=clients).min() > 0:
            return owner
    raise DataError(
        f"empty client: {_ATTEMPTS} Dirichlet partitions of {labels.size} examples over {clients} clients all left "
        f"a client without examples at alpha = {alpha:g}. Use fewer clients, a larger alpha, or kind = 'iid'."
    )


def _dirichlet_once(rng: np.random.Generator, labels: Ints, clients: int, alpha: float) -> Ints:
    owner = np.empty(labels.size, dtype=np.int32)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * members.size
        owner[members] = np.searchsorted(ends, np.arange(members.size) + 0.5)
    return owner


def bounded(rng: np.random.Generator, client: Ints, *, limit: int) -> NDArray[np.int64]:
    """Return the positions, in order, of at most `limit` examples of each client, chosen at random.

    The bound on what one user contributes. Which examples stay does not depend on what is in them. It bounds the work
    and the weight of heavy users; privacy does not rest on it, for the clip bounds every unit's contribution.
    """
    order = np.lexsort((rng.random(client.size), client))
    owner = client[order]
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    sizes = np.diff(np.r_[starts, client.size])
    rank = np.arange(client.size) - np.repeat(starts, sizes)
    return np.sort(order[rank < limit])


def renumber(client: NDArray[np.generic]) -> tuple[Ints, int]:
    """Return client ids renumbered 0..K-1 in the order of the old ids, and K."""
    old, new = np.unique(client, return_inverse=True)
    return new.astype(np.int32), int(old.size)


def _refuse_too_few(n: int, clients: int) -> None:
    if n < clients:
        raise DataError(
            f"empty client: {n} examples cannot reach {clients} clients. Use at most {n} clients, or more data."
        )
