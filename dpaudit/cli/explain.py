"""`dpaudit explain CODE`: what a rule asks, why it matters, how to fix it."""

import textwrap

import click

from dpaudit.cli.output import emit, json_option


@click.command()
@click.argument("code")
@json_option
def command(code: str, as_json: bool) -> None:
    """Explain the rule CODE, such as DPA101."""
    from dpaudit.cli.rules import describe
    from dpaudit.rules import find

    rule = find(code)
    parts = [
        ("", rule.question),
        ("Fails when ", rule.fails),
        ("Inconclusive when ", rule.inconclusive),
        ("Why it matters: ", rule.why),
        ("How to fix it: ", rule.fix),
    ]
    body = "\n".join(textwrap.fill(lead + text, 100, subsequent_indent="  ") for lead, text in parts)
    emit("explain", describe(rule), f"{rule.code}: {rule.title}\n\n{body}", as_json=as_json)
