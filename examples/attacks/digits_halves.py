"""Digits in two random halves: members, which the examples train on, and non-members."""

import numpy as np
from sklearn.datasets import load_digits


def halves(seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return ((x, y) of members, (x, y) of non-members), and write both where `dpaudit attack` can read them."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x, y = (data.data[order] / 16).astype(np.float32), data.target[order].astype(np.int64)
    half = len(y) // 2
    np.savez("members.npz", x=x[:half], y=y[:half])
    np.savez("non_members.npz", x=x[half:], y=y[half:])
    return (x[:half], y[:half]), (x[half:], y[half:])
