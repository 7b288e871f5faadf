"""TensorFlow without its start-up chatter: what it prints while it loads is held back, and shown only if it fails."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from dpaudit.errors import MissingDependency


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Send file descriptor 2 to a temporary file, and replay it if the body raises."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def load_tensorflow() -> None:
    """Import TensorFlow quietly; raise MissingDependency if it is not installed. What the user has set stays set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        with held_back_stderr():
            import_module("tensorflow")
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"this command needs {error.name}, which is not installed. Run: pip install 'dpaudit[train]'"
        ) from error
