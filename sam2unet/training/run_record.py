"""Writes `run.json`: the inputs, the software and the hardware of a run, so that its results can be explained."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..atomic import read_json, write_atomic
from ..data.checks.check import Sizes, list_sizes, measure_sizes, take_sample
from ..data.pairs import Pair
from ..errors import UserError
from ..runtime.device import describe_device
from ..runtime.processes import ALONE, Processes
from ..runtime.versions import versions

PACKAGES = ("sam2unet", "torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless")
PROJECT = Path(__file__).resolve().parents[2]


def build_run_record(
    arguments: Mapping[str, object],
    facts: Mapping[str, object],
    device: torch.device,
    weights: Mapping[str, str],
    world: int = 1,
) -> dict[str, object]:
    """Returns the content of `run.json`: arguments, recipe, data, software, hardware and the time of the start.

    `facts` are those of `PreparedRun`. `weights` has the SHA-256 of each file that the training starts from.
    """
    inputs = {"arguments": dict(arguments), "recipe": facts["recipe"], "weights": dict(weights), "data": facts["data"]}
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **inputs,
        "validation": facts["validation_set"] or None,
        "device": describe_device(device) | {"processes": world},
        "versions": versions(PACKAGES),
        "git": read_git_state(PROJECT),
    }


def write_run_record(folder: Path, record: Mapping[str, object], resumed: bool = False) -> None:
    """Writes `run.json`. A run that resumes adds its record to the first one. Values that JSON lacks become text."""
    path = folder / "run.json"
    if resumed and path.is_file():
        first = read_json(path, "move it away, then --resume works")
        earlier = first.get("resumed", [])
        record = first | {"resumed": [*(earlier if isinstance(earlier, list) else [earlier]), record]}
    with write_atomic(path) as file:
        file.write((json.dumps(record, indent=2, default=str) + "\n").encode())


def fingerprint(pairs: Sequence[Pair], sizes: Sizes | None = None, processes: Processes = ALONE) -> dict[str, object]:
    """Describes a set of pairs, so that a run can detect another set. Reads only the headers of the files.

    Returns the number of pairs ("count"); the smallest and the largest size of an image as stored ("min", "max") and
    the number of "distinct" sizes; the "bytes" of all files; and a hash of the file names in order, without folders. Of
    more pairs than the start of a run checks, the sizes and the bytes are those of "sample" pairs.

    Args:
        sizes: the sizes of the images, from the check. None: each process reads its share of the images.
    """
    sample = take_sample(pairs)
    if sizes is None:
        images = measure_sizes(sample, processes).values()
        if errors := [image for image in images if isinstance(image, UserError)]:
            raise errors[0]
        sizes = list_sizes(images)
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))

    def describe() -> dict[str, object]:
        return {
            "count": len(pairs),
            "sizes": {"min": "{}x{}".format(*ordered[0]), "max": "{}x{}".format(*ordered[-1]), "distinct": len(sizes)},
            "bytes": count_bytes(sample),
            "names_sha256": hash_names(pairs),
        } | ({"sample": len(sample)} if len(sample) < len(pairs) else {})

    return processes.compute_once(describe)


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the keys in which two fingerprints differ. Leaves out sizes and bytes if they are of other samples."""
    keys = [key for key in {**now, **then} if then.get(key) != now.get(key)]
    is_other_sample = then.get("sample") != now.get("sample")
    return [key for key in keys if not (is_other_sample and key in ("sizes", "bytes", "sample"))]


def count_bytes(pairs: Sequence[Pair]) -> int:
    """Returns the size of all files. An image counts once for each of its masks, which must be next to each other."""
    total, image, size = 0, None, 0
    for pair in pairs:
        if pair.image != image:
            image, size = pair.image, pair.image.stat().st_size
        total += size + pair.mask.stat().st_size
    return total


def hash_names(pairs: Sequence[Pair]) -> str:
    """Returns the SHA-256 of the file names in order, one a line."""
    digest = hashlib.sha256()
    for number, pair in enumerate(pairs):
        digest.update(os.fsencode(f"{chr(10) * bool(number)}{pair.image.name}\n{pair.mask.name}"))
    return digest.hexdigest()


def read_git_state(project: Path) -> dict[str, object] | None:
    """Returns the commit, and whether the package or train.py has changes ("dirty"). None outside a git checkout."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(project), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != project.resolve():
            return None  # the package is installed inside another project
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", "sam2unet", "train.py"))}
    except (OSError, subprocess.SubprocessError):
        return None
