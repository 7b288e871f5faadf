"""Where the third-party validators are, or why the tests that need them were not run."""

import os
import shutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "requirements" / "validators"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def not_run(what: str) -> None:
    """Skip visibly; fail where the validators were promised."""
    text = f"not run: {what} is not installed; python3 scripts/validators.py installs it"
    if os.environ.get("DPAUDIT_REQUIRE_VALIDATORS") == "1":
        pytest.fail(text)
    pytest.skip(text)


def node_modules() -> Path:
    """Return the folder that holds the npm validators."""
    if shutil.which("node") is None or not (FOLDER / "node_modules" / "dpaudit-lock.sha256").is_file():
        not_run("the set of npm validators")
    return FOLDER


def chromium() -> str:
    """Return the path of a Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        not_run("Chromium")
    return str(found)
