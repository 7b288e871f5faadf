"""The `dpaudit` group: lazy sub-commands, one place for errors and exit codes."""

import difflib
import sys
from importlib import import_module

import click

from dpaudit import __version__
from dpaudit.cli.output import failure_document
from dpaudit.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, DpauditError

COMMANDS = {
    "account": ("account", "Upper bounds on epsilon, from a ledger or from parameters."),
    "attest": ("attest", "Sign what the gate says of a model, or seal evidence."),
    "attack": ("attack", "Membership inference on any trained model or on arrays of its outputs."),
    "calibrate": ("calibrate", "The noise multiplier that reaches a privacy target."),
    "check": ("check", "Statistical checks of training steps, mechanisms, sampling and ledgers."),
    "demo": ("demo", "One passing and one failing run, in about a minute."),
    "diff": ("diff", "What changed between two evidence bundles."),
    "doctor": ("doctor", "What is installed, what conflicts, how to repair it."),
    "estimate": ("estimate", "Lower bounds on epsilon, from scores."),
    "explain": ("explain", "What a rule of the gate asks, why it matters, how to fix it."),
    "export": (
        "export",
        "The verdict for model cards, bills of materials and registries; evidence as .zip.",
    ),
    "export-device": ("export_device", "The client of a run for devices: local training by LiteRT."),
    "federation": ("federation", "Federated training over a real network: shards, keys, server, node."),
    "gate": ("gate", "One verdict on an evidence bundle: pass, fail or inconclusive."),
    "init": ("init", "A policy file, and the gate in your CI."),
    "plan": ("plan", "How many canaries an audit needs."),
    "policy": ("policy", "Show or check a policy."),
    "report": ("report", "A report for people, from an evidence bundle."),
    "rules": ("rules", "The rules of the gate."),
    "run": ("run", "The whole job: train, account, audit, attack, verify, report, gate."),
    "verify": ("verify", "Whether a signed attestation speaks of this model, passes and is recent."),
    "train": ("train", "Train federated with DP-SGD, and keep the ledger."),
}


class LazyGroup(click.Group):
    """A group whose sub-commands are imported when they are called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"dpaudit.cli.{COMMANDS[cmd_name][0]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "DPAUDIT"})
@click.version_option(__version__, prog_name="dpaudit")
def cli() -> None:
    """Is the privacy you claim the privacy you ship?"""


def _fail(error: BaseException, code: int, arguments: list[str]) -> int:
    if "--json" in arguments:
        name = next((a for a in arguments if a in COMMANDS), "error")
        click.echo(failure_document(name, error, code))
    click.echo(f"dpaudit: {error}", err=True)
    return code


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; nothing but an internal error shows a traceback."""
    try:
        result = cli.main(args=arguments, standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except DpauditError as error:
        return _fail(error, error.exit_code, arguments)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("dpaudit: interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        if "--json" in arguments:
            return _fail(click.ClickException(error.format_message()), EXIT_USAGE, arguments)
        error.show()
        return EXIT_USAGE
    except BrokenPipeError:
        return EXIT_INTERRUPTED
    except Exception as error:
        import traceback

        traceback.print_exc()
        return _fail(error, EXIT_INTERNAL, arguments)


def main() -> None:
    """Entry point of the `dpaudit` script."""
    sys.exit(run(sys.argv[1:]))
