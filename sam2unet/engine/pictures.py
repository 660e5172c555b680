"""A sheet of predictions to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ..files import written_whole

T = TypeVar("T")
GAP = 4  # pixels between pictures


def spread(items: Sequence[T], count: int = 8) -> list[T]:
    """At most `count` of them, evenly, with the first and the last; always the same."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int))]


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
