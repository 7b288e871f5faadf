"""Where a run comes from and when it was trained: facts that a resumed audit must not refresh."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dpaudit import serialize
from dpaudit.config import RunConfig
from dpaudit.pipeline.workspace import config_digest

TRAINED = "trained.json"
_SCHEMA = "dpaudit.trained/v1"
_GIT_SECONDS = 20


def trained_at(out: Path, model: Path, *, ledger_digest: str) -> str:
    """Return when the training in `out` ended, in UTC; fixed when it is first asked for, whatever is resumed later.

    The file of the model was last written when training ended, so that its time is taken even if the audit comes
    days later; afterwards `trained.json` holds it, for the ledger of that training only.
    """
    note = out / TRAINED
    if note.is_file():
        known = serialize.loads(note.read_bytes())
        if isinstance(known, dict) and known.get("ledger_digest") == ledger_digest:
            return str(known["trained_at"])
    ended = datetime.fromtimestamp(min(model.stat().st_mtime, datetime.now(UTC).timestamp()), UTC)
    text = ended.isoformat(timespec="seconds")
    serialize.write_atomic(
        note, serialize.dumps({"schema": _SCHEMA, "trained_at": text, "ledger_digest": ledger_digest})
    )
    return text


def describe(config: RunConfig) -> dict[str, Any]:
    """Return which code and configuration made the evidence; what cannot be found out is None."""
    return {
        "code": _code(Path.cwd()),
        "config_sha256": config_digest(config),
        "command": _command(sys.argv),
    }


def _command(arguments: list[str]) -> str:
    """Return the command line without the folders of this machine."""
    return " ".join(_without_folder(word) for word in arguments)[:500]


def _without_folder(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{Path(value).name if os.path.isabs(value) else value}"


def _code(folder: Path) -> dict[str, Any]:
    """Return the commit of the repository that the run was started in, and whether tracked files were changed."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not re.fullmatch("[0-9a-f]{40,64}", commit):
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None without git, outside a repository, or if it takes too long."""
    try:
        # Fixed arguments and no shell; a git that is found first in PATH is the one that the user means.
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            check=False, cwd=folder, capture_output=True, text=True, timeout=_GIT_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
