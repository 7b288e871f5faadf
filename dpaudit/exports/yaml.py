"""A small YAML writer for plain data: block style, every text quoted as JSON (which YAML 1.2 is a superset of)."""

import json
from typing import Any

from dpaudit.errors import DataError


def dump(value: Any, indent: int = 0) -> str:
    """Return plain data (mappings, lists, text, numbers, booleans, None) as YAML."""
    pad = "  " * indent
    if isinstance(value, dict):
        return "".join(f"{pad}{_key(key)}:{_below(item, indent)}" for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"{pad}-{_below(item, indent)}" for item in value)
    return f"{pad}{_scalar(value)}\n"


def _below(value: Any, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + dump(value, indent + 1)
    return f" {_scalar(value)}\n"


_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""Words that YAML 1.1 does not take for text."""


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "a").replace("-", "a").isalpha() and key.lower() not in _WORDS
    return key if plain else json.dumps(key)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool | int | str) or value in ([], {}):
        return json.dumps(value)
    if isinstance(value, float):
        text = json.dumps(value, allow_nan=False)
        mantissa, e, exponent = text.partition("e")  # YAML 1.1 takes 1e-05 for text: it wants a point and a sign
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}{e}{exponent}"
    raise DataError(f"cannot write {type(value).__name__} as YAML.")
