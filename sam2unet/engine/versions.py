"""Which software a run used, for its record."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Python's and those of `packages`; None for one that is not installed."""
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
