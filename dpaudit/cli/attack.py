"""`dpaudit attack MODEL --members A --non-members B`: membership inference on any trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import load_tensorflow
from dpaudit.errors import EXIT_PASS, EXIT_USAGE, DpauditError, UsageError

if TYPE_CHECKING:
    from dpaudit.attacks.base import Observed
    from dpaudit.attacks.files import Examples, Given
    from dpaudit.records import AttackResult, CheckResult, ScoreSet

THREAT_MODEL_OF_SCORES = "scores that were computed elsewhere"


@click.command()
@click.argument("model")
@click.option(
    "--members",
    type=click.Path(path_type=Path),
    help="Records that were trained on: .npz with x, y; or .csv, .parquet.",
)
@click.option("--non-members", type=click.Path(path_type=Path), help="Records of the same population that were not.")
@click.option("--attack", "wanted", multiple=True, help="Name of an attack; repeatable. Default: all that can run.")
@click.option(
    "--references",
    type=click.Path(path_type=Path),
    help=".npz with reference_logits (R, n, classes) and reference_in (R, n): members first.",
)
@click.option(
    "--outputs", "kind", type=click.Choice(["auto", "logits", "probabilities"]), default="auto", show_default=True
)
@click.option("--label", default="label", show_default=True, help="Label column of .csv and .parquet records.")
@click.option("--fpr", "fprs", type=float, multiple=True, default=(0.1, 0.01, 0.001), show_default=True)
@click.option("--confidence", type=float, default=0.95, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, show_default=True)
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """Attack MODEL: a .keras file, a run folder, module:function, or a file of its outputs (.npz, .csv, .parquet).

    A file of outputs holds scores, losses, or logits with labels and membership, and needs no --members.
    Exit code: 0 when every attack ran, 2 when one could not (the others are still printed).
    """
    results, checks = _run(**options)
    failed = [result for result in results if result.auc is None]
    payload = {"attacks": results, "checks": checks, "failed": [result.attack for result in failed]}
    emit("attack", payload, _text(results, checks), as_json=as_json)
    for result in failed:
        click.echo(f"dpaudit: the attack {result.attack!r} did not run: {result.reason}", err=True)
    ctx.exit(EXIT_USAGE if failed else EXIT_PASS)


def _run(**options: Any) -> tuple[list["AttackResult"], list["CheckResult"]]:
    from dpaudit.attacks import registry
    from dpaudit.attacks.files import SUFFIXES

    wanted = options["wanted"]
    for name in wanted:
        registry.make(name)  # an unknown name is told before any work
    if Path(options["model"]).suffix in SUFFIXES:
        return _on_file(options), []
    from dpaudit.attacks.files import read_examples

    if options["members"] is None or options["non_members"] is None:
        raise UsageError(
            "--members and --non-members are needed to attack a model; only a file of outputs goes without."
        )
    sides = (
        read_examples(options["members"], label=options["label"]),
        read_examples(options["non_members"], label=options["label"]),
    )
    given = _query(sides, options)
    return _attack(given, options), [_comparable(sides, given, options["seed"])]


def _on_file(options: dict[str, Any]) -> list["AttackResult"]:
    from dpaudit.attacks.files import read_outputs

    given = read_outputs(Path(options["model"]), kind=options["kind"])
    if given.scores is None:
        return _attack(given, options)
    if options["wanted"]:
        raise UsageError(f"{options['model']} holds finished scores; --attack needs logits and labels.")
    return [_summary(given.scores, given.name or "scores", THREAT_MODEL_OF_SCORES, options)]


def _query(sides: tuple["Examples", "Examples"], options: dict[str, Any]) -> "Given":
    import numpy as np

    from dpaudit.attacks import targets
    from dpaudit.attacks.base import Observed
    from dpaudit.attacks.files import Given, flags, read_arrays, unit_numbers

    if targets.needs_keras(options["model"]):
        load_tensorflow()
    model = targets.load_target(options["model"], batch_size=options["batch_size"])
    logits = targets.query(model, sides, kind=options["kind"])
    member = np.arange(len(logits)) < len(sides[0].y)
    units = [side.unit for side in sides]
    if (units[0] is None) != (units[1] is None):
        raise UsageError("either both files of records hold 'unit', or neither.")
    joined = None if units[0] is None or units[1] is None else np.concatenate([units[0], units[1]])
    unit, by_unit = unit_numbers("the records", joined, member)
    arrays = read_arrays(options["references"]) if options["references"] else {}
    missing = {"reference_logits", "reference_in"} - set(arrays) if arrays else set()
    if missing:
        raise UsageError(f"{options['references']} has no array {' and '.join(sorted(missing))}.")
    observed = Observed(
        logits=logits,
        labels=np.concatenate([sides[0].y, sides[1].y]),
        unit=unit,
        reference_logits=arrays.get("reference_logits"),
        reference_in=flags(options["references"], "reference_in", arrays["reference_in"]) if arrays else None,
    )
    return Given(observed=observed, is_member=by_unit)


def _attack(given: "Given", options: dict[str, Any]) -> list["AttackResult"]:
    """Run every attack; one that cannot run becomes a result that says why, and the others go on."""
    from dpaudit.attacks import registry
    from dpaudit.attacks.membership import scores_of, split
    from dpaudit.records import AttackResult

    if given.observed is None or given.is_member is None:
        raise UsageError("there is nothing to attack.")
    results = []
    for name in options["wanted"] or _possible(given.observed):
        threat_model = registry.make(name).threat_model
        try:
            scores = split(scores_of(name, given.observed), given.is_member)
            results.append(_summary(scores, name, threat_model, options))
        except DpauditError as error:
            results.append(AttackResult(attack=name, threat_model=threat_model, auc=None, reason=str(error)))
    return results


def _possible(observed: "Observed") -> list[str]:
    from dpaudit.attacks import registry
    from dpaudit.attacks.base import OUTPUTS, REFERENCE_MODELS

    have = {OUTPUTS} if observed.reference_logits is None else {OUTPUTS, REFERENCE_MODELS}
    return [name for name in registry.names() if registry.make(name).needs <= have]


def _summary(scores: "ScoreSet", name: str, threat_model: str, options: dict[str, Any]) -> "AttackResult":
    from dpaudit import estimation

    return estimation.summarise_attack(
        scores,
        attack=name,
        threat_model=threat_model,
        fprs=options["fprs"],
        confidence=options["confidence"],
        seed=options["seed"],
    )


def _comparable(sides: tuple["Examples", "Examples"], given: "Given", seed: int) -> "CheckResult":
    """Check the two files against each other; a check that cannot run is inconclusive, with the reason."""
    import numpy as np

    from dpaudit.attacks import comparable
    from dpaudit.records import CheckResult, Status

    try:
        x = np.concatenate([side.x for side in sides])
        y = np.concatenate([side.y for side in sides])
        unit = None if given.observed is None else given.observed.unit
        return comparable.check_comparable(x, y, np.arange(len(y)) < len(sides[0].y), unit=unit, seed=seed)
    except (DpauditError, ValueError) as error:
        return CheckResult(id=comparable.CHECK_ID, status=Status.INCONCLUSIVE, detail=str(error))


def _text(results: list["AttackResult"], checks: list["CheckResult"]) -> str:
    lines = []
    for result in results:
        if result.auc is None:
            lines.append(f"{result.attack}: did not run: {result.reason}")
            continue
        low, high = result.auc_ci or (result.auc, result.auc)
        lines.append(f"{result.attack}: AUC {result.auc:.4f} [{low:.4f}, {high:.4f}]  ({result.threat_model})")
        for point in result.tpr_at_fpr:
            if point.tpr is None or point.ci is None:
                lines.append(f"    TPR at FPR {point.fpr:.2%}: {point.reason}")
            else:
                lines.append(f"    TPR at FPR {point.fpr:.2%}: {point.tpr:.2%} [{point.ci[0]:.2%}, {point.ci[1]:.2%}]")
    lines += [f"{check.status.value.upper()} {check.id}: {check.detail}" for check in checks]
    return "\n".join(lines)
