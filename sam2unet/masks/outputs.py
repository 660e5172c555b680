"""What is written for an image: its map, and what else was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..atomic import make_folder, write_atomic
from ..data.pictures import encode_jpeg, encode_png, outline_, tint_, write_bytes
from ..data.reading import FOREGROUND, read_image
from ..errors import UserError
from ..limits import check_numbers
from .predictor import stretch_range, to_uint8

NUMBERS = ("float16", "float32")


@dataclass(frozen=True)
class PredictOutputs:
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


def to_grey_map(probability: Tensor, minmax: bool, outputs: PredictOutputs) -> np.ndarray:
    """Probabilities (height, width) -> the map, uint8, small components still in it."""
    if minmax:
        probability = stretch_range(probability)
    if outputs.threshold is not None:
        probability = (probability > outputs.threshold).to(torch.float32)
    return to_uint8(probability)


def remove_small_parts(grey: np.ndarray, least: int) -> np.ndarray:
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
    outputs: PredictOutputs = PredictOutputs(),
    photo: Path | None = None,
    probability: np.ndarray | None = None,
) -> None:
    """Every file of `Outputs.paths`, each whole or not at all; UserError where one cannot be written.

    Args:
        grey: uint8 (height, width), of `to_grey_map`.
        photo: what overlay and contours are drawn on. Its file, for photographs kept in memory would fill it.
        probability: float (height, width), for the folder `prob`.
    """
    paths = outputs.paths(folder, name)
    grey = remove_small_parts(grey, outputs.components)
    write_bytes(paths["map"], encode_png(grey))
    if outputs.overlay or outputs.contours:
        picture = read_image(photo)
        for kind, draw in (("overlay", tint_), ("contours", outline_)):
            if kind in paths:
                write_bytes(paths[kind], encode_jpeg(draw(resize_to_map(picture, grey), grey)))
    if "prob" in paths:
        make_folder(paths["prob"].parent)
        with write_atomic(paths["prob"]) as file:
            np.savez(file, probability=probability.astype(outputs.probability))


def resize_to_map(photo: Image.Image, grey: np.ndarray) -> np.ndarray:
    """The photograph in the map's size, uint8 (height, width, 3), to draw on."""
    size = grey.shape[::-1]
    return np.array(photo if photo.size == size else photo.resize(size, Image.Resampling.BILINEAR))
