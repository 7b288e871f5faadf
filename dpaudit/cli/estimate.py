"""`dpaudit estimate`: lower bounds on epsilon, from a file of scores or from counts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_INCONCLUSIVE, UsageError
from dpaudit.records import Bound, Relation

METHODS = (
    "one-run", "one-run-fdp", "one-run-max", "clopper-pearson", "gdp", "bayes", "independent-canaries", "mean-shift",
    "one-shot",
)  # fmt: skip
GAME = ("canaries", "guesses", "correct")
CONFUSION = ("tp", "fn", "fp", "tn")

HELP = f"""Lower bounds on epsilon that hold with the stated confidence.

SCORES is a .npz file with arrays `member` and `non_member`, or a .csv or .parquet file with columns `score` and
`member` (1/0). Higher scores must mean "more likely a member". Instead of SCORES, give the counts of a guessing game
(--canaries, --guesses, --correct) or a confusion matrix over independent runs (--tp --fn --fp --tn).

Methods: {", ".join(METHODS)}. Without --method: one-run-max, which assumes nothing of the mechanism, only that each
canary was included by its own fair coin.

Exit code 3 when no method gives a number; the reason is printed.
"""


@click.command(help=HELP)
@click.argument("scores", required=False, type=click.Path(path_type=Path))
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), help="May be repeated.")
@click.option("--delta", type=float, required=True, help="Delta of the bound, in [0, 1).")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="One-sided confidence of each bound.")
@click.option("--guesses", type=int, help="Number of guesses, or rank of the threshold; the same as fixed:R.")
@click.option("--threshold-selection", metavar="RULE", help="planned[:E], fixed:R, bonferroni:K or split.")
@click.option("--interest-epsilon", type=float, help="Where a planned choice is tightest; best the claimed epsilon.")
@click.option("--curve", type=click.Choice(["eps-delta", "gaussian"]), default="eps-delta", show_default=True)
@click.option("--group-size", type=int, default=1, show_default=True, help="Copies of each canary.")
@click.option("--relation", type=click.Choice([r.value for r in Relation]), default=Relation.ADD_OR_REMOVE_ONE.value)
@click.option(
    "--declare", multiple=True, type=click.Choice(["fair-coins", "independent-runs"]), help="You vouch for it."
)
@click.option("--dimension", type=int, help="Of the model, for one-shot: the null is then known.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the lots that break ties and split samples.")
@click.option("--canaries", type=int, help="Canaries of a guessing game, abstained ones included.")
@click.option("--correct", type=int, help="Right guesses of a guessing game.")
@click.option("--tp", type=int, help="Members called members.")
@click.option("--fn", type=int, help="Members called non-members.")
@click.option("--fp", type=int, help="Non-members called members.")
@click.option("--tn", type=int, help="Non-members called non-members.")
@json_option
def command(scores: Path | None, methods: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print the bounds; see HELP."""
    chosen = _methods(scores, methods, options)
    bounds = _from_counts(chosen, options) if scores is None else _from_scores(scores, chosen, options)
    emit("estimate", {"bounds": bounds, "scores": str(scores) if scores else None}, _text(bounds), as_json=as_json)
    if all(bound.epsilon is None for bound in bounds):
        click.get_current_context().exit(EXIT_INCONCLUSIVE)


def _given(options: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return any(options[name] is not None for name in names)


def _methods(scores: Path | None, methods: tuple[str, ...], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the methods to run; refuse a mixture of inputs."""
    confusion, game = _given(options, CONFUSION), _given(options, ("canaries", "correct"))
    if sum([scores is not None, confusion, game]) != 1:
        raise UsageError(
            "give exactly one of: a SCORES file; --canaries, --guesses and --correct; --tp, --fn, --fp and --tn."
        )
    return methods or (("clopper-pearson",) if confusion else ("one-run-max",))


def _complete(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    missing = [name for name in names if options[name] is None]
    if missing:
        raise UsageError(f"counts are incomplete; also give {', '.join('--' + name for name in missing)}.")
    return {name: options[name] for name in names}


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("delta", "confidence", "group_size")
    return {name: options[name] for name in names} | {"relation": Relation(options["relation"])}


def _from_counts(methods: tuple[str, ...], options: Mapping[str, Any]) -> list[Bound]:
    from dpaudit.estimation import estimate_confusion, estimate_game
    from dpaudit.estimation.counts import CONFUSION_METHODS, GAME_METHODS

    played = _given(options, ("canaries", "correct"))
    known, kind = (GAME_METHODS, "a guessing game") if played else (CONFUSION_METHODS, "a confusion matrix")
    counts = _complete(options, GAME if played else CONFUSION) | _shared(options)
    for method in methods:
        if method not in known:
            raise UsageError(f"{method} takes no counts of {kind}; use {', '.join(known)}, or give a file of scores.")
    if played:
        return [estimate_game(**counts, method=method, curve=options["curve"]) for method in methods]
    return [estimate_confusion(**counts, method=method) for method in methods]


def _from_scores(path: Path, methods: tuple[str, ...], options: Mapping[str, Any]) -> list[Bound]:
    from dpaudit.estimation import estimate_source, read_scores

    source, dimension = read_scores(path), options["dimension"]
    names = ("guesses", "threshold_selection", "interest_epsilon", "curve", "seed")
    arguments = {name: options[name] for name in names} | _shared(options)
    extra = {} if dimension is None else {"dimension": dimension}
    return [
        estimate_source(source, **arguments, method=method, declared=options["declare"], options=extra)
        for method in methods
    ]


def _text(bounds: list[Bound]) -> str:
    lines = []
    for bound in bounds:
        head = f"{bound.method} ({bound.family})"
        if bound.epsilon is None:
            lines.append(f"{head}: no bound: {bound.reason}")
        else:
            level = f"{bound.confidence:.0%} confidence" if bound.family != "credible" else "credible, not confidence"
            lines.append(f"{head}: epsilon >= {bound.epsilon:.4f} at delta {bound.delta:g}, {level}")
        lines += [f"  rests on {a.id} ({a.status}): {a.text}" for a in bound.assumptions]
    if len(bounds) > 1:
        lines.append("Each bound holds on its own; the largest of several does not have the stated confidence.")
    return "\n".join(lines)
