"""Writes the files of an image: its map, overlay, contours and probabilities."""

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
    """The files that a prediction writes for each image. Raises UserError if a value is outside its range."""

    threshold: float | None = None  # write 255 above this value and 0 below it. None: write grey levels.
    components: int = 0  # parts of the foreground with fewer pixels become 0
    # overlay and contours: also write the photograph with the map or its outlines, in folders of these names
    overlay: bool = False
    contours: bool = False
    # also write probabilities in this number format, in the folder `prob`. They are not stretched.
    probability: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}; it must be from 0 to 1")
        check_numbers({"components": self.components})

    def paths(self, folder: Path, name: str) -> dict[str, Path]:
        """Returns the path of each file of an image. eval.py scores all images beside maps: pictures are elsewhere."""
        kinds = {"overlay": self.overlay, "contours": self.contours, "prob": self.probability is not None}
        endings = {"overlay": ".jpg", "contours": ".jpg", "prob": ".npz"}
        extra = {kind: folder / kind / f"{name}{endings[kind]}" for kind, is_on in kinds.items() if is_on}
        return {"map": folder / f"{name}.png"} | extra


def to_grey_map(probability: Tensor, minmax: bool, outputs: PredictOutputs) -> np.ndarray:
    """Probabilities (height, width) -> the map, uint8. Small parts are not removed."""
    if minmax:
        probability = stretch_range(probability)
    if outputs.threshold is not None:
        probability = (probability > outputs.threshold).to(torch.float32)
    return to_uint8(probability)


def remove_small_parts(grey: np.ndarray, minimum: int) -> np.ndarray:
    """Sets foreground parts (grey above 128, 8-connected) with fewer than `minimum` pixels to 0."""
    if minimum < 2:
        return grey
    _, labels, stats, _ = cv2.connectedComponentsWithStats((grey > FOREGROUND).astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < minimum
    small[0] = False  # label 0 is the background
    return np.where(small[labels], np.uint8(0), grey)


def write_outputs(
    folder: Path,
    name: str,
    grey: np.ndarray,
    outputs: PredictOutputs = PredictOutputs(),
    photo: Path | None = None,
    probability: np.ndarray | None = None,
) -> None:
    """Writes every file of `PredictOutputs.paths`. Each file is complete or absent.

    `grey` is uint8 (height, width), from `to_grey_map`, and `probability` float (height, width), for the folder `prob`.
    `photo` is read again for overlay and contours, because photographs that wait would fill the memory.
    """
    paths = outputs.paths(folder, name)
    grey = remove_small_parts(grey, outputs.components)
    write_bytes(paths["map"], encode_png(grey))
    if outputs.overlay or outputs.contours:
        picture, size = read_image(photo), grey.shape[::-1]
        picture = picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)
        for kind, draw in (("overlay", tint_), ("contours", outline_)):
            if kind in paths:
                write_bytes(paths[kind], encode_jpeg(draw(np.array(picture), grey)))
    if "prob" in paths:
        make_folder(paths["prob"].parent)
        with write_atomic(paths["prob"]) as file:
            np.savez(file, probability=probability.astype(outputs.probability))
