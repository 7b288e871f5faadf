"""`dpaudit plan`: how many canaries or models an audit needs."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.estimate import METHODS
from dpaudit.cli.executor_options import NAMES, chosen_executor, executor_options
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_INCONCLUSIVE, UsageError

if TYPE_CHECKING:
    from dpaudit.estimation import Plan

PER_STEP = "per-step"

HELP = """How many canaries (or models) are needed to refute a claim when the mechanism is worse than claimed.

Simulates a Gaussian mechanism whose epsilon is --factor times the claim, audits it with the very estimator that will
be used, and searches for the smallest number of canaries that reaches --power. For clopper-pearson, gdp and bayes a
canary is a model trained with or without the target. For per-step, a coin decides on each canary in every step, and
--sampling-rate and --steps say how the steps compose. Exit code 3 when no method reaches the power.
"""


@click.command(help=HELP)
@click.option("--claim-epsilon", type=float, required=True, help="The claimed epsilon.")
@click.option("--delta", type=float, required=True, help="The claimed delta.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice((*METHODS, PER_STEP)),
    default=("one-run-max",),
    show_default=True,
    help="May be repeated, to compare.",
)
@click.option("--power", type=float, default=0.8, show_default=True, help="Wanted probability of a refutation.")
@click.option("--factor", type=float, default=2.0, show_default=True, help="How many times worse the mechanism is.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="One-sided confidence of the bound.")
@click.option("--curve", type=click.Choice(["eps-delta", "gaussian"]), default="eps-delta", show_default=True)
@click.option("--group-size", type=int, default=1, show_default=True, help="Copies of each canary.")
@click.option("--sampling-rate", type=float, help="Of the planned DP-SGD, for per-step; in (0, 1].")
@click.option("--steps", type=int, help="Number of steps of the planned DP-SGD, for per-step.")
@click.option("--max-canaries", type=int, default=200_000, show_default=True, help="Where the search ends.")
@click.option("--trials", type=int, default=200, show_default=True, help="Simulated audits per number of canaries.")
@click.option("--seed", type=int, default=0, show_default=True)
@executor_options
@json_option
def command(methods: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print the plans; see HELP."""
    sampler = [options[name] is not None for name in ("sampling_rate", "steps")]
    if any(sampler) and PER_STEP not in methods:
        raise UsageError("--sampling-rate and --steps are for --method per-step; the others simulate one release.")
    with chosen_executor(**{name: options.pop(name) for name in NAMES}) as executor:
        plans = [_payload(_plan(method, options | {"executor": executor}), options) for method in methods]
    emit("plan", {**plans[0], "plans": plans}, "\n".join(map(_text, plans)), as_json=as_json)
    if all(plan["canaries"] is None for plan in plans):
        click.get_current_context().exit(EXIT_INCONCLUSIVE)


def _payload(plan: "Plan", options: dict[str, Any]) -> dict[str, Any]:
    from dpaudit.estimation.problem import WITHOUT_THRESHOLD
    from dpaudit.estimation.thresholds import MULTI_RUN

    result, planned = plan.result, plan.method not in WITHOUT_THRESHOLD
    return {
        "canaries": plan.canaries,
        "counted": "models" if plan.method in MULTI_RUN else "canaries",
        "steps": options["steps"] if plan.method == PER_STEP else None,
        "guesses": plan.guesses,
        "power": result.power,
        "power_ci": result.power_ci,
        "largest_certifiable_epsilon": result.largest_certifiable_epsilon,
        "largest_certifiable_reason": result.reason,
        "reason": plan.reason,
        "threshold_selection": f"planned:{plan.interest_epsilon:g}" if planned else None,
        "method": plan.method,
        "family": result.family,
        "claim_epsilon": result.claim_epsilon,
        "alternative_epsilon": result.alternative_epsilon,
        "factor": result.factor,
        "group_size": options["group_size"],
        "delta": options["delta"],
        "confidence": options["confidence"],
        "trials": result.trials,
        "seed": options["seed"],
    }


def _plan(method: str, options: dict[str, Any]) -> "Plan":
    from dpaudit.estimation import plan_audit

    sampler = {name: options[name] for name in ("sampling_rate", "steps")}
    rest = {name: value for name, value in options.items() if name not in sampler}
    return _per_step(rest, **sampler) if method == PER_STEP else plan_audit(method=method, **rest)


def _per_step(options: dict[str, Any], *, sampling_rate: float | None, steps: int | None) -> "Plan":
    """Return the plan in canaries per step; the accountant says which noise makes epsilon `factor` times the claim."""
    from dpaudit.accounting import calibrate_noise
    from dpaudit.estimation import plan_per_step

    if sampling_rate is None or steps is None:
        raise UsageError("per-step is composed over the steps of the training; give --sampling-rate and --steps.")
    if options["group_size"] != 1:
        raise UsageError("per-step plans single canaries; leave out --group-size.")
    names = ("claim_epsilon", "delta", "power", "factor", "confidence", "trials", "seed", "executor")
    claim, delta = options["claim_epsilon"], options["delta"]
    noises = [
        calibrate_noise(e, delta, sampling_rate=sampling_rate, steps=steps) for e in (claim, options["factor"] * claim)
    ]
    plan = plan_per_step(
        **{name: options[name] for name in names},
        claimed_noise_multiplier=noises[0],
        actual_noise_multiplier=noises[1],
        max_observations=options["max_canaries"] * steps,
    )
    return plan if plan.canaries is None else replace(plan, canaries=math.ceil(plan.canaries / steps))


def _text(plan: dict[str, Any]) -> str:
    best = plan["largest_certifiable_epsilon"]
    best = plan["largest_certifiable_reason"] if best is None else f"{best:.3f}"
    ceiling = f"  largest epsilon a perfect attack could certify: {best}"
    if plan["canaries"] is None:
        return f"{plan['method']}: not reached: {plan['reason']}\n{ceiling}"
    low, high = plan["power_ci"]
    chance = f"with probability {plan['power']:.2f} ({low:.2f} to {high:.2f})"
    really = f"when it really is {plan['alternative_epsilon']:g}"
    enough = f"{plan['canaries']} {plan['counted']} refute epsilon {plan['claim_epsilon']:g}"
    lines = [f"{plan['method']}: {enough} {chance} {really}"]
    if plan["threshold_selection"] is not None:
        what = "threshold" if plan["guesses"] is None else f"{plan['guesses']} guesses"
        lines.append(f"  {what} by --threshold-selection {plan['threshold_selection']}")
    return "\n".join([*lines, ceiling])
