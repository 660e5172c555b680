"""Which file belongs to which, by name, before any is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError, shortlist, warn

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # in upper case too


class Pair(NamedTuple):
    image: Path  # a photograph in training and prediction, a prediction map in scoring
    mask: Path


def list_files(folder: Path) -> list[Path]:
    """Image files of a folder, sorted. UserError: no such folder, one that cannot be read, or none in it."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as e:
        raise UserError(explain_no_folder(folder, e)) from e
    files = [folder / name for name in names if not name.startswith(".")]
    if files := [path for path in files if path.suffix.lower() in EXTENSIONS]:
        return files
    raise UserError(f"no images in {folder} (looked for {', '.join(EXTENSIONS)}; folders inside are not searched)")


def explain_no_folder(folder: Path, error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        if not folder.is_file():
            return f"no such folder: {folder}"
        is_list = folder.suffix.lower() == ".json"
        advice = "; --data_path of sam_med2d takes the folder of a list" if is_list else ""
        return f"{folder} is a file; wanted a folder of images{advice}"
    if isinstance(error, PermissionError):
        return f"no permission to read the folder {folder}"
    return f"cannot read the folder {folder}: {error.strerror}"


def list_images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by stem, sorted. UserError: no such folder, none in it, or two with one stem."""
    files = list_files(folder)
    by_stem: dict[str, Path] = {}
    twice: list[str] = []
    for file in files:
        if (first := by_stem.setdefault(file.stem, file)) is not file:
            twice.append(f"{first.name} and {file.name}")
    if twice:
        raise UserError(f"files with the same stem in {folder}: {shortlist(twice)}; remove or rename one of each")
    return by_stem


def match(image_folder: Path, mask_folder: Path) -> list[Pair]:
    """Every image with the mask of its stem, sorted; masks too many are a warning, images without mask an error."""
    images, masks = list_images(image_folder), list_images(mask_folder)
    if lonely := [path.name for stem, path in images.items() if stem not in masks]:
        raise UserError(
            f"{len(lonely)} of {len(images)} images have no mask: {shortlist(lonely)} "
            f"(masks looked for in {mask_folder}; "
            "a mask has its image's name, whatever the extension)"
        )
    if spare := [path.name for stem, path in masks.items() if stem not in images]:
        warn(
            f"{len(spare)} masks in {mask_folder} have no image in {image_folder} and are left out: {shortlist(spare)}"
        )
    return [Pair(path, masks[stem]) for stem, path in images.items()]
