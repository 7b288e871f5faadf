"""Progress for people, on stderr: a live line on a terminal, one line per tenth of the work elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Protocol


class Reporter(Protocol):
    """Where stages and rounds are announced."""

    def stage(self, text: str) -> None:
        """Announce a stage."""

    def rounds(self, done: int, total: int, epsilon: float | None) -> None:
        """Announce that a training round has ended."""

    def close(self) -> None:
        """Release the terminal."""


class Quiet:
    """Says nothing."""

    def stage(self, text: str) -> None:
        """Ignore."""

    def rounds(self, done: int, total: int, epsilon: float | None) -> None:
        """Ignore."""

    def close(self) -> None:
        """Ignore."""


class _Pace:
    """Rounds per second since the first round that was announced: a resumed run does not count those before it."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def text(self, done: int) -> str:
        """Return the pace as text; nothing before there is one."""
        now = time.monotonic()
        self._first = self._first or (done, now)
        rounds, seconds = done - self._first[0], now - self._first[1]
        return f", {rounds / seconds:.3g} rounds/s" if rounds > 0 and seconds > 0 else ""


class Lines:
    """Plain lines with elapsed seconds, for logs and CI."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._tenth = 0
        self._pace = _Pace()

    def _say(self, text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - self._start:6.1f}s] {text}\n")
        sys.stderr.flush()

    def stage(self, text: str) -> None:
        """Print the stage."""
        self._tenth = 0
        self._pace = _Pace()
        self._say(text)

    def rounds(self, done: int, total: int, epsilon: float | None) -> None:
        """Print a line at each tenth of the rounds."""
        pace = self._pace.text(done)
        if done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            self._say(_round_text(done, total, epsilon) + pace)

    def close(self) -> None:
        """Nothing to release."""


class Live:
    """A bar that is rewritten in place, with rounds per second and the epsilon spent so far."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._task = self._progress.add_task("starting", total=None, detail="")
        self._pace = _Pace()

    def stage(self, text: str) -> None:
        """Start a new line for a stage."""
        self._progress.update(self._task, total=1, completed=1, detail="")
        self._task = self._progress.add_task(text, total=None, detail="")
        self._pace = _Pace()

    def rounds(self, done: int, total: int, epsilon: float | None) -> None:
        """Move the bar."""
        detail = _round_text(done, total, epsilon) + self._pace.text(done)
        self._progress.update(self._task, total=total, completed=done, detail=detail)

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.update(self._task, total=1, completed=1)
        self._progress.stop()


def _round_text(done: int, total: int, epsilon: float | None) -> str:
    spent = "" if epsilon is None else f", epsilon so far {epsilon:.3f}"
    return f"round {done} of {total}{spent}"


def choose(*, quiet: bool) -> Reporter:
    """Return the reporter that fits stderr."""
    if quiet:
        return Quiet()
    make: Callable[[], Reporter] = Live if sys.stderr.isatty() else Lines
    return make()
