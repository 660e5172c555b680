"""Makes the thumbnails of the report. Their size depends on their number, so that the page stays under its limit."""

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ...classes import Classes
from ...data.images.masks import FOREGROUND, read_grey, read_mask
from ...data.images.reading import read_image
from ...data.volumes.slices import Source
from ...recipe import MaskRule
from ...runtime.parallel import count_cores

BUDGET = 56_000_000  # bytes of all pictures as base64; 4 MB of the 60 MB are for the numbers
PHOTOGRAPH = 3  # a photograph may have this many times the bytes of another picture
LARGEST = 448  # longer side in pixels

NOTHING, FALSE_POSITIVE, FALSE_NEGATIVE, AGREED = (24, 26, 29), (240, 96, 48), (64, 148, 255), (196, 199, 204)
COLOURS = np.array([NOTHING, FALSE_POSITIVE, FALSE_NEGATIVE, AGREED], np.uint8)  # index: predicted + 2 * foreground


class Row(NamedTuple):
    """The files of one image, with a prediction for each method; None if it is missing."""

    name: str
    mask: Source
    photograph: Source | None
    predictions: list[Source | None]


def thumbnails(rows: Sequence[Row], mask_threshold: MaskRule = None) -> Iterator[dict]:
    """Yields for each row the pictures as base64 WebP, and the "size" (width, height) of the mask thumbnail.

    "photograph" may be None. The lists "maps" and "errors" have None for a missing prediction.
    """
    max_bytes = picture_bytes(rows)
    with ThreadPoolExecutor(count_cores()) as pool:  # Pillow releases the interpreter lock while it works
        pictures = pool.map(lambda row: make_thumbnails(row, max_bytes, mask_threshold), rows)
        yield from tqdm(pictures, desc="thumbnails", total=len(rows), unit="img", leave=False, disable=None)


def picture_bytes(rows: Sequence[Row]) -> int:
    """Returns the bytes that a picture may have. Base64 turns three bytes into four."""
    parts = sum(1 + PHOTOGRAPH * bool(row.photograph) + 2 * len(row.predictions) for row in rows)
    return BUDGET * 3 // 4 // max(parts, 1)


def make_thumbnails(row: Row, max_bytes: int, mask_threshold: MaskRule) -> dict:
    """Returns pictures of at most `max_bytes` each; the photograph has at most PHOTOGRAPH times as many."""
    side = min(LARGEST, int((34 * max_bytes) ** 0.5))  # at this side, most files fit with a quality of 80 %
    mask = read_mask(row.mask, mask_threshold)
    if isinstance(mask_threshold, Classes):
        return make_class_thumbnails(row, mask, side, max_bytes, mask_threshold)
    small = shrink(mask, side)
    maps: list[str | None] = [None] * len(row.predictions)
    errors: list[str | None] = [None] * len(row.predictions)
    for i, path in enumerate(row.predictions):
        if path is not None:
            grey, predicted = read_map(path, mask.size)
            error = draw_errors(predicted, np.asarray(mask) > FOREGROUND)
            maps[i] = encode_webp(shrink(grey, side), max_bytes)
            errors[i] = encode_webp(shrink(error, side), max_bytes, flat=True)
    pictures = {"mask": encode_webp(small, max_bytes, flat=True), "maps": maps, "errors": errors}
    return {"size": small.size, "photograph": encode_photograph(row, side, max_bytes)} | pictures


def make_class_thumbnails(row: Row, mask: Image.Image, side: int, max_bytes: int, classes: Classes) -> dict:
    """The same for classes: grey pictures whose values are the indices. The page draws colours and errors."""
    maps = [path and read_mask(path, classes).resize(mask.size, Image.Resampling.NEAREST) for path in row.predictions]
    while True:
        size = shrink(mask, side).size
        small = [picture and picture.resize(size, Image.Resampling.NEAREST) for picture in (mask, *maps)]
        files = [picture and encode_webp(picture, BUDGET, flat=True) for picture in small]
        if max(len(file or "") for file in files) * 3 // 4 <= max_bytes or side <= 32:
            break
        side //= 2  # in a lossy file, pixels would change their class
    pictures = {"mask": files[0], "maps": files[1:], "errors": [None] * len(maps)}
    return {"size": size, "photograph": encode_photograph(row, max(size), max_bytes)} | pictures


def encode_photograph(row: Row, side: int, max_bytes: int) -> str | None:
    """Returns the photograph as base64 text; None if there is none."""
    if row.photograph is None:
        return None
    return encode_webp(shrink(read_image(row.photograph), side), PHOTOGRAPH * max_bytes)


def read_map(path: Source, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """Reads a map as the metrics do: stretched to 0..255 at `size`, and bool (H, W), above half of its range."""
    pixels = np.asarray(read_grey(path))
    if pixels.shape != size[::-1]:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    low, high = int(pixels.min()), int(pixels.max())
    levels = np.arange(256.0) if low == high else (np.arange(256.0) - low) * (255 / (high - low))
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)[pixels]), (levels > 127.5)[pixels]


def draw_errors(predicted: np.ndarray, foreground: np.ndarray) -> Image.Image:
    """Two (H, W) bool -> RGB picture in `COLOURS`."""
    return Image.fromarray(COLOURS[predicted + 2 * foreground])


def shrink(picture: Image.Image, side: int) -> Image.Image:
    """Returns a copy whose longer side is at most `side`. Areas are averaged, so that thin errors stay visible."""
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return picture


def encode_webp(picture: Image.Image, max_bytes: int, flat: bool = False) -> str:
    """Returns the base64 text of the best WebP file of at most `max_bytes`. `flat`: first try a lossless file."""
    file = BytesIO()
    settings = [{"lossless": True}] * flat + [{"quality": quality} for quality in (80, 65, 50, 35, 20)]
    for options in settings:
        file = BytesIO()
        picture.save(file, "WEBP", method=2, **options)  # twice as fast as the default, 3 % larger
        if file.tell() <= max_bytes:
            break
    if file.tell() > max_bytes and max(picture.size) > 32:  # noise does not compress
        return encode_webp(picture.reduce(2), max_bytes)
    return base64.b64encode(file.getvalue()).decode("ascii")
