"""`dpaudit account`: upper bounds on epsilon, from ledgers or from parameters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.errors import Refusal, UsageError

if TYPE_CHECKING:
    from dpaudit.events import Event
    from dpaudit.records import AccountingSummary

_SAMPLERS = ("poisson", "without-replacement", "shuffle", "none")
_RELATIONS = ("add-or-remove-one", "replace-one")


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
@click.option("--sampler", type=click.Choice(_SAMPLERS), help="How batches were drawn.  [default: poisson]")
@click.option("--relation", type=click.Choice(_RELATIONS), help="Neighbouring relation.  [default: the ledger's]")
@click.option(
    "--participation-rate", type=float, help="Rate of a public coin that decides who may be in a step at all."
)
@click.option("--units", type=int, help="Number of units in the data: refuses a delta of 1/units or more.")
@click.option("--unit", type=click.Choice(["example", "client"]), help="What one unit is.  [default: the ledger's]")
@click.option("--group-size", type=int, help="Protect groups of so many units, as the examples of one person.")
@click.option("--prior", "priors", type=float, multiple=True, help="Prior of membership: adds the largest posterior.")
@json_option
def command(*, ledgers: tuple[Path, ...], delta: float, as_json: bool, **options: Any) -> None:
    """Print the epsilon that a run spent, with everything it rests on.

    Either --ledger FILE, or --noise-multiplier, --sampling-rate and --steps.

    Exit code: 0 a bound was found, 2 usage, 3 there is no bound.
    """  # fmt: skip
    from dpaudit.accounting import summarize

    source, facts, digest, torn = _from_ledgers(ledgers, options) if ledgers else (*_from_options(options), None, 0)
    _refuse_large_delta(delta, options["units"] or facts.get("units"))
    relation = options["relation"] or facts.get("relation")
    summary = summarize(
        _grouped(source, options["group_size"]),
        delta=delta,
        relation=relation,
        rounds=False,
        facts=facts,
        facts_source="ledger header" if ledgers else "command line",
    )
    if summary.epsilon_pld is None and summary.epsilon_rdp is None:
        raise Refusal(summary.reasons["epsilon_pld"])
    body, text = _payload(summary, facts, options)
    body = {**body, "ledger_digest": digest, "torn_bytes": torn}
    if torn:
        text += f"\nThe ledger ends in {torn} bytes of an unfinished line, which were left out."
    emit("account", body, text, as_json=as_json)


def _from_ledgers(
    ledgers: tuple[Path, ...], options: dict[str, Any]
) -> "tuple[Event, dict[str, Any], str | None, int]":
    """Return the event of the ledgers, the facts on which they agree, their digest and what was torn off their ends."""
    from dpaudit.accounting._source import digest_of, event_of, facts_of, relation_of
    from dpaudit.ledger import PrivacyLedger

    names = ("noise_multiplier", "sampling_rate", "steps", "sampler", "participation_rate")
    ignored = [f"--{name.replace('_', '-')}" for name in names if options[name] is not None]
    if ignored:
        raise UsageError(f"--ledger says what ran; leave out {', '.join(ignored)}.")
    opened = tuple(PrivacyLedger.open(path) for path in ledgers)
    facts = dict(facts_of(opened))
    relation = relation_of(opened, options["relation"])
    if any("relation" in ledger.facts for ledger in opened):
        facts["relation"] = relation
    if options["unit"]:
        facts["unit"] = options["unit"]
    return event_of(opened), facts, digest_of(opened), sum(ledger.torn_bytes for ledger in opened)


def _from_options(options: dict[str, Any]) -> "tuple[Event, dict[str, Any]]":
    if any(options[name] is None for name in ("noise_multiplier", "sampling_rate", "steps")):
        raise UsageError("give --ledger FILE, or all of --noise-multiplier, --sampling-rate and --steps.")
    declared = {name: options[name] for name in ("unit", "units", "relation") if options[name] is not None}
    event = event_from_options(options["noise_multiplier"], options)
    return event, {"sampler": options["sampler"] or "poisson", **declared}


def _grouped(event: "Event", size: int | None) -> "Event":
    from dpaudit.accounting import group_event

    return event if size is None else group_event(event, size)


def event_from_options(noise_multiplier: float, options: dict[str, Any]) -> "Event":
    """Return the event of the parameters on a command line."""
    from dpaudit import _validate
    from dpaudit.accounting import steps_of
    from dpaudit.events import PubliclySampled, SelfComposed

    event = steps_of(
        noise_multiplier,
        sampling_rate=options["sampling_rate"],
        steps=options["steps"],
        sampler=options["sampler"] or "poisson",
        population=options.get("units"),
    )
    rate = options.get("participation_rate")
    if rate is None:
        return event
    _validate.sampling_rate(participation_rate=rate)
    if options["sampler"] not in (None, "poisson", "none"):
        raise UsageError(f"--participation-rate goes with --sampler poisson or none; got {options['sampler']!r}.")
    return SelfComposed(event=PubliclySampled(sampling_rate=rate, event=event.event), count=event.count)


def _refuse_large_delta(delta: float, units: Any) -> None:
    if isinstance(units, int) and units > 0 and delta >= 1 / units:
        raise UsageError(
            f"delta must be smaller than 1/units = {1 / units:.3g}; got {delta:g}. "
            "A larger delta allows a mechanism that publishes a whole record."
        )


def _payload(
    summary: "AccountingSummary", facts: dict[str, Any], options: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    from dpaudit.accounting import statement

    epsilons = {
        "rdp": summary.epsilon_rdp,
        "pld": summary.epsilon_pld,
        "no_amplification": summary.epsilon_no_amplification,
    }
    text = statement(summary, facts, unit=options["unit"])
    body: dict[str, Any] = {
        "epsilon": epsilons,
        "delta": summary.delta,
        "relation": summary.relation,
        "unit": options["unit"] or facts.get("unit"),
        "group_size": options["group_size"] or 1,
        "sampler": facts.get("sampler"),
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
    """Return the largest posteriors by Bayes from the ceilings on attacks."""
    from dpaudit import _validate

    found = []
    for prior in priors:
        _validate.open_unit_interval(prior=prior)
        for fpr, tpr in summary.tpr_ceilings:
            posterior = prior * tpr / (prior * tpr + (1 - prior) * fpr)
            found.append({"prior": prior, "fpr": fpr, "posterior": posterior})
    return found


def _posterior_text(item: dict[str, float]) -> str:
    from dpaudit.accounting.statement import up

    return (
        f"\nAfter a positive of an attack with a false-positive rate of {item['fpr']:g}, "
        f"a prior of {item['prior']:g} becomes at most {up(item['posterior'])}."
    )


def _if_poisson(summary: "AccountingSummary", options: dict[str, Any]) -> float | None:
    """Return what shuffled batches would seem to cost if they were taken for Poisson samples: not a bound."""
    from dpaudit.accounting import epsilon

    if options["sampler"] != "shuffle" or options["group_size"]:
        return None
    poisson = event_from_options(options["noise_multiplier"], {**options, "sampler": "poisson"})
    return epsilon(poisson, summary.delta, relation=summary.relation)
