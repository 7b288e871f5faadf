"""The option that says where clients are computed."""

import click

ENGINES = ("in-process", "litert")

engine_option = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="in-process",
    show_default=True,
    help="Where clients are computed; server, noise and ledger are the same.",
)
