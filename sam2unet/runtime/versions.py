"""The installed software: packages of the extras, and the versions for the record of a run."""

import importlib
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

from ..errors import UserError


def import_extra(package: str, advice: str) -> ModuleType:
    """Imports a package that is optional. Raises UserError with `advice` if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as e:
        raise UserError(advice) from e


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Returns the versions of `packages` and of Python, by name. A package that is not installed has None."""
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def version(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def list_extras() -> dict[str, list[str]]:
    """Returns the packages of each optional part of sam2unet. Empty if sam2unet is not installed."""
    try:
        metadata = importlib.metadata.metadata("sam2unet")
    except importlib.metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return {
        extra.replace("-", "_"): [r.name for r in requirements if r.marker and r.marker.evaluate({"extra": extra})]
        for extra in metadata.get_all("Provides-Extra", [])
    }


def read_cpu_name() -> str:
    """Returns the name of the CPU. On Linux it comes from the kernel, because `platform` often has no name."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
