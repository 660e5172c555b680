"""Files from strangers: what they may be called, how large they may be, and what is said of a bad one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..data.reading import open_image, read_image, read_mask
from ..errors import UserError
from ..recipe import ForegroundRule


class Example(NamedTuple):
    image: Path
    mask: Path
    caption: str


@dataclass(frozen=True)
class Limits:
    """
    Attributes:
        images: files at once, and frames taken of a clip.
        megapixels: of one image.
        megabytes: of one file.
    """

    images: int = 20
    megapixels: float = 40
    megabytes: float = 50

    def __post_init__(self) -> None:
        for flag, value in (("images", self.images), ("megapixels", self.megapixels), ("mb", self.megabytes)):
            if not value > 0:
                raise UserError(f"max_{flag} is {value:g}; it must be above 0")


def safe_stem(path: Path) -> str:
    """A name for files made of this one: letters, digits, `_`, `-`, `.` and spaces; no folder, not hidden or long."""
    name = re.split(r"[/\\]", str(path))[-1]
    stem = re.sub(r"[^\w. -]", "_", Path(name).stem).strip(". ")[:80].strip(". ")
    return stem or "image"


def unique_name(name: str, taken: Collection[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if that is taken, upper and lower case being the same."""
    lower = {other.lower() for other in taken}
    names = (name if number == 1 else f"{name}_{number}" for number in range(1, len(lower) + 2))
    return next(each for each in names if each.lower() not in lower)


def refuse_elsewhere(path: Path, folders: Sequence[Path]) -> None:
    """UserError for a path out of the `folders`, whatever links and dots it has."""
    if not any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise UserError("only files that were dropped on the page are read")


def check_file_size(path: Path, limits: Limits) -> None:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.stat().st_size > limits.megabytes * 1e6:
        raise UserError(f"{path} has {path.stat().st_size / 1e6:.1f} MB; at most {limits.megabytes:g} are taken")


def check_pixels(path: Path, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.megapixels * 1e6:
        raise UserError(f"{path} has {width} x {height} pixels; at most {limits.megapixels:g} million are taken")


def check_upload(path: Path, limits: Limits) -> None:
    """From the head of the file alone: what is too large must not be decoded."""
    check_file_size(path, limits)
    with open_image(path) as image:
        check_pixels(path, image.width, image.height, limits)


def read_photo(path: Path, limits: Limits) -> Image.Image:
    """An upright RGB photograph."""
    check_upload(path, limits)
    return read_image(path)


def read_truth(path: Path, limits: Limits, threshold: ForegroundRule) -> Image.Image:
    """A mask in mode L, as it is scored."""
    check_upload(path, limits)
    return read_mask(path, threshold)


def visitor_message(error: UserError, path: Path) -> str:
    """The error's line with the file's name as the visitor knows it, without our folders."""
    line = str(error).replace(str(path), path.name)
    return line if path.name in line else f"{path.name}: {line}"
