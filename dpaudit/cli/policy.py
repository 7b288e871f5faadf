"""`dpaudit policy show|check|schema`: the effective policy, its problems, its JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from dpaudit.cli.output import emit, json_option


@click.group()
def command() -> None:
    """Show or check a policy, or print the JSON Schema of policy files."""


@command.command()
@click.argument("policy", required=False)
@json_option
def show(policy: str | None, as_json: bool) -> None:
    """Print every effective value of POLICY (a profile or a file; default as `dpaudit gate`) and where it is from."""
    from dpaudit.policy import load_policy

    loaded = load_policy(policy)
    values = loaded.values.model_dump(mode="json")
    own = {name for name, _ in _leaves(loaded.own)}
    origins = {name: _origin(name, own, loaded.source, loaded.profile) for name, _ in _leaves(values)}
    text = "\n".join(f"{name} = {value!r:<40}  # {origins[name]}" for name, value in _leaves(values))
    payload = {"source": loaded.source, "digest": loaded.digest, "policy": values, "origins": origins}
    emit("policy", payload, f"# {loaded.source}, sha256:{loaded.digest}\n{text}", as_json=as_json)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _origin(name: str, own: set[str], source: str, profile: str) -> str:
    return source if name in own else f"profile {profile}"


@command.command()
@click.argument("policy", required=False)
@json_option
def check(policy: str | None, as_json: bool) -> None:
    """Check POLICY; exit 2 with every problem and its line if it is wrong."""
    from dpaudit.policy import load_policy

    loaded = load_policy(policy)
    text = f"{loaded.source}: valid (profile {loaded.profile}, {len(loaded.waiver)} waiver(s))"
    payload = {"source": loaded.source, "digest": loaded.digest, "valid": True, "profile": loaded.profile}
    emit("policy", payload, text, as_json=as_json)


@command.command()
@click.argument("name", default="policy")
@json_option
def schema(name: str, as_json: bool) -> None:
    """Print a published JSON Schema, for editors and validators: policy (the default), evidence or verdict."""
    from dpaudit import serialize
    from dpaudit.schemas import published

    text = published(name)
    emit("policy", {"json_schema": serialize.loads(text)}, text.rstrip(), as_json=as_json)
