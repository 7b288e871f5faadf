"""`dpaudit demo`: the same training twice, once honest and once with half the noise, and both verdicts."""

from importlib.resources import files
from pathlib import Path

import click

from dpaudit.cli.output import emit, json_option
from dpaudit.cli.quiet import load_tensorflow
from dpaudit.cli.run import document
from dpaudit.errors import EXIT_FAIL, EXIT_INTERNAL, EXIT_PASS

HONEST, BROKEN = "honest", "half-the-noise"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("dpaudit-demo"), show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
@click.pass_context
def command(ctx: click.Context, out: Path, quiet: bool, as_json: bool) -> None:
    """Train on real data twice: honestly, and with half the noise that the ledger promises.

    The first must pass and the second must fail: exit code 0 when both happen, 70 when either does not.
    """
    from dpaudit import config as configuration
    from dpaudit.policy import load_policy

    text = files("dpaudit").joinpath("data/demo.toml").read_text(encoding="utf-8")
    settings = configuration.parse(text, source="the demonstration's configuration")
    load_tensorflow()
    from dpaudit import pipeline
    from dpaudit.pipeline.progress import choose

    policy = load_policy(settings.policy)
    results, texts = {}, []
    for name, factor in ((HONEST, 1.0), (BROKEN, 0.5)):
        reporter = choose(quiet=quiet)
        twin = settings if factor == 1.0 else pipeline.with_fault(settings, noise_factor=factor)
        try:
            outcome = pipeline.run(twin, out / name, policy=policy, resume=False, today=None, reporter=reporter)
            written = pipeline.write_outputs(outcome, out / name)
        finally:
            reporter.close()
        results[name] = {**document(outcome, written), "exit_code": outcome.verdict.exit_code}
        texts.append(f"=== {name} ===\n{pipeline.verdict_text(outcome, written)}")
    expected = (results[HONEST]["exit_code"], results[BROKEN]["exit_code"]) == (EXIT_PASS, EXIT_FAIL)
    texts.append(
        "The honest training passed, and the planted fault was caught."
        if expected
        else "This is not what the demonstration must show: honest should pass, half the noise should fail."
    )
    emit("demo", {"as_expected": expected, "runs": results}, "\n\n".join(texts), as_json=as_json)
    ctx.exit(EXIT_PASS if expected else EXIT_INTERNAL)
