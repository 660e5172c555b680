"""Pictures of maps and masks with several classes. All of them are uint8 (H, W), the index of each pixel's class."""

from functools import lru_cache
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ...classes import IGNORED, Classes
from ...errors import printable
from ...limits import shorten
from .masks import VALUES_NOTE
from .pictures import BAND

NAME_LENGTH = 40  # of a longer name, a legend shows the start


def encode_index_png(indices: np.ndarray, classes: Classes) -> bytes:
    """Encodes a PNG with the colours of the classes as its palette.

    `read_mask` reads the file like a mask. A pixel is the value of its class, except in two cases, in which it is the
    index of the class. If the classes have no values, `read_mask` reads the colours. If a value is above 255, a text in
    the file lists the values for `read_mask`.
    """
    codes, note = np.arange(len(classes.items)), PngInfo()
    if classes.has_values and max(classes.codes) < 256:
        codes = np.array(classes.codes)
    elif classes.has_values:
        note.add_text(VALUES_NOTE, " ".join(map(str, classes.codes)))
    pixels, palette = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    pixels[: len(codes)] = codes
    palette[codes] = classes.palette[: len(codes)]
    image = Image.fromarray(cv2.LUT(indices, pixels))
    image.putpalette(palette.tobytes())
    file = BytesIO()
    image.save(file, "PNG", compress_level=1, pnginfo=note)
    return file.getvalue()


def paint_classes(indices: np.ndarray, classes: Classes) -> np.ndarray:
    """Returns uint8 (H, W, 3), the colour of each pixel's class."""
    return cv2.LUT(cv2.cvtColor(indices, cv2.COLOR_GRAY2RGB), classes.palette[None])


def tint_classes_(photo: np.ndarray, indices: np.ndarray, classes: Classes, opacity: float = 0.5) -> np.ndarray:
    """Mixes a photograph, uint8 (H, W, 3), with the colours of its classes, in place. Under black it stays as it is."""
    for top in range(0, len(photo), BAND):
        rows, colors = photo[top : top + BAND], paint_classes(indices[top : top + BAND], classes)
        mixed = cv2.addWeighted(rows, 1 - opacity, colors, opacity, 0)
        rows[:] = np.where(colors.any(axis=2, keepdims=True), mixed, rows)
    return photo


def outline_classes_(photo: np.ndarray, indices: np.ndarray, classes: Classes) -> np.ndarray:
    """Draws lines around the areas of each class except the background, in its colour, in place."""
    width = max(1, round(max(indices.shape) / 400))
    for index in find_foreground_classes(indices):
        lines, _ = cv2.findContours((indices == index).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(photo, lines, -1, classes.items[index].color, width)
    return photo


def find_foreground_classes(indices: np.ndarray) -> list[int]:
    """Returns the indices that a map has, without the background and the ignored pixels."""
    return [index for index in np.flatnonzero(np.bincount(indices.ravel())).tolist() if 0 < index < IGNORED]


def add_legend(picture: np.ndarray, classes: Classes) -> np.ndarray:
    """Returns a picture, uint8 (H, W, 3), with the name and the colour of each class below it.

    The picture keeps its place at the top left. If a name is wider than it, the right side is white.
    """
    legend = draw_class_legend(classes, picture.shape[1])
    missing = legend.shape[1] - picture.shape[1]
    picture = cv2.copyMakeBorder(picture, 0, 0, 0, missing, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return np.concatenate([picture, legend])


@lru_cache(maxsize=4)
def draw_class_legend(classes: Classes, width: int) -> np.ndarray:
    """Returns uint8 (H, W, 3), a white strip with the name and the colour of each class. W is at least `width`."""
    height = max(12, width // 64)  # of the letters, in pixels
    font, line, swatch = ImageFont.load_default(height), round(1.5 * height), 2 * height
    names = [printable(shorten(name, NAME_LENGTH)) for name in classes.names]
    cell = swatch + height + round(max(map(font.getlength, names)) + height)
    columns = max(1, width // cell)
    rows = -(-len(names) // columns)
    strip = Image.new("RGB", (max(width, cell), rows * line), "white")
    draw = ImageDraw.Draw(strip)
    for number, (name, item) in enumerate(zip(names, classes.items, strict=True)):
        x, y = number // rows * cell, number % rows * line
        draw.rectangle((x + 2, y + 2, x + swatch, y + line - 3), item.color, "grey")
        draw.text((x + swatch + height // 2, y + line / 2), name, "black", font, anchor="lm")
    return np.array(strip)
