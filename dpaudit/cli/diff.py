"""`dpaudit diff A B`: what changed between two evidence bundles."""

from pathlib import Path

import click

from dpaudit.cli.output import emit, json_option


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@json_option
def command(*, before: Path, after: Path, as_json: bool) -> None:
    """Show what differs between the bundles BEFORE and AFTER; `dpaudit gate --baseline` judges it."""
    from dpaudit.evidence import read_evidence
    from dpaudit.reports import difference

    one, other = read_evidence(before), read_evidence(after)
    payload = {
        "differences": difference.differences(one, other),
        "digests": {"before": one.digest, "after": other.digest},
    }
    emit("diff", payload, difference.render(one, other), as_json=as_json)
