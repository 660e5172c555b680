"""Thumbnails of the report's gallery, sized so that the page stays under its budget."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data.reading import FOREGROUND, open_image, read_image, read_mask, to_8_bit
from ..recipe import ForegroundRule

BUDGET = 56_000_000  # bytes of all pictures as base64, which leaves 4 MB of 60 to the numbers
PHOTOGRAPH = 3  # a photograph has the room of so many other pictures
LARGEST = 448  # longer side in pixels

NOTHING, FALSE_POSITIVE, FALSE_NEGATIVE, AGREED = (24, 26, 29), (240, 96, 48), (64, 148, 255), (196, 199, 204)
COLOURS = np.array([NOTHING, FALSE_POSITIVE, FALSE_NEGATIVE, AGREED], np.uint8)  # at found + 2 * wanted


class Row(NamedTuple):
    """One image's files; a prediction for each method, None where it is missing."""

    name: str
    mask: Path
    photograph: Path | None
    predictions: list[Path | None]


def thumbnails(rows: Sequence[Row], mask_threshold: ForegroundRule = None) -> Iterator[dict]:
    """For each row, in order: its pictures as base64 WebP, and the "size" (width, height) of the mask's.

    "photograph" may be None; so may each method's entry in "maps" and "errors".
    """
    room = room_for(rows)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's work releases the interpreter's lock
        made = pool.map(lambda row: thumbnails_of(row, room, mask_threshold), rows)
        yield from tqdm(made, desc="thumbnails", total=len(rows), unit="img", leave=False, disable=None)


def room_for(rows: Sequence[Row]) -> int:
    """Bytes that a picture may take. Base64 makes four of three."""
    parts = sum(1 + PHOTOGRAPH * bool(row.photograph) + 2 * len(row.predictions) for row in rows)
    return BUDGET * 3 // 4 // max(parts, 1)


def thumbnails_of(row: Row, room: int, mask_threshold: ForegroundRule) -> dict:
    """Pictures of at most `room` bytes each, the photograph PHOTOGRAPH times that."""
    side = min(LARGEST, int((34 * room) ** 0.5))  # at which most files of an 80 % quality fit
    mask = read_mask(row.mask, mask_threshold)
    small = shrink(mask, side)
    maps, errors = [], []
    for path in row.predictions:
        grey, found = (None, None) if path is None else read_map(path, mask.size)
        maps.append(grey and encode_webp(shrink(grey, side), room))
        errors.append(
            grey and encode_webp(shrink(errors_of(found, np.asarray(mask) > FOREGROUND), side), room, crisp=True)
        )
    photograph = row.photograph and shrink(read_image(row.photograph), side)
    return {
        "size": small.size,
        "photograph": photograph and encode_webp(photograph, PHOTOGRAPH * room),
        "mask": encode_webp(small, room, crisp=True),
        "maps": maps,
        "errors": errors,
    }


def read_map(path: Path, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A prediction as the metrics see it, stretched to 0..255 and of the mask's size; and (H, W) bool, its 0.5 cut."""
    with open_image(path) as image:
        grey = to_8_bit(image, path).convert("L")
    grey = grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)
    low, high = grey.getextrema()
    levels = np.arange(256.0) if low == high else (np.arange(256.0) - low) * (255 / (high - low))
    return grey.point(levels.clip(0, 255).round().astype(int).tolist()), (levels > 127.5)[np.asarray(grey)]


def errors_of(found: np.ndarray, wanted: np.ndarray) -> Image.Image:
    """Two (H, W) bool -> RGB in `COLOURS`."""
    return Image.fromarray(COLOURS[found + 2 * wanted])


def shrink(picture: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side is at most `side`. Areas are averaged, so that thin errors fade rather than vanish."""
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return picture


def encode_webp(picture: Image.Image, room: int, crisp: bool = False) -> str:
    """Base64 of the best WebP within `room` bytes; lossless to begin with if `crisp`, as suits flat colours."""
    ways = [{"lossless": True}] * crisp + [{"quality": quality} for quality in (80, 65, 50, 35, 20)]
    for way in ways:
        file = BytesIO()
        picture.save(file, "WEBP", method=2, **way)  # twice as fast as the default and 3 % larger
        if file.tell() <= room:
            break
    if file.tell() > room and max(picture.size) > 32:  # noise
        return encode_webp(picture.reduce(2), room)
    return base64.b64encode(file.getvalue()).decode("ascii")
