"""The HTML report as a tagged PDF, printed by a Chromium on this machine; the page runs and fetches nothing."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from dpaudit.errors import DpauditError, MissingDependency
from dpaudit.evidence import Evidence
from dpaudit.records import Verdict
from dpaudit.reports import html

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_SECONDS = 120


def browser() -> str:
    """Return the path of a Chromium: DPAUDIT_BROWSER, else the first one found; MissingDependency if there is none."""
    for name in filter(None, (os.environ.get("DPAUDIT_BROWSER"), *BROWSERS)):
        if found := shutil.which(name):
            return found
    raise MissingDependency(
        "a PDF is printed by Chromium, and none was found. Install chromium, or set DPAUDIT_BROWSER to a browser "
        "of that family, or write --format html and print it."
    )


def render(evidence: Evidence, verdict: Verdict) -> bytes:
    """Return the PDF; raise MissingDependency without a browser, DpauditError if printing fails."""
    program = browser()
    with tempfile.TemporaryDirectory(prefix="dpaudit-pdf-") as folder:
        page, target = Path(folder) / "report.html", Path(folder) / "report.pdf"
        page.write_text(html.render(evidence, verdict), encoding="utf-8")
        _print(program, page, target, Path(folder) / "profile")
        if not target.is_file():
            raise DpauditError(f"{program} printed no PDF.")
        return target.read_bytes()


def _print(program: str, page: Path, target: Path, profile: Path) -> None:
    command = [
        program,
        "--headless",
        "--disable-gpu",
        "--disable-extensions",
        "--no-first-run",
        "--disable-background-networking",
        "--no-pdf-header-footer",
        "--export-tagged-pdf",
        f"--user-data-dir={profile}",
        f"--print-to-pdf={target}",
        page.as_uri(),
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # Chromium does not start its sandbox for root
    try:
        # Fixed arguments and no shell.
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)  # noqa: S603
    except (subprocess.SubprocessError, OSError) as error:
        raise DpauditError(f"{program} could not print the report: {error}") from error
