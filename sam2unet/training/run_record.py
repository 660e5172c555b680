"""Writes `run.json`: the inputs, the software and the hardware of a run, so that its results can be explained."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from ..atomic import read_json, write_atomic
from ..data.pairs import Pair
from ..data.reading import open_image
from ..runtime.device import describe_device
from ..runtime.parallel import map_files
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


def fingerprint(pairs: Sequence[Pair]) -> dict[str, object]:
    """Describes a set of pairs, so that a run can detect another set. Reads only the headers of the files.

    Returns the number of pairs ("count"); the smallest and the largest size of an image as stored ("min", "max") and
    the number of "distinct" sizes; the "bytes" of all files; and a hash of the file names in order, without folders.
    """

    def measure_files(pair: Pair) -> tuple[tuple[int, int], int]:
        with open_image(pair.image) as image:
            return image.size, pair.image.stat().st_size + pair.mask.stat().st_size

    files = map_files(measure_files, pairs)
    sizes = sorted({size for size, _ in files}, key=lambda size: (size[0] * size[1], size))
    names = "\n".join(f"{pair.image.name}\n{pair.mask.name}" for pair in pairs)
    return {
        "count": len(pairs),
        "sizes": {"min": "{}x{}".format(*sizes[0]), "max": "{}x{}".format(*sizes[-1]), "distinct": len(sizes)},
        "bytes": sum(count for _, count in files),
        "names_sha256": hashlib.sha256(os.fsencode(names)).hexdigest(),
    }


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
