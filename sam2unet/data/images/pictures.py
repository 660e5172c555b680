"""Draws maps on photographs, and encodes pictures as PNG and JPEG."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...atomic import FileGroup, make_folder, write_atomic
from .masks import FOREGROUND

T = TypeVar("T")
GAP, LINE = 4, 20  # pixels between pictures, and the height of a line of text
CYAN, GREEN = (0, 255, 255), (0, 255, 0)  # visible on tissue and on leaves
BAND = 256  # rows in one step, so that a large photograph needs little more memory than its own


def pick_evenly(items: Sequence[T], count: int = 8) -> list[T]:
    """Returns at most `count` items at even distances, with the first and the last. The choice is not random."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int))]


def tint_(photo: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Colours a photograph in place: half cyan where the map is white. Photograph (H, W, 3), map (H, W), both uint8."""
    for top in range(0, len(photo), BAND):
        rows = photo[top : top + BAND]
        strength = grey[top : top + BAND, :, None] / np.float32(2 * 255)
        rows[:] = rows + (np.array(CYAN, np.float32) - rows) * strength
    return photo


def outline_(photo: np.ndarray, grey: np.ndarray, color: tuple[int, int, int] = GREEN) -> np.ndarray:
    """Draws lines around the foreground of the map, in place. Photograph (H, W, 3), map (H, W), both uint8."""
    outlines, _ = cv2.findContours((grey > FOREGROUND).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return cv2.drawContours(photo, outlines, -1, color, thickness=max(1, round(max(grey.shape) / 400)))


def draw_overview(
    rows: Iterable[tuple[Image.Image, Image.Image, Image.Image]],
    path: Path,
    side: int = 160,
    titles: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """Writes a PNG with a row image | mask | map for each item. A square has `side` pixels with its margin.

    `titles` are written above the columns, and `names` above the rows.
    """
    small = [
        [picture.convert("RGB").resize((side - GAP, side - GAP), Image.Resampling.BILINEAR) for picture in row]
        for row in rows
    ]
    top, step = LINE * bool(titles), side + LINE * bool(names)
    sheet = Image.new("RGB", (3 * side, top + len(small) * step), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for x, title in enumerate(titles):
        draw.text((x * side + GAP // 2, LINE // 2), title, "black", font, anchor="lm")
    for y, row in enumerate(small):
        if names:
            draw.text((GAP // 2, top + y * step + LINE // 2), names[y], (90, 90, 90), font, anchor="lm")
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * side + GAP // 2, top + y * step + step - side + GAP // 2))
    with write_atomic(path) as file:
        sheet.save(file, "PNG")


JPEG_SIDE = 65500  # longest side of a JPEG in pixels
PNG_SIDE = 1_000_000  # longest side that OpenCV writes

# The fastest settings of OpenCV on real maps: run lengths of differences between rows. The files are little larger than
# with other settings. An older OpenCV has no setting for the differences; its default is run lengths along rows.
PNG = []
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    PNG += [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def write_bytes(path: Path, data: bytes | memoryview, group: FileGroup | None = None) -> None:
    make_folder(path.parent)
    with write_atomic(path, group) as file:
        file.write(data)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 (H, W), or RGB (H, W, 3), as PNG."""
    if max(pixels.shape) > PNG_SIDE:
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        return file.getvalue()
    return encode_image(pixels, ".png", PNG)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes RGB uint8 (H, W, 3) as JPEG. A picture with a side above JPEG_SIDE is made smaller."""
    if (factor := JPEG_SIDE / max(pixels.shape)) < 1:
        size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return encode_image(pixels, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])


def encode_image(pixels: np.ndarray, ending: str, options: list[int]) -> bytes:
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(ending, pixels, options)
    if not done:
        raise OSError(f"cannot encode the {ending[1:]}")
    return data.tobytes()
