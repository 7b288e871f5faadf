import json
from pathlib import Path

import pytest

KNOWN = Path(__file__).parent.parent / "known_answers" / "accounting_and_tests.json"


@pytest.fixture(scope="session")
def known_answers():
    """Return a function that gives the entries of one tool whose call contains a text."""
    entries = json.loads(KNOWN.read_text(encoding="utf-8"))["entries"]

    def find(tool, call):
        found = [entry for entry in entries if entry["tool"] == tool and call in entry["call"]]
        assert found, f"no known answer of {tool} for {call}"
        return found

    return find
