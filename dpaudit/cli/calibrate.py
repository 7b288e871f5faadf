"""`dpaudit calibrate`: the least noise multiplier that reaches a privacy target."""

import math
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.accounting_options import (
    RELATIONS,
    SAMPLERS,
    UNITS,
    event_from_options,
    grouped,
    refuse_large_delta,
    run_options,
    searched,
)
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import CannotCalibrate, UsageError

if TYPE_CHECKING:
    from dpaudit.accounting import Target
    from dpaudit.events import Event

_MU_DOWN_TO = 1e-10


@click.command()
@click.option("--epsilon", type=float, help="Target epsilon at --delta; the same as --target epsilon=E.")
@click.option("--target", metavar="TARGET", help="epsilon=3, mu=0.6 or tpr=0.05@fpr=0.01.")
@click.option("--delta", type=float, help="For epsilon; for mu, the least delta it must cover (default 1e-10).")
@click.option("--sampling-rate", type=float, required=True, help="Expected share of the units in a batch, in (0, 1].")
@click.option("--steps", type=int, required=True, help="Number of steps.")
@click.option("--accountant", type=click.Choice(["pld", "rdp"]), default="pld", show_default=True)
@click.option("--sampler", type=SAMPLERS, default="poisson", show_default=True)
@click.option("--relation", type=RELATIONS, default="add-or-remove-one", show_default=True)
@click.option("--unit", type=UNITS, help="What one unit is, for the statement.")
@run_options
@json_option
def command(
    *, epsilon: float | None, target: str | None, delta: float | None, accountant: str, as_json: bool, **options: Any
) -> None:
    """Print the least noise multiplier that reaches a target, on the safe side, and what it rests on.

    Exit code: 0 found, 2 usage or no multiplier reaches the target, 3 the sampler cannot be accounted for.
    """  # fmt: skip
    from dpaudit.accounting import calibrate_target

    goal = _goal(epsilon, target, delta)
    if delta is not None:
        refuse_large_delta(delta, options["units"])

    def make_event(noise_multiplier: float) -> "Event":
        return searched(event_from_options(noise_multiplier, options), options)[0]

    found = calibrate_target(
        goal,
        _MU_DOWN_TO if delta is None else delta,
        lambda noise_multiplier: grouped(make_event(noise_multiplier), options),
        accountant=accountant,
        relation=options["relation"],
    )
    reached = _reached(make_event(found), delta, accountant, options)
    body = {
        "noise_multiplier": found,
        "delta": delta,
        "target": goal,
        "accountant": accountant,
        **{name: options[name] for name in ("sampling_rate", "steps", "sampler", "relation", "unit", "units")},
        "group_size": options["group_size"] or 1,
        **reached,
    }
    emit("calibrate", body, _text(found, delta, goal, body, options), as_json=as_json)


def _goal(epsilon: float | None, target: str | None, delta: float | None) -> "Target":
    from dpaudit.accounting import Target, parse_target

    if (epsilon is None) == (target is None):
        raise UsageError("give --epsilon E or --target TARGET, one of them.")
    if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
        raise CannotCalibrate(f"--epsilon must be finite and greater than 0; got {epsilon!r}.")
    goal = parse_target(target) if target is not None else Target(kind="epsilon", value=float(epsilon or 0))
    if goal.kind == "epsilon" and delta is None:
        raise UsageError("a target on epsilon needs --delta.")
    return goal


def _reached(event: "Event", delta: float | None, accountant: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the noise that was found gives: epsilon at delta, also without amplification, and assumptions."""
    from dpaudit.accounting import as_relation, assumptions_of, summarize

    named = {name: options[name] for name in ("unit", "units", "relation") if options[name] is not None}
    facts = {"sampler": options["sampler"], **named, **searched(event_from_options(1.0, options), options)[1]}
    if delta is None:
        assumed = assumptions_of(event, facts, as_relation(options["relation"]), source="argument")
        return {"epsilon": None, "epsilon_no_amplification": None, "assumptions": assumed}
    size = options["group_size"] or 1
    summary = summarize(
        event, delta=delta, relation=options["relation"], group_size=size, rounds=False, witness=False, facts=facts
    )
    return {
        "epsilon": summary.epsilon_pld if accountant == "pld" else summary.epsilon_rdp,
        "epsilon_no_amplification": summary.epsilon_no_amplification,
        "assumptions": summary.assumptions,
    }


def _text(found: float, delta: float | None, goal: "Target", body: dict[str, Any], options: dict[str, Any]) -> str:
    from dpaudit.accounting import assumption_lines, up

    wanted = f"{goal.kind} = {goal.value:g}" + (f" at fpr = {goal.fpr:g}" if goal.fpr is not None else "")
    first = (
        f"noise multiplier {up(found, 7)} (rounded up) reaches {wanted} for {options['steps']} steps, sampling rate "
        f"{options['sampling_rate']:g}, sampler {options['sampler']}, relation {options['relation']}."
    )
    lines = [first]
    if body["epsilon"] is not None:
        lines.append(f"epsilon = {up(body['epsilon'], 6)} at delta = {delta:g}.")
    if body["epsilon_no_amplification"] is not None:
        lines.append(f"Without any amplification by sampling, epsilon is {up(body['epsilon_no_amplification'])}.")
    return "\n".join([*lines, "This rests on:", *assumption_lines(body["assumptions"])])
