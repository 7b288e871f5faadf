"""The options that say where many independent tasks run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dpaudit.fanout import Executor

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("executor", "processes", "ray_address")


def executor_options(command: F) -> F:
    """Add --executor, --processes and --ray-address to a command."""
    options = (
        click.option(
            "--executor",
            type=click.Choice(["serial", "joblib", "ray"]),
            default="serial",
            show_default=True,
            help="Where tasks run: here, in processes of this machine, or on Ray. The numbers are the same.",
        ),
        click.option("--processes", type=click.IntRange(min=1), help="Tasks at a time; default: one per core."),
        click.option("--ray-address", help="Of an existing Ray cluster; default: RAY_ADDRESS, or a Ray of our own."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen_executor(
    executor: str, processes: int | None, ray_address: str | None
) -> "AbstractContextManager[Executor | None]":
    """Return the executor that the options name, as a context manager; None for this process."""
    from dpaudit.fanout import open_executor

    opened = open_executor(executor, processes=processes, ray_address=ray_address)
    return nullcontext() if executor == "serial" else opened
