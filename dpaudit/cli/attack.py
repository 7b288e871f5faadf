"""`dpaudit attack MODEL --members A --non-members B`: membership inference on any trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpaudit.cli.executor_options import NAMES, chosen_executor, executor_options
from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import load_tensorflow
from dpaudit.errors import EXIT_PASS, EXIT_USAGE, DpauditError, UsageError

if TYPE_CHECKING:
    from dpaudit.attacks.ceilings import Ceiling
    from dpaudit.pipeline.attack_model import AttackReport, Measure

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.option("--members", type=FILE, help="Records that were trained on: .npz with x, y; or .csv, .parquet.")
@click.option("--non-members", type=FILE, help="Records of the same population that were not.")
@click.option("--population", type=FILE, help="More such records, known to the attacker: for population and quantile.")
@click.option("--groups", type=FILE, help="Groups to judge by themselves: a column per grouping, a row per record.")
@click.option("--attack", "wanted", multiple=True, help="Name of an attack; repeatable. Default: all that can run.")
@click.option("--references", type=FILE, help=".npz with reference_logits (R, n, classes) and reference_in (R, n).")
@click.option("--shadow-models", type=click.IntRange(min=0, max=1024), default=0, help="Train so many for LiRA, RMIA.")
@click.option("--hidden", default="64", show_default=True, help="Layers of shadow models and twin, as in 128,64.")
@click.option(
    "--augmented-queries", type=click.IntRange(min=0, max=64), default=0, help="Altered copies to query, too."
)
@click.option(
    "--private-features",
    type=click.IntRange(min=0),
    help="Zeros to append to every record, for a model trained with feature canaries; a run folder says it itself.",
)
@click.option("--earlier-model", help="A .keras snapshot from before: for gradient-alignment.")
@click.option("--control/--no-control", default=True, help="Try the attacks on a non-private twin as well.")
@click.option("--claim-epsilon", type=float, help="Proven epsilon: prints the ceiling that it puts on each result.")
@click.option("--delta", type=float, help="Delta of --claim-epsilon.")
@click.option("--save-scores", type=FILE, help="Folder for one .npz per attack, as `dpaudit estimate` reads them.")
@click.option(
    "--outputs", "kind", type=click.Choice(["auto", "logits", "probabilities"]), default="auto", show_default=True
)
@click.option("--label", default="label", show_default=True, help="Label column of .csv and .parquet records.")
@click.option("--fpr", "fprs", type=float, multiple=True, default=(0.1, 0.01, 0.001), show_default=True)
@click.option("--confidence", type=float, default=0.95, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, show_default=True)
@executor_options
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """Attack MODEL: a file, a run folder, module:function, or a file of its outputs.

    Model files: .keras, .tflite, .onnx, a SavedModel folder. Files of outputs (.npz, .csv, .parquet) hold scores,
    losses, or logits with labels and membership, and need no --members. The folder of a run brings its own proven
    epsilon. --groups names a client, class or sub-population for each record, members first, then non-members (for
    a file of outputs: in its order). Exit code: 0 when every attack ran, 2 when one could not (the others are still
    printed).
    """
    from dpaudit.cli.attack_text import text_of

    report = _run(options)
    failed = [result for result in report.attacks if result.auc is None]
    payload = {
        "attacks": report.attacks,
        "checks": report.checks,
        "groups": report.groups,
        "exposed": report.exposed,
        "failed": [result.attack for result in failed],
        "saved": _save(report, options["save_scores"]),
    }
    emit("attack", payload, text_of(report), as_json=as_json)
    for result in failed:
        click.echo(f"dpaudit: the attack {result.attack!r} did not run: {result.reason}", err=True)
    ctx.exit(EXIT_USAGE if failed else EXIT_PASS)


def _run(options: dict[str, Any]) -> "AttackReport":
    from dpaudit.attacks import registry
    from dpaudit.attacks.files import SUFFIXES, read_outputs
    from dpaudit.pipeline import attack_model

    for name in options["wanted"]:
        registry.make(name)  # an unknown name is told before any work
    path, measure = Path(options["model"]), _measure(options)
    if path.suffix in SUFFIXES:
        given = read_outputs(path, kind=options["kind"])
        return attack_model.attack_outputs(given, path, options["wanted"], measure, groups=options["groups"])
    if options["members"] is None or options["non_members"] is None:
        raise UsageError(
            "--members and --non-members are needed to attack a model; only a file of outputs goes without."
        )
    return _on_model(options, measure)


def _on_model(options: dict[str, Any], measure: "Measure") -> "AttackReport":
    from dpaudit.attacks.targets import needs_tensorflow
    from dpaudit.pipeline import attack_inputs, attack_model

    hidden = _layers(options["hidden"])
    if options["control"] or options["shadow_models"] or needs_tensorflow(options["model"]):
        _tensorflow(required=bool(options["shadow_models"]) or needs_tensorflow(options["model"]))
    request = attack_inputs.Request(
        model=options["model"],
        members=options["members"],
        non_members=options["non_members"],
        population=options["population"],
        groups=options["groups"],
        references=options["references"],
        earlier_model=options["earlier_model"],
        attacks=options["wanted"],
        shadow_models=options["shadow_models"],
        hidden=hidden,
        augmented_queries=options["augmented_queries"],
        outputs=options["kind"],
        label=options["label"],
        batch_size=options["batch_size"],
        seed=options["seed"],
        private_features=options["private_features"],
    )
    with chosen_executor(**{name: options[name] for name in NAMES}) as executor:
        subject = attack_inputs.observe(request, executor=executor)
    return attack_model.attack_subject(subject, options["wanted"], measure, control=options["control"], hidden=hidden)


def _tensorflow(*, required: bool) -> None:
    """Load TensorFlow quietly; without it the control says by itself that it could not run."""
    try:
        load_tensorflow()
    except DpauditError:
        if required:
            raise


def _layers(text: str) -> tuple[int, ...]:
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = ()
    if not layers or min(layers) < 1:
        raise UsageError(f"--hidden must be whole numbers above 0 with commas between, as in 128,64; got {text!r}.")
    return layers


def _measure(options: dict[str, Any]) -> "Measure":
    from dpaudit.pipeline.attack_model import Measure

    return Measure(
        fprs=options["fprs"], confidence=options["confidence"], seed=options["seed"], ceiling=_ceiling(options)
    )


def _ceiling(options: dict[str, Any]) -> "Ceiling | None":
    """Return the ceiling of --claim-epsilon and --delta, or of the evidence in the folder of a run."""
    from dpaudit.attacks.ceilings import ceiling_of, ceiling_of_claim

    if (options["claim_epsilon"] is None) != (options["delta"] is None):
        raise UsageError("--claim-epsilon and --delta belong together; one of them is missing.")
    if options["claim_epsilon"] is not None:
        return ceiling_of_claim(options["claim_epsilon"], options["delta"])
    if not (Path(options["model"]) / "evidence").is_dir():
        return None
    from dpaudit.evidence import read_evidence

    accounting = read_evidence(options["model"]).accounting
    return None if accounting is None else ceiling_of(accounting)


def _save(report: "AttackReport", folder: Path | None) -> list[str]:
    """Write scores for `dpaudit estimate`; return the paths."""
    if folder is None:
        return []
    import io

    import numpy as np

    from dpaudit import serialize

    paths = []
    for name, scores in report.scores.items():
        stream = io.BytesIO()
        np.savez(stream, member=scores.member, non_member=scores.non_member)
        serialize.write_atomic(folder / f"{name}.npz", stream.getvalue())
        paths.append(str(folder / f"{name}.npz"))
    return paths
