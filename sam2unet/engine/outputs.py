"""What is written for an image: its map, and what else was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..files import make_folder, written_whole


@dataclass(frozen=True)
class Outputs:
    """
    Attributes:
        threshold: write 0 and 255, cut above it, instead of grey levels.
    """

    threshold: float | None = None


def write_outputs(folder: Path, name: str, grey: np.ndarray) -> None:
    """`folder/name.png`, 8-bit grey (height, width)."""
    path = folder / f"{name}.png"
    make_folder(path.parent)
    with written_whole(path) as file:
        file.write(png(grey))


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W), or (H, W, 3) RGB, as a PNG."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OSError("cannot encode the PNG")
    return data.tobytes()
