"""`dpaudit estimate`: lower bounds on epsilon, from a file of scores or from counts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.errors import EXIT_INCONCLUSIVE, UsageError
from dpaudit.records import Assumption, Bound, Relation

if TYPE_CHECKING:
    from dpaudit.estimation import CurveFamily

METHODS = (
    "one-run", "one-run-fdp", "one-run-max", "clopper-pearson", "gdp", "bayes", "independent-canaries", "mean-shift",
    "one-shot",
)  # fmt: skip
CURVES = ("eps-delta", "gaussian", "pld")
GAME = ("canaries", "guesses", "correct")
CONFUSION = ("tp", "fn", "fp", "tn")

HELP = f"""Lower bounds on epsilon that hold with the stated confidence.

SCORES is a .npz file with arrays `member` and `non_member`, or a .csv or .parquet file with columns `score` and
`member` (1/0). Higher scores must mean "more likely a member". Instead of SCORES, give the counts of a guessing game
(--canaries, --guesses, --correct) or a confusion matrix over independent runs (--tp --fn --fp --tn).

Methods: {", ".join(METHODS)}. Without --method: one-run-max, which assumes nothing of the mechanism, only that each
canary was included by its own fair coin.

A threshold or number of guesses is chosen by a rule that is fixed before the scores are read (--threshold-selection)
and is printed with the bound. Bounds on many releases hold together when the K-th is computed with --release K: it
gets the share 6 / (pi K)^2 of the error.

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
@click.option("--curve", type=click.Choice(CURVES), default="eps-delta", show_default=True, help="Of one-run-fdp.")
@click.option("--sampling-rate", type=float, help="With --curve pld: of the audited DP-SGD, in (0, 1].")
@click.option("--steps", type=int, help="With --curve pld: number of steps.")
@click.option("--release", type=int, help="This is the K-th audited release: its share of the error is spent.")
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
    options |= {"curve": _curve(options), "confidence": _confidence(options)}
    bounds = _from_counts(chosen, options) if scores is None else _from_scores(scores, chosen, options)
    payload = {"bounds": bounds, "scores": str(scores) if scores else None, "release": options["release"]}
    emit("estimate", payload, _text(bounds), as_json=as_json)
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
    chosen = methods or (("clopper-pearson",) if confusion else ("one-run-max",))
    if options["curve"] != CURVES[0] and "one-run-fdp" not in chosen:
        raise UsageError(f"--curve {options['curve']} is for --method one-run-fdp; add that method, or leave it out.")
    if options["dimension"] is not None and "one-shot" not in chosen:
        raise UsageError("--dimension is for --method one-shot; add that method, or leave it out.")
    return chosen


def _curve(options: Mapping[str, Any]) -> "str | CurveFamily":
    """Return the curve of one-run-fdp; that of a PLD needs to know the sampler."""
    given = [options[name] is not None for name in ("sampling_rate", "steps")]
    if options["curve"] != "pld":
        if any(given):
            raise UsageError("--sampling-rate and --steps belong to --curve pld; give it, or leave them out.")
        return str(options["curve"])
    if not all(given):
        raise UsageError("--curve pld needs the sampler of the audited DP-SGD; give --sampling-rate and --steps.")
    from dpaudit.pipeline.pld_curve import dp_sgd_curves

    relation = Relation(options["relation"])
    return dp_sgd_curves(sampling_rate=options["sampling_rate"], steps=options["steps"], relation=relation)


def _confidence(options: Mapping[str, Any]) -> float:
    confidence = float(options["confidence"])
    if options["release"] is None or not 0 < confidence < 1:
        return confidence
    from dpaudit.estimation import spend

    return 1 - spend(1 - confidence, options["release"])


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


def _evidence(assumption: Assumption) -> str:
    return f" [{assumption.evidence}]" if assumption.evidence else ""


def _text(bounds: list[Bound]) -> str:
    lines = []
    for bound in bounds:
        head = f"{bound.method} ({bound.family})"
        if bound.epsilon is None:
            lines.append(f"{head}: no bound: {bound.reason}")
        else:
            level = (
                f"{100 * (bound.confidence or 0):.4g} % confidence"
                if bound.family != "credible"
                else "credible, not confidence"
            )
            lines.append(f"{head}: epsilon >= {bound.epsilon:.4f} at delta {bound.delta:g}, {level}")
        if bound.threshold_selection is not None:
            how_many = f", {bound.guesses} guesses" if bound.guesses is not None else ""
            lines.append(f"  chosen beforehand by {bound.threshold_selection}{how_many}")
        lines += [f"  rests on {a.id} ({a.status}): {a.text}{_evidence(a)}" for a in bound.assumptions]
    if len(bounds) > 1:
        lines.append("Each bound holds on its own; the largest of several does not have the stated confidence.")
    return "\n".join(lines)
