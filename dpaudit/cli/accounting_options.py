"""What `dpaudit account` and `dpaudit calibrate` share: the parameters of a run, as options and as an event."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpaudit.errors import UsageError

if TYPE_CHECKING:
    from dpaudit.events import Event

F = TypeVar("F", bound=Callable[..., Any])

SAMPLERS = click.Choice(["poisson", "without-replacement", "shuffle", "none"])
RELATIONS = click.Choice(["add-or-remove-one", "replace-one"])
UNITS = click.Choice(["example", "client"])
_SHARED = (
    click.option(
        "--participation-rate", type=float, help="Rate of a public coin that decides who may be in a step at all."
    ),
    click.option("--units", type=int, help="Number of units in the data: refuses a delta of 1/units or more."),
    click.option("--group-size", type=int, help="Protect groups of so many units, as the examples of one person."),
    click.option(
        "--trials", type=int, help="So many runs were tried on the same data, this one included: they all compose."
    ),
    click.option(
        "--trials-drawn",
        metavar="DISTRIBUTION:MEAN",
        help="The number of runs was drawn from geometric:MEAN, logarithmic:MEAN or poisson:MEAN, and only the best "
        "run is shown to anybody.",
    ),
)


def run_options(function: F) -> F:
    """Add the options that describe a run and are the same for both commands."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


def event_from_options(noise_multiplier: float, options: Mapping[str, Any]) -> "Event":
    """Return the event of the parameters on a command line, for one unit and one run."""
    from dpaudit import _validate
    from dpaudit.accounting import steps_of
    from dpaudit.events import PubliclySampled, SelfComposed

    event = steps_of(
        noise_multiplier,
        sampling_rate=options["sampling_rate"],
        steps=options["steps"],
        sampler=options["sampler"] or "poisson",
        population=options["units"],
    )
    rate = options["participation_rate"]
    if rate is None:
        return event
    _validate.sampling_rate(participation_rate=rate)
    if options["sampler"] not in (None, "poisson", "none"):
        raise UsageError(f"--participation-rate goes with --sampler poisson or none; got {options['sampler']!r}.")
    return SelfComposed(event=PubliclySampled(sampling_rate=rate, event=event.event), count=event.count)


def searched(event: "Event", options: Mapping[str, Any]) -> "tuple[Event, dict[str, Any]]":
    """Return the event of a run with the search of hyper-parameters that it came from, and that search as facts."""
    from dpaudit import _validate
    from dpaudit.accounting import search_event

    trials, drawn = options["trials"], options["trials_drawn"]
    if trials is None and drawn is None:
        return event, {}
    if trials is not None and drawn is not None:
        raise UsageError("give --trials N or --trials-drawn DISTRIBUTION:MEAN, one of them.")
    if drawn is not None:
        name, _, mean = drawn.partition(":")
        try:
            search = search_event([event], drawn_from=name, mean=float(mean), released="best")
        except ValueError as error:
            raise UsageError(
                f"--trials-drawn is geometric:MEAN, logarithmic:MEAN or poisson:MEAN; got {drawn!r}."
            ) from error
    else:
        _validate.positive_integer(trials=trials)
        search = search_event([event] * trials)
    return search.event, search.facts()


def grouped(event: "Event", options: Mapping[str, Any]) -> "Event":
    """Return the event for the group that --group-size asks for."""
    from dpaudit.accounting import group_event

    return event if options["group_size"] is None else group_event(event, options["group_size"])


def refuse_large_delta(delta: float, units: Any) -> None:
    """Raise UsageError for a delta at which publishing one whole record would count as private."""
    if isinstance(units, int) and units > 0 and delta >= 1 / units:
        raise UsageError(
            f"delta must be smaller than 1/units = {1 / units:.3g}; got {delta:g}. "
            "A larger delta allows a mechanism that publishes a whole record."
        )
