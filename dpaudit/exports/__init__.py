"""The verdict and the numbers behind it in the forms of others: model cards, bills of materials, registries, trackers.

Each export says what the verdict was; none of them turns a verdict that is not PASS into a claim without that word.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dpaudit.errors import UsageError

EXPORTS: Mapping[str, str] = {
    "hf-card": "dpaudit.exports.model_card",
    "cyclonedx": "dpaudit.exports.cyclonedx",
    "dp-registry": "dpaudit.exports.registry",
}
"""Exports that are text, and the modules that hold their `render(evidence, verdict, ...)`."""


def exporter(kind: str) -> Any:
    """Return the module of an export; raise UsageError if there is none of that name."""
    if kind not in EXPORTS:
        raise UsageError(f"there is no export {kind!r}; the exports are {', '.join(EXPORTS)}.")
    return import_module(EXPORTS[kind])
