"""What every command shares: the --json option and the shape of its one document."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from dpaudit import serialize

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Add `--json`: print exactly one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def schema(command: str) -> str:
    """Return the schema name of a command's document."""
    return f"dpaudit.{command}/v1"


def emit(command: str, payload: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of a command: the JSON document, or the text for people."""
    click.echo(serialize.dumps({"schema": schema(command), **payload}) if as_json else text)


def failure_document(command: str, error: BaseException, code: int) -> str:
    """Return the JSON document of a command that failed."""
    body = {"type": type(error).__name__, "message": str(error), "exit_code": code}
    return serialize.dumps({"schema": schema(command), "error": body})
