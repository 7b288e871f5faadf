"""The option that says where clients are computed."""

from typing import Any

import click

from dpaudit.errors import UsageError


def _checked(ctx: click.Context, param: click.Parameter, value: str) -> str:
    del ctx
    from dpaudit.pipeline.engines import parse_engine

    try:
        parse_engine(value)
    except UsageError as error:
        raise click.BadParameter(str(error), param=param) from error
    return value


def engine_option(function: Any) -> Any:
    """Add `--engine`."""
    return click.option(
        "--engine",
        default="in-process",
        show_default=True,
        callback=_checked,
        help="Where clients are computed: in-process, litert, flower (simulated; flower:nodes=4), flower-loopback or "
        "ray. "
        "Server, noise and ledger are the same.",
    )(function)
