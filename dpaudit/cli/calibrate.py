"""`dpaudit calibrate`: the least noise multiplier that reaches a privacy target."""

import math
from typing import Any

import click

from dpaudit.cli.account import event_from_options
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import CannotCalibrate, UsageError

_SAMPLERS = ("poisson", "without-replacement", "shuffle", "none")
_RELATIONS = ("add-or-remove-one", "replace-one")
_MU_DOWN_TO = 1e-10


@click.command()
@click.option("--epsilon", type=float, help="Target epsilon at --delta; the same as --target epsilon=E.")
@click.option("--target", metavar="TARGET", help="epsilon=3, mu=0.6 or tpr=0.05@fpr=0.01.")
@click.option("--delta", type=float, help="For epsilon; for mu, the least delta it must cover (default 1e-10).")
@click.option("--sampling-rate", type=float, required=True, help="Expected share of the units in a batch, in (0, 1].")
@click.option("--steps", type=int, required=True, help="Number of steps.")
@click.option("--accountant", type=click.Choice(["pld", "rdp"]), default="pld", show_default=True)
@click.option("--sampler", type=click.Choice(_SAMPLERS), default="poisson", show_default=True)
@click.option("--relation", type=click.Choice(_RELATIONS), default="add-or-remove-one", show_default=True)
@click.option(
    "--participation-rate", type=float, help="Rate of a public coin that decides who may be in a step at all."
)
@click.option("--units", type=int, help="Number of units in the data, for --sampler without-replacement.")
@json_option
def command(
    *, epsilon: float | None, target: str | None, delta: float | None, accountant: str, as_json: bool, **options: Any
) -> None:
    """Print the least noise multiplier that reaches a target, on the safe side.

    Exit code: 0 found, 2 usage or no multiplier reaches the target, 3 the sampler cannot be accounted for.
    """  # fmt: skip
    from dpaudit.accounting import Target, calibrate_target, parse_target
    from dpaudit.accounting import epsilon as epsilon_at

    if (epsilon is None) == (target is None):
        raise UsageError("give --epsilon E or --target TARGET, one of them.")
    if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
        raise CannotCalibrate(f"--epsilon must be finite and greater than 0; got {epsilon!r}.")
    goal = parse_target(target) if target is not None else Target(kind="epsilon", value=float(epsilon or 0))
    if goal.kind == "epsilon" and delta is None:
        raise UsageError("a target on epsilon needs --delta.")

    def make_event(noise_multiplier: float) -> Any:
        return event_from_options(noise_multiplier, options)

    least = _MU_DOWN_TO if delta is None else delta
    found = calibrate_target(goal, least, make_event, accountant=accountant, relation=options["relation"])
    reached = None if delta is None else epsilon_at(make_event(found), delta, accountant, relation=options["relation"])
    body = {
        "noise_multiplier": found,
        "epsilon": reached,
        "delta": delta,
        "target": goal,
        "accountant": accountant,
        "sampling_rate": options["sampling_rate"],
        "steps": options["steps"],
        "sampler": options["sampler"],
        "relation": options["relation"],
    }
    emit("calibrate", body, _text(found, reached, delta, goal, options), as_json=as_json)


def _text(found: float, reached: float | None, delta: float | None, goal: Any, options: dict[str, Any]) -> str:
    from dpaudit.accounting.statement import up

    wanted = f"{goal.kind} = {goal.value:g}" + (f" at fpr = {goal.fpr:g}" if goal.fpr is not None else "")
    text = (
        f"noise multiplier {up(found, 7)} (rounded up) reaches {wanted} for {options['steps']} steps, sampling rate "
        f"{options['sampling_rate']:g}, sampler {options['sampler']}, relation {options['relation']}."
    )
    return text if reached is None else f"{text}\nepsilon = {up(reached, 6)} at delta = {delta:g}."
