"""Objects of the user's own code, named as `module:attribute`."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from dpaudit.errors import UsageError

_NAME = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


def is_object_name(text: str) -> bool:
    """Return whether a text has the form `module:attribute`."""
    return _NAME.match(text) is not None


def load_object(name: str) -> Any:
    """Import `module:attribute` (dots allowed on both sides), looking in the current folder as well.

    Raises: UsageError when the name has another form, cannot be imported, or importing it fails.
    """
    if not is_object_name(name):
        raise UsageError(f"{name!r} must be module:attribute, as in 'my_package.my_module:my_function'.")
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name!r} cannot be imported: {error}. The current folder is searched, too.") from error
    except Exception as error:
        raise UsageError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    return found
