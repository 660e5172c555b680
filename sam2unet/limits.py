"""The limits of every number in flags and files. This is the only place that defines them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

# Name of the flag or field -> (smallest, largest). Names in `ABOVE_SMALLEST` must be above the smallest value.
LIMITS: dict[str, tuple[float, float]] = {
    "size": (32, 8192),
    "epoch": (1, 100_000),
    "repeat": (1, 100_000),
    "batch_size": (1, 65_536),
    "accumulate": (1, 65_536),
    "lr": (0, 100),
    "weight_decay": (0, 100),
    "warmup": (0, 10**9),
    "multi_scale": (0, 16),
    "seed": (0, 2**63 - 1),
    "seeds": (1, 100),
    "mask_num": (1, 10_000),
    "iter_point": (1, 1000),
    "point_list": (1, 10_000),
    "point_num": (1, 10_000),
    "workers": (0, 1024),
    "actors": (0, 65_536),
    "gpus": (0, 1024),
    "save_minutes": (0, 10**6),
    "minutes": (1, 10**5),
    "keep": (1, 10**6),
    "val_every": (1, 100_000),
    "tile": (1, 65_536),
    "components": (0, 2**31 - 1),
    "axis": (0, 2),
    "context": (0, 1),
    "spacing": (1e-12, 1e12),
    "nsd_tolerance": (0, 1e15),
    "port": (0, 65_535),
    "max_images": (1, 10_000),
    "max_megapixels": (0, 10**6),
    "max_mb": (0, 10**6),
}
ABOVE_SMALLEST = ("lr", "multi_scale", "max_megapixels", "max_mb")
MAX_VOXELS = 2**31  # of a volume


def check_numbers(values: Mapping[str, Any], source: Path | str | None = None) -> None:
    """Raises UserError for a value outside its limits, also in a list. Skips None and names without limits.

    The message names `source`, the file that the values come from, or another value that they are computed from.
    """
    for name, numbers in values.items():
        if name not in LIMITS or numbers is None:
            continue
        low, high = LIMITS[name]
        for value in numbers if isinstance(numbers, (list, tuple)) else [numbers]:
            if not (low < value <= high if name in ABOVE_SMALLEST else low <= value <= high):
                wanted = f"above {low} and at most {high}" if name in ABOVE_SMALLEST else f"from {low} to {high}"
                raise UserError(f"{f'{source}: ' if source else ''}{name} is {shorten(value)}; it must be {wanted}")


def round_size(size: float, stride: int) -> int:
    """Returns the input side nearest to `size` that is a multiple of `stride` and not below the smallest side."""
    return max(round(size / stride), math.ceil(LIMITS["size"][0] / stride)) * stride


def shorten(value: object, length: int = 40) -> str:
    """Returns `str(value)`. Of a long text, returns the beginning and the number of characters."""
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
