"""The exceptions of dpaudit and the exit code of each.

    DpauditError                 70  something in dpaudit itself went wrong
    ├── UsageError                2  the caller must change what they asked for
    │   ├── ConfigError           2  a configuration or policy file is wrong (all errors at once)
    │   ├── DataError             2  an input file or array cannot be used
    │   ├── LedgerCorrupt         2  a privacy ledger was changed or is unreadable
    │   ├── EvidenceError         2  an evidence bundle is incomplete, changed or unsafe
    │   ├── OutputExists          2  the output folder holds another run
    │   └── MissingDependency     2  an optional package is not installed
    ├── AccountantsDisagree      70  two accountants contradict each other on the same event
    ├── TaskFailed               70  a task of a campaign failed, by no error of dpaudit's own, or its workers died
    └── Refusal                   3  the question has no number that is a bound
        ├── UnsupportedEvent      3  no accountant here can account for this event
        └── CannotCalibrate       2  no noise multiplier reaches the wanted epsilon

An interruption (Ctrl-C) exits with 130. Gate failures are verdicts, not exceptions.
"""

from collections.abc import Sequence

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class DpauditError(Exception):
    """Base of every error that dpaudit raises on purpose; `exit_code` is what the command line returns."""

    exit_code = EXIT_INTERNAL


class UsageError(DpauditError, ValueError):
    """What was asked for cannot be done; the message names the constraint, the value and the remedy."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration or policy file is wrong. `problems` holds every problem found, one line each."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{source}: {len(self.problems)} problem(s)", *(f"  {p}" for p in self.problems)]))


class DataError(UsageError):
    """An input file or array cannot be used (NaN, wrong shape, labels out of range, empty)."""


class LedgerCorrupt(UsageError):
    """A ledger line does not fit the hash chain; the message names the line."""


class EvidenceError(UsageError):
    """An evidence bundle is incomplete, was changed after it was written, or is unsafe to open."""


class OutputExists(UsageError):
    """The output folder already holds a run that would be mixed with this one."""


class MissingDependency(UsageError):
    """An optional package is needed; the message gives the command that installs it."""


class AccountantsDisagree(DpauditError):
    """Two accountants contradict each other on the same event; the message names the one at fault."""


class TaskFailed(DpauditError):
    """A task of a campaign failed, or its workers died again and again; the message names it.

    `exit_code` is that of the error in the task.
    """

    def __init__(self, message: str, exit_code: int = EXIT_INTERNAL) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class Refusal(DpauditError):
    """The question is understood, but no number that answers it would be a bound."""

    exit_code = EXIT_INCONCLUSIVE


class UnsupportedEvent(Refusal):
    """No accountant here can bound this privacy event; the message names the event and the reason."""


class CannotCalibrate(Refusal):
    """No noise multiplier in the searched range reaches the wanted privacy."""

    exit_code = EXIT_USAGE
