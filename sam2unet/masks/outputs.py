"""What is written for an image: its map, and what else was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.reading import FOREGROUND, read_image
from ..errors import UserError
from ..files import make_folder, written_whole
from ..limits import check_numbers
from .maps import stretched
from .pictures import outlined, tinted
from .predict import grey_levels

NUMBERS = ("float16", "float32")
JPEG_SIDE = 65500  # what a JPEG holds at most
PNG_SIDE = 1_000_000  # what OpenCV writes at most

# The fastest of OpenCV's settings on real maps, and little larger than its others: run lengths of differences between
# rows. An older OpenCV cannot be told the differences; what it does if told nothing is run lengths along rows.
PNG = []
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    PNG += [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


@dataclass(frozen=True)
class Outputs:
    """
    Attributes:
        threshold: write 0 and 255, cut above it, instead of grey levels.
        components: connected parts of a map's foreground with fewer pixels become 0.
        overlay, contours: the photograph with the map on it, or with its outlines, in folders of these names.
        probability: write it too, not stretched, in numbers of this kind; in the folder `prob`.

    Raises:
        UserError: a value out of its range.
    """

    threshold: float | None = None
    components: int = 0
    overlay: bool = False
    contours: bool = False
    probability: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}; it must be from 0 to 1")
        check_numbers({"components": self.components})

    def paths(self, folder: Path, name: str) -> dict[str, Path]:
        """Where everything of the image `name` goes: `map`, and of the others those that are asked for.

        The pictures have folders of their own, so that eval.py finds nothing but maps among maps.
        """
        wanted = {"overlay": self.overlay, "contours": self.contours, "prob": self.probability is not None}
        endings = {"overlay": ".jpg", "contours": ".jpg", "prob": ".npz"}
        extra = {kind: folder / kind / f"{name}{endings[kind]}" for kind, asked in wanted.items() if asked}
        return {"map": folder / f"{name}.png"} | extra


def greys_of(probability: Tensor, minmax: bool, outputs: Outputs) -> np.ndarray:
    """Probabilities (height, width) -> the map, uint8, small components still in it."""
    if minmax:
        probability = stretched(probability)
    if outputs.threshold is not None:
        probability = (probability > outputs.threshold).to(torch.float32)
    return grey_levels(probability)


def without_small(grey: np.ndarray, least: int) -> np.ndarray:
    """Foreground parts (grey above 128, joined over sides or corners) of fewer than `least` pixels become 0."""
    if least < 2:
        return grey
    _, labels, stats, _ = cv2.connectedComponentsWithStats((grey > FOREGROUND).astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < least
    small[0] = False  # what is not foreground
    return np.where(small[labels], np.uint8(0), grey)


def write_outputs(
    folder: Path,
    name: str,
    grey: np.ndarray,
    outputs: Outputs = Outputs(),
    photo: Path | None = None,
    probability: np.ndarray | None = None,
) -> None:
    """Every file of `Outputs.paths`, each whole or not at all; UserError where one cannot be written.

    Args:
        grey: uint8 (height, width), of `greys_of`.
        photo: what overlay and contours are drawn on. Its file, for photographs kept in memory would fill it.
        probability: float (height, width), for the folder `prob`.
    """
    paths = outputs.paths(folder, name)
    grey = without_small(grey, outputs.components)
    write(paths["map"], png(grey))
    if outputs.overlay or outputs.contours:
        picture = read_image(photo)
        for kind, draw in (("overlay", tinted), ("contours", outlined)):
            if kind in paths:
                write(paths[kind], jpeg(draw(on_map(picture, grey), grey)))
    if "prob" in paths:
        make_folder(paths["prob"].parent)
        with written_whole(paths["prob"]) as file:
            np.savez(file, probability=probability.astype(outputs.probability))


def on_map(photo: Image.Image, grey: np.ndarray) -> np.ndarray:
    """The photograph in the map's size, uint8 (height, width, 3), to draw on."""
    size = grey.shape[::-1]
    return np.array(photo if photo.size == size else photo.resize(size, Image.Resampling.BILINEAR))


def write(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    with written_whole(path) as file:
        file.write(data)


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W), or (H, W, 3) RGB, as a PNG."""
    if max(pixels.shape) > PNG_SIDE:
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()
    return encoded(pixels, ".png", PNG)


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) RGB as a JPEG, smaller where a side is longer than a JPEG's may be."""
    if (factor := JPEG_SIDE / max(pixels.shape)) < 1:
        size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return encoded(pixels, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])


def encoded(pixels: np.ndarray, ending: str, options: list[int]) -> bytes:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(ending, pixels, options)
    if not done:
        raise OSError(f"cannot encode the {ending[1:]}")
    return data.tobytes()
