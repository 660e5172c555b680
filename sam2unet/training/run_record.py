"""What a run was made of, so that its numbers can be explained later."""

from __future__ import annotations

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
from ..runtime.parallel import map_files
from ..runtime.versions import describe_device, versions

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

    Args:
        facts: the fields "recipe", "data" and "validation_set" of `PreparedRun.facts`.
        weights: the SHA-256 of each file that the training starts from, by file name.
        world: number of processes.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": dict(arguments),
        "recipe": facts["recipe"],
        "weights": dict(weights),
        "data": facts["data"],
        "validation": facts["validation_set"] or None,
        "device": describe_device(device) | {"processes": world},
        "versions": versions(PACKAGES),
        "git": read_git_state(PROJECT),
    }


def write_run_record(folder: Path, record: Mapping[str, object], resumed: bool = False) -> None:
    """As `run.json`; of a run that resumes, behind the record of its start. What JSON does not know becomes text."""
    path = folder / "run.json"
    if resumed and path.is_file():
        first = read_json(path, "move it away, and --resume goes on")
        earlier = first.get("resumed", [])
        record = first | {"resumed": [*(earlier if isinstance(earlier, list) else [earlier]), record]}
    with write_atomic(path) as file:
        file.write((json.dumps(record, indent=2, default=str) + "\n").encode())


def fingerprint(pairs: Sequence[Pair]) -> dict[str, object]:
    """What tells a set of pairs from another: names in their order, bytes, sizes. Only headers of files are read.

    Returns:
        "count"; "sizes" of the images as stored, "WxH" of the "min" and the "max" by area and how many are "distinct";
        "bytes" of images and masks; "names_sha256" of the file names, wherever their folders are.

    Raises:
        UserError: an image cannot be opened.
    """

    def look(pair: Pair) -> tuple[tuple[int, int], int]:
        with open_image(pair.image) as image:
            return image.size, pair.image.stat().st_size + pair.mask.stat().st_size

    looks = map_files(look, pairs)
    sizes = sorted({size for size, _ in looks}, key=lambda size: (size[0] * size[1], size))
    names = "\n".join(f"{pair.image.name}\n{pair.mask.name}" for pair in pairs)
    return {
        "count": len(pairs),
        "sizes": {"min": "{}x{}".format(*sizes[0]), "max": "{}x{}".format(*sizes[-1]), "distinct": len(sizes)},
        "bytes": sum(count for _, count in looks),
        "names_sha256": hashlib.sha256(os.fsencode(names)).hexdigest(),
    }


def read_git_state(project: Path) -> dict[str, object] | None:
    """The commit, and whether the package or train.py is "dirty": not as committed. None outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(project), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != project.resolve():
            return None  # installed inside another project
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", "sam2unet", "train.py"))}
    except (OSError, subprocess.SubprocessError):
        return None
