"""What an accountant reads: a ledger, several ledgers on the same people, or an event."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dpaudit import events as ev
from dpaudit.errors import UsageError
from dpaudit.ledger import PrivacyLedger
from dpaudit.records import Relation

SEARCH = "hyperparameter_search"  # the fact, of a header or a line
Source = PrivacyLedger | ev.Event | Sequence[PrivacyLedger]


def _grouped(items: Counter[ev.Event]) -> ev.Event:
    parts = tuple(item if n == 1 else ev.SelfComposed(event=item, count=n) for item, n in items.items())
    return parts[0] if len(parts) == 1 else ev.Composed(events=parts)


def ledgers_of(source: Source) -> tuple[PrivacyLedger, ...]:
    """Return the ledgers of a source; none for an event."""
    if isinstance(source, PrivacyLedger):
        return (source,)
    if isinstance(source, Sequence):
        if not source or not all(isinstance(item, PrivacyLedger) for item in source):
            raise UsageError("expected at least one ledger; got an empty list or something else in it.")
        return tuple(source)
    return ()


def event_of(source: Source) -> ev.Event:
    """Return the one event that a source amounts to; equal events of ledgers are counted, whatever their order.

    Adaptive composition does not depend on the order, so that 1000 equal rounds cost one power.

    Raises: UsageError if the ledgers protect different units, for a sum of both would protect neither.
    """
    ledgers = ledgers_of(source)
    if not ledgers:
        if not isinstance(source, ev.Event):
            raise UsageError(f"expected a ledger or a privacy event; got {type(source).__name__}.")
        return source
    units = {str(ledger.facts["unit"]) for ledger in ledgers if ledger.facts.get("unit") is not None}
    if len(units) > 1:
        raise UsageError(
            f"the ledgers protect different units: {', '.join(sorted(units))}. Convert them to one (unit='client')."
        )
    return _grouped(Counter(entry.event for ledger in ledgers for entry in ledger.events() if entry.event is not None))


def facts_of(source: Source) -> Mapping[str, Any]:
    """Return the facts on which the headers of all ledgers agree, and searches in their lines; nothing for an event."""
    ledgers = ledgers_of(source)
    if not ledgers:
        return {}
    first, *others = (ledger.facts for ledger in ledgers)
    agreed = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    lines = [entry.facts.get(SEARCH) for ledger in ledgers for entry in ledger.events()]
    searches = [search for search in lines if search is not None]
    return {**agreed, SEARCH: searches[0] if len(searches) == 1 else searches} if searches else agreed


def digest_of(source: Source) -> str | None:
    """Return what a summary of the source is bound to: the digest of the ledger, or of all of them."""
    digests = [ledger.digest for ledger in ledgers_of(source)]
    return "+".join(digests) if digests else None


def as_relation(value: Relation | str) -> Relation:
    """Return the relation of that name; raise UsageError for another."""
    try:
        return Relation(value)
    except ValueError as error:
        known = ", ".join(item.value for item in Relation)
        raise UsageError(f"relation must be one of {known}; got {value!r}.") from error


def relation_of(source: Source, relation: Relation | str | None) -> Relation:
    """Return the relation asked for, else that of the ledgers, else add-or-remove-one.

    Raises: UsageError if ledgers disagree with one another, or the one asked for is unknown.
    """
    stated = {str(ledger.facts["relation"]) for ledger in ledgers_of(source) if "relation" in ledger.facts}
    if len(stated) > 1:
        raise UsageError(f"the ledgers use different neighbouring relations: {', '.join(sorted(stated))}. Name one.")
    return as_relation(relation or (stated.pop() if stated else Relation.ADD_OR_REMOVE_ONE))
