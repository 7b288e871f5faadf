"""`dpaudit plan`: how many canaries or models an audit needs."""

from typing import Any

import click

from dpaudit.cli.estimate import METHODS
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_INCONCLUSIVE

HELP = """How many canaries (or models) are needed to refute a claim when the mechanism is worse than claimed.

Simulates a Gaussian mechanism whose epsilon is --factor times the claim, audits it with the very estimator that will
be used, and searches for the smallest number of canaries that reaches --power. For clopper-pearson, gdp and bayes a
canary is a model trained with or without the target. Exit code 3 when the power is not reached.
"""


@click.command(help=HELP)
@click.option("--claim-epsilon", type=float, required=True, help="The claimed epsilon.")
@click.option("--delta", type=float, required=True, help="The claimed delta.")
@click.option("--method", type=click.Choice(METHODS), default="one-run-max", show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True, help="Wanted probability of a refutation.")
@click.option("--factor", type=float, default=2.0, show_default=True, help="How many times worse the mechanism is.")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="One-sided confidence of the bound.")
@click.option("--curve", type=click.Choice(["eps-delta", "gaussian"]), default="eps-delta", show_default=True)
@click.option("--max-canaries", type=int, default=200_000, show_default=True, help="Where the search ends.")
@click.option("--trials", type=int, default=200, show_default=True, help="Simulated audits per number of canaries.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Print the plan; see HELP."""
    from dpaudit.estimation import plan_audit

    plan = plan_audit(**options)
    result = plan.result
    payload = {
        "canaries": plan.canaries,
        "guesses": plan.guesses,
        "power": result.power,
        "power_ci": result.power_ci,
        "largest_certifiable_epsilon": result.largest_certifiable_epsilon,
        "largest_certifiable_reason": result.reason,
        "reason": plan.reason,
        "threshold_selection": f"planned:{plan.interest_epsilon:g}",
        "method": plan.method,
        "family": result.family,
        "claim_epsilon": result.claim_epsilon,
        "alternative_epsilon": result.alternative_epsilon,
        "factor": result.factor,
        "delta": options["delta"],
        "confidence": options["confidence"],
        "trials": result.trials,
        "seed": options["seed"],
    }
    emit("plan", payload, _text(payload), as_json=as_json)
    if plan.canaries is None:
        click.get_current_context().exit(EXIT_INCONCLUSIVE)


def _text(plan: dict[str, Any]) -> str:
    if plan["canaries"] is None:
        return f"{plan['method']}: not reached: {plan['reason']}"
    low, high = plan["power_ci"]
    chance = f"with probability {plan['power']:.2f} ({low:.2f} to {high:.2f})"
    really = f"when it really is {plan['alternative_epsilon']:g}"
    lines = [
        f"{plan['method']}: {plan['canaries']} canaries refute epsilon {plan['claim_epsilon']:g} {chance} {really}"
    ]
    if plan["guesses"] is not None:
        lines.append(f"  guesses: {plan['guesses']} (--threshold-selection {plan['threshold_selection']})")
    best = plan["largest_certifiable_epsilon"]
    best = plan["largest_certifiable_reason"] if best is None else f"{best:.3f}"
    lines.append(f"  largest epsilon a perfect attack could certify: {best}")
    return "\n".join(lines)
