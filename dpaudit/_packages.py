"""Which versions of packages are installed."""

from importlib.metadata import PackageNotFoundError, version


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
