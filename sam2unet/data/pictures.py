"""Predictions to look at: a sheet of them, a map on its photograph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from ..data.reading import FOREGROUND
from ..files import written_whole

T = TypeVar("T")
GAP = 4  # pixels between pictures
CYAN, GREEN = (0, 255, 255), (0, 255, 0)  # seen on tissue and on leaves
BAND = 256  # rows worked on at a time, so that a large photograph needs little memory beside its own


def spread(items: Sequence[T], count: int = 8) -> list[T]:
    """At most `count` of them, evenly, with the first and the last; always the same."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int))]


def tinted(photo: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """The photograph, uint8 (H, W, 3), changed in place: half cyan where the map, uint8 (H, W), is white."""
    for top in range(0, len(photo), BAND):
        rows = photo[top : top + BAND]
        strength = grey[top : top + BAND, :, None] / np.float32(2 * 255)
        rows[:] = rows + (np.array(CYAN, np.float32) - rows) * strength
    return photo


def outlined(photo: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """The photograph, uint8 (H, W, 3), changed in place: green lines around the map's foreground."""
    outlines, _ = cv2.findContours((grey > FOREGROUND).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return cv2.drawContours(photo, outlines, -1, GREEN, thickness=max(1, round(max(grey.shape) / 400)))


def overview(rows: Iterable[tuple[Image.Image, Image.Image, Image.Image]], path: Path, side: int = 160) -> None:
    """A PNG with a row of squares, `side` pixels each with its margin, for each image | mask | map."""
    small = [
        [picture.convert("RGB").resize((side - GAP, side - GAP), Image.Resampling.BILINEAR) for picture in row]
        for row in rows
    ]
    sheet = Image.new("RGB", (3 * side, len(small) * side), "white")
    for y, row in enumerate(small):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * side + GAP // 2, y * side + GAP // 2))
    with written_whole(path) as file:
        sheet.save(file, "PNG")
