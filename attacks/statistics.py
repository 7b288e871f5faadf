"""Per-example statistics of a model's outputs, stable from logits; last axis is the classes."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]
_BLOCK = 1 << 22  # values held in float64 at a time


def _label_and_others(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Return the logit of the label, and a copy of all logits with the label's set to minus infinity."""
    others = np.array(logits, dtype=np.float64)
    at = np.asarray(labels)[..., None]
    own = np.take_along_axis(others, at, axis=-1)[..., 0]
    np.put_along_axis(others, at, -np.inf, axis=-1)
    return own, others


def log_probability(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return log p(label), the negative cross entropy, shape (n,)."""
    wide = np.asarray(logits, dtype=np.float64)
    own = np.take_along_axis(wide, np.asarray(labels)[:, None], axis=1)[:, 0]
    return np.asarray(own - logsumexp(wide, axis=1))


def logit_confidence(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return phi = log(p_y / (1 - p_y)) = logit_y - logsumexp(other logits), shape (n,).

    Carlini et al. 2022 (arXiv:2112.03570, section V): this statistic is close to Gaussian, where the loss is not.
    """
    own, others = _label_and_others(logits, labels)
    return np.asarray(own - logsumexp(others, axis=-1))


def reference_log_probability(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return `log_probability` of every reference model, shape (R, n)."""
    return np.stack([log_probability(model, labels) for model in logits])


def reference_logit_confidence(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return phi of every reference model, shape (R, n); models are taken in blocks to bound memory."""
    step = max(1, _BLOCK // max(1, logits[0].size))
    blocks = [logits[start : start + step] for start in range(0, len(logits), step)]
    return np.concatenate([logit_confidence(block, np.broadcast_to(labels, block.shape[:2])) for block in blocks])


def margin(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return the logit of the label minus the largest other logit, shape (n,)."""
    own, others = _label_and_others(logits, labels)
    return np.asarray(own - others.max(axis=1))


def modified_entropy(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return the modified entropy of Song and Mittal (arXiv:2003.10595, section 4.2), shape (n,); low for members.

    -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i), with log(1 - p) taken from the logits.
    """
    wide = np.asarray(logits, dtype=np.float64)
    log_p = wide - logsumexp(wide, axis=1, keepdims=True)
    log_rest = _log_one_minus(log_p)
    at = np.asarray(labels)[:, None]
    own = -np.exp(np.take_along_axis(log_rest, at, 1)) * np.take_along_axis(log_p, at, 1)
    terms = -np.exp(log_p) * log_rest
    np.put_along_axis(terms, at, 0.0, axis=1)
    return np.asarray(own[:, 0] + terms.sum(axis=1))


def _log_one_minus(log_p: Floats) -> Floats:
    """Return log(1 - p) of each class: exact also for the largest, whose p may round to 1."""
    plain = np.log1p(-np.minimum(np.exp(log_p), 0.5))  # only the largest can exceed 1/2
    largest = np.argmax(log_p, axis=1)[:, None]
    others = np.array(log_p)
    np.put_along_axis(others, largest, -np.inf, axis=1)
    np.put_along_axis(plain, largest, logsumexp(others, axis=1)[:, None], axis=1)
    return np.asarray(plain)


def entropy(logits: NDArray[np.floating]) -> Floats:
    """Return the Shannon entropy of the predicted probabilities in nats, shape (n,)."""
    wide = np.asarray(logits, dtype=np.float64)
    log_p = wide - logsumexp(wide, axis=1, keepdims=True)
    return np.asarray(-(np.exp(log_p) * log_p).sum(axis=1))
