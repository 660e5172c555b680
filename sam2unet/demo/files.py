"""Checks of uploaded files: names, folders, sizes. A visitor can send any file, so nothing is trusted."""

import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..data.images.reading import open_image, read_image
from ..data.volumes.open import is_volume
from ..errors import UserError
from ..limits import check_numbers


class Example(NamedTuple):
    """An image that the page offers, with its mask."""

    image: Path
    mask: Path
    caption: str


@dataclass(frozen=True)
class Limits:
    """The largest input that the page accepts. Raises UserError for a number that is too small or too large."""

    images: int = 20  # number of files in one drop, and of frames of a clip
    megapixels: float = 40  # size of one image
    megabytes: float = 50  # size of one file

    def __post_init__(self) -> None:
        limits = {"max_images": self.images, "max_megapixels": self.megapixels, "max_mb": self.megabytes}
        check_numbers(limits)


def safe_stem(path: Path) -> str:
    """Returns a safe name for new files: at most 80 letters, digits, `_`, `-`, `.` and spaces, without a folder."""
    name = re.split(r"[/\\]", str(path))[-1]
    stem = re.sub(r"[^\w. -]", "_", Path(name).stem).strip(". ")[:80].strip(". ")
    return stem or "image"


def unique_name(name: str, taken: Collection[str]) -> str:
    """Returns `name`, or `name_2`, `name_3`, ... if `name` is in `taken`. Ignores upper and lower case."""
    lower = {other.lower() for other in taken}
    names = (name if number == 1 else f"{name}_{number}" for number in range(1, len(lower) + 2))
    return next(candidate for candidate in names if candidate.lower() not in lower)


def make_saved_path(folder: Path, name: str) -> Path:
    """Returns the path of a new file below the folder of a visit. Removes the file that the visitor saved before."""
    for earlier in folder.glob("saved-*"):
        shutil.rmtree(earlier, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="saved-", dir=folder)) / name


def refuse_elsewhere(path: Path, folders: Sequence[Path]) -> None:
    """Raises UserError if a path is outside the `folders`. Follows links and `..`."""
    if not any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise UserError("the page reads only files that were dropped on it")


def check_file_size(path: Path, limits: Limits) -> None:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.stat().st_size > limits.megabytes * 1e6:
        raise UserError(f"{path} has {path.stat().st_size / 1e6:.1f} MB; the limit is {limits.megabytes:g} MB")


def check_pixels(path: Path, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.megapixels * 1e6:
        raise UserError(f"{path} has {width} x {height} pixels; the limit is {limits.megapixels:g} million")


def check_upload(path: Path, limits: Limits) -> None:
    """Checks the sizes of the file and of its image, and that it is one image. Reads only the header of the image."""
    check_file_size(path, limits)
    if is_volume(path):
        raise UserError(f"{path} has several pages or slices; this page takes single images; test.py takes it")
    with open_image(path) as image:
        check_pixels(path, image.width, image.height, limits)


def read_photo(path: Path, limits: Limits) -> Image.Image:
    """Reads a photograph, RGB and upright."""
    check_upload(path, limits)
    return read_image(path)


def visitor_message(error: UserError, path: Path) -> str:
    """Returns the message of an error with the file name that the visitor knows, without the folders of the server."""
    line = str(error).replace(str(path), path.name)
    return line if path.name in line else f"{path.name}: {line}"
