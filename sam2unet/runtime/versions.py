"""The versions of the software that a run used, for the record of the run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Returns the versions of `packages` and of Python, by name. A package that is not installed has None."""
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def version(package: str) -> str | None:
    """Returns the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_device(device: torch.device) -> dict[str, object]:
    """Returns the names and the numbers of the device and the CPU, for the record of a run."""
    cores = os.cpu_count()
    facts = {"type": device.type, "cpu": read_cpu_name(), "cores": cores, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def read_cpu_name() -> str:
    """Returns the name of the CPU. On Linux it comes from the kernel, because `platform` often has no name."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
