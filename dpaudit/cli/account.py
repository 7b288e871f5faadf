"""`dpaudit account`: upper bounds on epsilon, from ledgers or from parameters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.accounting_options import (
    RELATIONS,
    SAMPLERS,
    UNITS,
    event_from_options,
    refuse_large_delta,
    run_options,
    searched,
)
from dpaudit.cli.output import emit, json_option
from dpaudit.errors import Refusal, UsageError

if TYPE_CHECKING:
    from dpaudit.ledger import PrivacyLedger
    from dpaudit.records import AccountingSummary

_RUN = ("noise_multiplier", "sampling_rate", "steps", "sampler", "participation_rate", "trials", "trials_drawn")


@click.command()
@click.option(
    "--ledger",
    "ledgers",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A ledger; several ledgers on the same people compose.",
)
@click.option("--noise-multiplier", type=float, help="Noise over the norm that one unit contributes at most.")
@click.option("--sampling-rate", type=float, help="Expected share of the units in a batch, in (0, 1].")
@click.option("--steps", type=int, help="Number of steps.")
@click.option("--delta", type=float, required=True, help="Strictly between 0 and 1, and well under 1 / units.")
@click.option("--sampler", type=SAMPLERS, help="How batches were drawn.  [default: poisson]")
@click.option("--relation", type=RELATIONS, help="Neighbouring relation.  [default: the ledger's]")
@click.option("--unit", type=UNITS, help="The unit to protect; an example-level ledger is converted to clients.")
@click.option("--max-examples-per-client", type=int, help="Cap that the training enforced, for --unit client.")
@run_options
@click.option("--fpr", "rates", type=float, multiple=True, help="Adds the largest TPR at this false-positive rate.")
@click.option("--prior", "priors", type=float, multiple=True, help="Prior of membership: adds the largest posterior.")
@json_option
def command(*, ledgers: tuple[Path, ...], delta: float, as_json: bool, **options: Any) -> None:
    """Print the epsilon that a run spent, with everything it rests on.

    Either --ledger FILE, or --noise-multiplier, --sampling-rate and --steps.

    Exit code: 0 a bound was found, 2 usage, 3 there is no bound.
    """  # fmt: skip
    opened, facts = _open(ledgers, options) if ledgers else ((), {})
    summary, declared = _of_ledgers(opened, facts, delta, options) if opened else _of_options(delta, options)
    facts = {**facts, **declared}
    if summary.epsilon_pld is None and summary.epsilon_rdp is None:
        raise Refusal(_refusal(summary))
    body, text = _payload(summary, facts, options)
    torn = sum(ledger.torn_bytes for ledger in opened)
    body = {**body, "ledger_digest": summary.ledger_digest, "torn_bytes": torn}
    if torn:
        text += f"\nThe ledger ends in {torn} bytes of an unfinished line, which were left out."
    emit("account", body, text, as_json=as_json)


def _open(paths: tuple[Path, ...], options: dict[str, Any]) -> "tuple[tuple[PrivacyLedger, ...], dict[str, Any]]":
    """Return the ledgers, and the facts on which they agree."""
    from dpaudit.accounting import facts_of
    from dpaudit.ledger import PrivacyLedger

    ignored = [f"--{name.replace('_', '-')}" for name in _RUN if options[name] is not None]
    if ignored:
        raise UsageError(f"--ledger says what ran; leave out {', '.join(ignored)}.")
    opened = tuple(PrivacyLedger.open(path) for path in paths)
    return opened, dict(facts_of(opened))


def _of_ledgers(
    ledgers: "tuple[PrivacyLedger, ...]", facts: dict[str, Any], delta: float, options: dict[str, Any]
) -> "tuple[AccountingSummary, dict[str, Any]]":
    from dpaudit.accounting import summarize

    refuse_large_delta(delta, options["units"] or facts.get("units"))
    summary = summarize(
        ledgers,
        delta=delta,
        relation=options["relation"],
        unit=options["unit"],
        group_size=1 if options["group_size"] is None else options["group_size"],
        max_examples_per_client=options["max_examples_per_client"],
        rounds=False,
        false_positive_rates=options["rates"],
    )
    return summary, {} if options["unit"] is None else {"unit": options["unit"]}


def _of_options(delta: float, options: dict[str, Any]) -> "tuple[AccountingSummary, dict[str, Any]]":
    from dpaudit.accounting import summarize

    if any(options[name] is None for name in ("noise_multiplier", "sampling_rate", "steps")):
        raise UsageError("give --ledger FILE, or all of --noise-multiplier, --sampling-rate and --steps.")
    if options["max_examples_per_client"] is not None:
        raise UsageError("--max-examples-per-client converts a ledger; with parameters give --group-size.")
    refuse_large_delta(delta, options["units"])
    event, search = searched(event_from_options(options["noise_multiplier"], options), options)
    named = {name: options[name] for name in ("unit", "units", "relation") if options[name] is not None}
    declared = {"sampler": options["sampler"] or "poisson", **named, **search}
    summary = summarize(
        event,
        delta=delta,
        relation=options["relation"],
        group_size=1 if options["group_size"] is None else options["group_size"],
        rounds=False,
        false_positive_rates=options["rates"],
        facts=declared,
    )
    return summary, declared


def _refusal(summary: "AccountingSummary") -> str:
    """Return why there is no bound, and the one that is left where only the sampler is in doubt."""
    from dpaudit.accounting import up

    why = summary.reasons["epsilon_pld"]
    if summary.epsilon_no_amplification is None:
        return why
    return (
        f"{why} Without any credit for sampling, epsilon is at most {up(summary.epsilon_no_amplification)} "
        f"at delta = {summary.delta:g}."
    )


def _payload(
    summary: "AccountingSummary", facts: dict[str, Any], options: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    from dpaudit.accounting import statement

    text = statement(summary, facts, group_size=options["group_size"] or 1)
    body: dict[str, Any] = {
        "epsilon": {
            "rdp": summary.epsilon_rdp,
            "pld": summary.epsilon_pld,
            "no_amplification": summary.epsilon_no_amplification,
        },
        "delta": summary.delta,
        "relation": summary.relation,
        "unit": facts.get("unit"),
        "group_size": options["group_size"] or 1,
        "sampler": facts.get("sampler"),
        "hyperparameter_search": facts.get("hyperparameter_search"),
        "mu": summary.mu,
        "mu_regret": summary.mu_regret,
        "profile": [{"delta": d, "epsilon": e} for d, e in summary.profile],
        "tpr_ceilings": [{"fpr": f, "tpr": t} for f, t in summary.tpr_ceilings],
        "assumptions": summary.assumptions,
        "reasons": summary.reasons,
        "library": summary.library,
        "statement": text,
    }
    body["posteriors"] = _posteriors(summary, options["priors"])
    text += "".join(map(_posterior_text, body["posteriors"]))
    assumed = _if_poisson(summary, options)
    if assumed is not None:
        body["not_a_bound"] = {"poisson_assumed": assumed}
        text += (
            f"\nShuffled batches are not Poisson samples: the {assumed:.4g} that Poisson accounting would report is "
            "no bound for them."
        )
    return body, text


def _posteriors(summary: "AccountingSummary", priors: tuple[float, ...]) -> list[dict[str, float]]:
    """Return the largest posteriors, from the ceilings on attacks."""
    from dpaudit.accounting import largest_posterior

    return [
        {"prior": prior, "fpr": fpr, "posterior": largest_posterior(prior, tpr=tpr, fpr=fpr)}
        for prior in priors
        for fpr, tpr in summary.tpr_ceilings
    ]


def _posterior_text(item: dict[str, float]) -> str:
    from dpaudit.accounting import up

    return (
        f"\nAfter a positive of an attack with a false-positive rate of {item['fpr']:g}, "
        f"a prior of {item['prior']:g} becomes at most {up(item['posterior'])}."
    )


def _if_poisson(summary: "AccountingSummary", options: dict[str, Any]) -> float | None:
    """Return what shuffled batches would seem to cost if they were taken for Poisson samples: not a bound."""
    from dpaudit.accounting import epsilon

    if options["sampler"] != "shuffle" or options["group_size"] or options["trials_drawn"]:
        return None
    poisson = event_from_options(options["noise_multiplier"], {**options, "sampler": "poisson"})
    return epsilon(searched(poisson, options)[0], summary.delta, relation=summary.relation)
