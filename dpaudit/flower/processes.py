"""Processes that we start, and the end of them and of everything that they start in turn.

Flower's programs start further ones, some detached from their session. Every one of them inherits an environment
variable with a value of our own, by which it is found again (on Linux; elsewhere Flower's own watch over the parent's
id ends them a moment later).
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpaudit.errors import UsageError

MARK = "DPAUDIT_FEDERATION_MARK"
_PATIENCE = 10.0


class Processes:
    """What one federation command has started. Use as a context manager: at the end nothing of it is left."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` of the programs; the folder of this Python's programs is searched first."""
        self.mark = uuid.uuid4().hex
        here = str(Path(sys.executable).parent)
        path = os.pathsep.join([here, environment.get("PATH", os.defpath)])
        self._environment = {**environment, "PATH": path, MARK: self.mark}
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, command: Sequence[str], *, log: Path, extra: Mapping[str, str] | None = None) -> "Started":
        """Start a program whose output goes to the end of `log`. Raises: UsageError when it cannot be started."""
        program = Path(sys.executable).parent / command[0]
        full = [str(program) if program.is_file() else command[0], *command[1:]]
        try:
            with log.open("ab") as stream:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    full,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env={**self._environment, **(extra or {})},
                    start_new_session=True,
                )
        except OSError as error:
            raise UsageError(f"{command[0]} cannot be started: {error}") from error
        self._started.append(process)
        return Started(process, log)

    def end(self) -> None:
        """End everything: politely, then by force; returns when nothing marked is left."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and (self._running() or marked(self.mark)):
            time.sleep(0.1)
        for process in self._started:
            if process.poll() is None:
                process.kill()
        end_marked(self.mark)
        for process in self._started:
            process.wait()
        self._started.clear()

    def _running(self) -> bool:
        return any(process.poll() is None for process in self._started)


class Started:
    """A program that runs, or has ended."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def tail(self, lines: int = 15) -> str:
        """Return the end of what it wrote."""
        text = self._log.read_bytes()[-20_000:].decode(errors="replace") if self._log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])


def marked(mark: str) -> list[int]:
    """Return the ids of the running processes with a mark in their environment; empty where that cannot be seen."""
    wanted, found = f"{MARK}={mark}".encode(), []
    if not Path("/proc").is_dir():
        return []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue  # it has just ended, or is somebody else's
        if wanted in variables and state != "Z":
            found.append(int(folder.name))
    return found


def end_marked(mark: str) -> None:
    """End every running process with a mark, by force; returns when none is left (or after 5 s)."""
    for _ in range(50):  # one that is just being started may escape a first look
        left = marked(mark)
        for pid in left:
            _kill(pid)
        if not left:
            return
        time.sleep(0.1)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return
