"""Turn pydantic's errors on TOML input into sentences with line numbers and the nearest valid key."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-.\"']+)\s*=")


def locate(text: str) -> dict[str, int]:
    """Map dotted keys (list items by index) to their line numbers, by a scan that is good enough for messages."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if table := _TABLE.match(line):
            prefix = table[2].replace('"', "")
            if table[1] == "[[":
                counts[prefix] = counts.get(prefix, -1) + 1
                prefix = f"{prefix}.{counts[prefix]}"
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            name = key[1].replace('"', "")
            lines.setdefault(f"{prefix}.{name}" if prefix else name, number)
    return lines


def _line(path: list[str], lines: Mapping[str, int]) -> str:
    for length in range(len(path), 0, -1):
        if number := lines.get(".".join(path[:length])):
            return f"line {number}: "
    return ""


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """Follow field names (and list indices) down to the model that holds the last part of the path."""
    current: Any = model
    for part in path:
        if part.isdigit():
            continue
        field = current.model_fields.get(part)
        if field is None:
            return None
        candidates = [field.annotation, *get_args(field.annotation)]
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return None
        current = found[0]
    return current  # type: ignore[no-any-return]


def _suggest(model: type[BaseModel], path: list[str]) -> str:
    parent = _model_at(model, path[:-1])
    if parent is None:
        return ""
    near = difflib.get_close_matches(path[-1], parent.model_fields, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known keys: {', '.join(parent.model_fields)}."


def problems_of(error: ValidationError, model: type[BaseModel], lines: Mapping[str, int]) -> list[str]:
    """Return one sentence for each problem, with its line where it is known."""
    problems = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        name = ".".join(path) or "configuration"
        if item["type"] == "extra_forbidden":
            text = f"unknown key {name!r}.{_suggest(model, path)}"
        elif item["type"] == "missing":
            text = f"missing key {name!r}."
        elif item["type"] == "value_error":
            text = f"{item['msg'].removeprefix('Value error, ')}."
        else:
            text = f"{name}: {item['msg']}; got {item['input']!r}."
        problems.append(_line(path, lines) + text)
    return list(dict.fromkeys(problems))
