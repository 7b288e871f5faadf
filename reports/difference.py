"""What differs between two bundles, item by item; it judges nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dpaudit import serialize
from dpaudit.evidence import Evidence
from dpaudit.reports.clean import short


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One item that differs; `before` or `after` is None where a bundle does not have it."""

    item: str
    before: Any
    after: Any


def differences(before: Evidence, after: Evidence) -> list[Difference]:
    """Return every item of claim, accounting, bounds, attacks, checks, power and facts that differs, by name."""
    one, other = dict(_items(before)), dict(_items(after))
    names = [*one, *(name for name in other if name not in one)]
    return [
        Difference(item=name, before=one.get(name), after=other.get(name))
        for name in names
        if one.get(name) != other.get(name)
    ]


def _items(bundle: Evidence) -> Iterator[tuple[str, Any]]:
    yield from _flat("claim", serialize.to_jsonable(bundle.claim))
    if bundle.accounting is not None:
        numbers = serialize.to_jsonable(bundle.accounting)
        kept = ("delta", "relation", "epsilon_pld", "epsilon_rdp", "epsilon_no_amplification", "mu", "library")
        yield from _flat("accounting", {name: numbers[name] for name in kept})
        yield from ((f"accounting.tpr_ceiling[fpr {fpr:g}]", tpr) for fpr, tpr in bundle.accounting.tpr_ceilings)
    for bound in bundle.bounds:
        yield f"bound.{bound.label}.epsilon", bound.epsilon
        yield f"bound.{bound.label}.status", bound.status.value
    for attack in bundle.attacks:
        yield f"attack.{attack.attack}.auc", attack.auc
        yield from ((f"attack.{attack.attack}.tpr[fpr {p.fpr:g}]", p.tpr) for p in attack.tpr_at_fpr)
    yield from ((f"check.{check.id}", check.status.value) for check in bundle.checks)
    yield from ((f"power.{result.label}", result.power) for result in bundle.powers)
    yield from _flat("training", bundle.training)
    yield from _flat("environment", bundle.environment)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def render(before: Evidence, after: Evidence) -> str:
    """Return the differences as text."""
    found = differences(before, after)
    if not found:
        return "no difference"
    width = max(len(short(d.item, 60)) for d in found)
    return "\n".join(f"{short(d.item, 60):<{width}}  {_shown(d.before)}  →  {_shown(d.after)}" for d in found)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else short(value, 60)
