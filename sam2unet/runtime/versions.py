"""The versions of the software that a run used, for the record of the run."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Returns the versions of `packages` and of Python, by name. A package that is not installed has None."""
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def version(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
