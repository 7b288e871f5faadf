"""Install the third-party validators that the tests use: npm packages from a lock file, and Chromium if it is missing.

    python3 scripts/validators.py

What cannot be installed is said, and its tests then say "not run"; with DPAUDIT_REQUIRE_VALIDATORS=1 they fail instead.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements" / "validators"
STAMP = FOLDER / "node_modules" / "dpaudit-lock.sha256"
PYTEST_SHA256 = "97c4f3b1f3c7414aa36465e09b8220f1d03627993bd51b1282e193753c80557b"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def _npm() -> bool:
    """Install node_modules as the lock file says; no package runs a script of its own."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        print("validators: there is no Node.js with npm; install both", file=sys.stderr)
        return False
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return True
    done = subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], check=False, cwd=FOLDER)
    if done.returncode != 0:
        print("validators: npm ci failed", file=sys.stderr)
        return False
    for program in FOLDER.glob("node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool"):
        program.chmod(0o755)
    STAMP.write_text(wanted)
    return True


def _schema() -> bool:
    """Take the schema of JUnit files from the source distribution of pytest, which tests its own files with it."""
    target = FOLDER / "node_modules" / "junit-10.xsd"
    if target.is_file():
        return True
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--no-binary", "pytest", "pytest==9.2.0", "--dest", folder], check=False)
        archive = Path(folder) / "pytest-9.2.0.tar.gz"
        if not archive.is_file() or hashlib.sha256(archive.read_bytes()).hexdigest() != PYTEST_SHA256:
            print("validators: the source distribution of pytest 9.2.0 could not be had", file=sys.stderr)
            return False
        with tarfile.open(archive) as source:
            member = source.extractfile("pytest-9.2.0/testing/example_scripts/junit-10.xsd")
            target.write_bytes(member.read() if member else b"")
    return True


def _chromium() -> bool:
    """Install Chromium from Debian's packages where that is possible and it is missing."""
    if any(map(shutil.which, BROWSERS)):
        return True
    apt = shutil.which("apt-get")
    if apt is None:
        print("validators: there is no Chromium; install it", file=sys.stderr)
        return False
    for words in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        subprocess.run([apt, *words, "-qq"], check=False, stdout=subprocess.DEVNULL)
    if any(map(shutil.which, BROWSERS)):
        return True
    print("validators: Chromium could not be installed", file=sys.stderr)
    return False


def main() -> int:
    """Install both; exit code 0 if both are there."""
    npm = _npm()
    found = {"npm packages": npm, "JUnit schema": npm and _schema(), "Chromium": _chromium()}
    for name, there in found.items():
        print(f"validators: {name}: {'there' if there else 'NOT INSTALLED'}")
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
