"""`dpaudit rules`: every rule of the gate."""

from typing import Any

import click

from dpaudit.cli.output import emit, json_option


def describe(rule: Any) -> dict[str, str]:
    """Return the words of a rule."""
    names = ("code", "title", "question", "fails", "inconclusive", "why", "fix")
    return {name: getattr(rule, name) for name in names}


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the rules of the gate, with the question that each asks."""
    from dpaudit.rules import CATALOGUE

    text = "\n".join(f"{rule.code}  {rule.title:<22}  {rule.question}" for rule in CATALOGUE)
    emit("rules", {"rules": [describe(rule) for rule in CATALOGUE]}, text, as_json=as_json)
