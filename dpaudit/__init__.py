"""dpaudit: is the privacy you claim the privacy you ship?

`import dpaudit` loads neither TensorFlow nor matplotlib nor dp-accounting; the names below load on first use.
"""

from importlib import import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpaudit.judgement import is_differentially_private as is_differentially_private
    from dpaudit.ledger import PrivacyLedger as PrivacyLedger
    from dpaudit.records import Bound as Bound
    from dpaudit.records import Claim as Claim
    from dpaudit.records import Status as Status
    from dpaudit.records import Verdict as Verdict

__version__ = "0.1.0"
__all__ = ["Bound", "Claim", "PrivacyLedger", "Status", "Verdict", "__version__", "is_differentially_private"]

_HOMES = {
    "Bound": "dpaudit.records",
    "Claim": "dpaudit.records",
    "PrivacyLedger": "dpaudit.ledger",
    "Status": "dpaudit.records",
    "Verdict": "dpaudit.records",
    "is_differentially_private": "dpaudit.judgement",
}

_here = _Path(__file__).parent
if not (_here / "attacks").is_dir() and (_here.parent / "pyproject.toml").is_file():
    # A checkout whose symbolic links git could not make (Windows): find attacks/ and reports/ beside us.
    __path__.append(str(_here.parent))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dpaudit' has no attribute {name!r}")
