"""Set up everything in .venv on first use, then run a command in it. Needs CPython 3.11 and nothing else.

    python3 scripts/dev.py dpaudit run examples/digits_federated.toml --out runs/digits
    python3 scripts/dev.py pytest

The environment is what requirements/lock.txt says, package by package, each verified by its hash; it is made
anew when the lock file changes.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "lock.txt"
STAMP = VENV / "dpaudit-lock.sha256"


def _install() -> None:
    """Build the environment from the lock file and install this checkout into it, editable."""
    print("dpaudit: setting up .venv from requirements/lock.txt (about a minute, once)", file=sys.stderr, flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=True, stdout=sys.stderr)
    subprocess.run([*pip, "--no-build-isolation", "--editable", str(ROOT)], check=True, stdout=sys.stderr)


def main() -> int:
    """Prepare the environment if needed and hand over to the command."""
    if sys.version_info[:2] != (3, 11):
        print(f"dpaudit: the lock file is for CPython 3.11; this is {sys.version.split()[0]}.", file=sys.stderr)
        print("Use python3.11, or install the package yourself: pip install -e '.[train,parquet]'", file=sys.stderr)
        return 2
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not STAMP.is_file() or STAMP.read_text() != wanted:
        _install()
        STAMP.write_text(wanted)
    tool = VENV / "bin" / sys.argv[1]
    if not tool.is_file():
        print(
            f"dpaudit: there is no {sys.argv[1]!r} in .venv; try python, dpaudit, pytest, ruff, mypy.", file=sys.stderr
        )
        return 2
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["VIRTUAL_ENV"] = str(VENV)
    return os.execv(tool, [str(tool), *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
