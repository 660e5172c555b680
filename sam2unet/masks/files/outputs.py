"""Writes the files of an image: its map, overlay, contours and probabilities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...classes import Classes
from ...data.images.class_pictures import (
    add_legend,
    encode_index_png,
    find_foreground_classes,
    outline_classes_,
    tint_classes_,
)
from ...data.images.masks import FOREGROUND
from ...data.images.pictures import encode_jpeg, encode_png, outline_, tint_, write_bytes
from ...data.images.reading import read_image
from ...data.volumes.slices import Source
from ...data.volumes.write import choose_ending
from ...errors import UserError
from ...limits import check_numbers
from ..prediction.probability import pick_classes, stretch_range, to_uint8
from .inputs import is_slice
from .volume_maps import VolumeMaps

BAND = 1 << 24  # pixels of a map that are converted at once
Files = Mapping[Path, bytes | memoryview]  # path -> content
# Kind of a picture -> the functions that draw a map on a photograph: of grey levels, of classes.
DRAWINGS = {"overlay": (tint_, tint_classes_), "contours": (outline_, outline_classes_)}


@dataclass(frozen=True)
class PredictOutputs:
    """The files that a prediction writes for each image. Raises UserError if a value is outside its range."""

    threshold: float | None = None  # write 255 above this value and 0 below it. None: write grey levels.
    components: int = 0  # parts of the foreground, or of a class, with fewer pixels become 0, the background
    # overlay and contours: also write the photograph with the map or its outlines, in folders of these names
    overlay: bool = False
    contours: bool = False
    # also write probabilities in this number format, in the folder `prob`. They are not stretched.
    probability: str | None = None
    uncertainty: bool = False  # also write the entropy of the probabilities as grey levels, in the folder `uncertainty`
    dicom_seg: bool = False  # of DICOM, write a segmentation object and not NIfTI
    slices: bool = False  # also write the map of each slice of a volume, in the folder `slices`

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}; it must be from 0 to 1")
        check_numbers({"components": self.components})

    def paths(self, folder: Path, name: str, source: Source | None = None) -> dict[str, Path]:
        """Returns the path of each file of an image. eval.py scores all images beside maps: pictures are elsewhere.

        The slices of a volume share the files `map` and `prob`.
        """
        kinds = {"overlay": self.overlay, "contours": self.contours, "prob": self.probability is not None}
        kinds["uncertainty"] = self.uncertainty
        endings = {"overlay": ".jpg", "contours": ".jpg", "prob": ".npz", "uncertainty": ".png"}
        extra = {kind: folder / kind / f"{name}{endings[kind]}" for kind, is_on in kinds.items() if is_on}
        if not is_slice(source):
            return {"map": folder / f"{name}.png"} | extra
        if self.slices:
            extra["slices"] = folder / "slices" / f"{name}.png"
        case = name.rpartition("/")[0]
        if "prob" in extra:
            extra["prob"] = folder / "prob" / f"{case}{choose_ending(source.volume)}"
        return {"map": folder / f"{case}{choose_ending(source.volume, self.dicom_seg)}"} | extra


def to_map_pixels(probability: Tensor, minmax: bool, outputs: PredictOutputs) -> np.ndarray:
    """Returns the map, uint8 (height, width). Small parts are not removed.

    Args:
        probability: (height, width) gives grey levels; (C, height, width) gives the indices of the classes.
    """
    if probability.ndim == 3:
        return pick_classes(probability)
    limits = (probability.min(), probability.max()) if minmax else None
    pixels = np.empty(probability.shape, np.uint8)
    rows = max(1, BAND // probability.shape[1])
    for top in range(0, len(pixels), rows):  # a large map needs little more memory than its own
        part = probability[top : top + rows]
        if limits:
            part = stretch_range(part, limits)
        if outputs.threshold is not None:
            part = (part > outputs.threshold).to(torch.float32)
        pixels[top : top + rows] = to_uint8(part)
    return pixels


def remove_small_parts(pixels: np.ndarray, minimum: int, has_classes: bool = False) -> np.ndarray:
    """Sets parts with fewer than `minimum` pixels to 0, the background. The parts are 8-connected.

    `pixels` are grey levels, with foreground above 128, or with `has_classes` indices; a part has one class.
    """
    if minimum < 2:
        return pixels
    areas = (pixels == index for index in find_foreground_classes(pixels)) if has_classes else [pixels > FOREGROUND]
    kept = pixels.copy()
    for area in areas:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(area.view(np.uint8), connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] < minimum
        small[0] = False  # label 0 is the rest of the map
        kept[small[labels]] = 0
    return kept


def draw_map(kind: str, photo: np.ndarray, pixels: np.ndarray, classes: Classes | None) -> np.ndarray:
    """Draws a map on a photograph, uint8 (H, W, 3), which may change. With classes, the result has a legend below it.

    `kind` is a key of `DRAWINGS`.
    """
    draw_grey, draw_classes = DRAWINGS[kind]
    return draw_grey(photo, pixels) if classes is None else add_legend(draw_classes(photo, pixels, classes), classes)


def write_map_files(files: Files) -> None:
    for path, content in files.items():
        write_bytes(path, content)


def write_outputs(
    folder: Path,
    name: str,
    pixels: np.ndarray,
    outputs: PredictOutputs = PredictOutputs(),
    photo: Source | None = None,
    probability: np.ndarray | None = None,
    classes: Classes | None = None,
    uncertainty: np.ndarray | None = None,
    volumes: VolumeMaps | None = None,
    write: Callable[[Files], None] = write_map_files,
) -> None:
    """Makes every file of `PredictOutputs.paths`, and writes them together.

    Args:
        pixels: from `to_map_pixels`.
        photo: for overlay and contours. It is read again, because photographs that wait would fill the memory.
        probability: for the folder `prob`, as `Predictor.predict` yields it.
        classes: what the pixels are the indices of. None: they are grey levels.
        uncertainty: for the folder `uncertainty`, uint8 (height, width).
        volumes: receives the maps and the probabilities of slices, and returns complete volumes.
        write: writes the files. Each file is complete or absent.
    """
    paths = outputs.paths(folder, name, photo)
    files: dict[Path, bytes | memoryview] = {}
    pixels = remove_small_parts(pixels, outputs.components, classes is not None)
    piece = photo if is_slice(photo) else None
    if piece:
        assert volumes is not None
        files |= volumes.add(piece, paths, pixels, probability)
    if png := paths.get("slices") if piece else paths["map"]:
        files[png] = encode_png(pixels) if classes is None else encode_index_png(pixels, classes)
    if outputs.overlay or outputs.contours:
        assert photo is not None
        picture, size = read_image(photo), pixels.shape[::-1]
        picture = picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)
        for kind in filter(paths.get, DRAWINGS):
            files[paths[kind]] = encode_jpeg(draw_map(kind, np.array(picture), pixels, classes))
    if "uncertainty" in paths:
        assert uncertainty is not None
        files[paths["uncertainty"]] = encode_png(uncertainty)
    if "prob" in paths and not piece:
        assert probability is not None
        np.savez(buffer := BytesIO(), probability=probability.astype(outputs.probability))
        files[paths["prob"]] = buffer.getbuffer()
    write(files)
