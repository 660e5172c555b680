"""Pairs files by name and finds files with the same name. It opens no image but TIFF files and volumes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

from ..errors import UserError, shortlist, warn
from ..slice_view import DEFAULT_VIEW, SliceView
from .archives.member import Member
from .volumes.open import VOLUMES, is_volume, name_case
from .volumes.slices import Slice, Source, find_file, list_slice_pairs

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # also in upper case


Named = TypeVar("Named", bound=PurePath | Slice | Member)


class Pair(NamedTuple):
    image: Source  # a photograph in training and prediction, a prediction map in scoring
    mask: Source


def list_files(folder: Path, volumes: bool = False) -> list[Path]:
    """Returns the image files of a folder, or of a text file with a path per line, sorted.

    If there is no image, `volumes` count, which can be folders.

    Raises UserError if the folder cannot be read or has no image, or a file of the list does not exist.
    """
    if is_path_list(folder):
        return sorted(read_path_list(folder))
    return [folder / name for name in list_file_names(folder, volumes)]


def is_path_list(path: Path) -> bool:
    """Returns whether a path is a text file, which has a path per line."""
    return path.suffix.lower() == ".txt" and path.is_file()


def list_file_names(folder: Path, volumes: bool = False) -> list[str]:
    """Returns the names of the files of `list_files` in a folder, sorted. Raises the same errors."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as e:
        raise UserError(explain_no_folder(folder, e)) from e
    names = [name for name in names if not name.startswith(".")]
    if chosen := [name for name in names if name.lower().endswith(EXTENSIONS)]:
        return chosen
    if volumes and (chosen := [name for name in names if is_volume(folder / name)]):
        return chosen
    wanted = ", ".join(EXTENSIONS + VOLUMES * volumes)
    raise UserError(f"no images in {folder} (looked for {wanted}; folders inside are not searched)")


def read_path_list(file: Path) -> list[Path]:
    """Reads a text file with a path per line, relative to the file. UserError if it is empty or a file is absent."""
    lines = os.fsdecode(file.read_bytes()).removeprefix("\ufeff").splitlines()
    paths = [file.parent / line.strip() for line in lines if line.strip()]
    if gone := [path for path in paths if not os.path.exists(path)]:
        raise UserError(f"{len(gone)} of {len(paths)} files in {file} do not exist: {shortlist(gone)}")
    if not paths:
        raise UserError(f"{file} lists no files")
    return paths


def explain_no_folder(folder: Path, error: OSError) -> str:
    """Returns in words why `folder` cannot be listed."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        if not folder.is_file():
            return f"no such folder: {folder}"
        is_list = folder.suffix.lower() == ".json"
        advice = "; --data_path of sam_med2d takes the folder of a list" if is_list else ""
        return f"{folder} is a file; wanted a folder of images{advice}"
    if isinstance(error, PermissionError):
        return f"no permission to read the folder {folder}"
    return f"cannot read the folder {folder}: {error.strerror}"


def list_images(folder: Path, volumes: bool = False) -> dict[str, Path]:
    """Returns the image files of a folder by stem, sorted. Raises UserError if two have one stem or there is none.

    If there is no image, `volumes` count. The stem of `a.nii.gz` is `a`.
    """
    files = [(name_case(path) if volumes else path.stem, path) for path in list_files(folder, volumes)]
    return index_files(files, folder, "remove or rename one of each")


def index_files(files: Iterable[tuple[str, Path]], folder: Path, advice: str) -> dict[str, Path]:
    """Returns (name, path) pairs as a dictionary. UserError, which ends with `advice`, if two paths have one name."""
    paths, duplicates = find_duplicates(files)
    if duplicates:
        raise UserError(f"files with the same stem in {folder}: {shortlist(duplicates)}; {advice}")
    return paths


def find_duplicates(files: Iterable[tuple[str, Named]]) -> tuple[dict[str, Named], list[str]]:
    """Returns the first path of each name, and `a.jpg and a.png` for each further path with the same name."""
    paths: dict[str, Named] = {}
    duplicates = [
        f"{first.name} and {path.name}" for name, path in files if (first := paths.setdefault(name, path)) is not path
    ]
    return paths, duplicates


def match(image_folder: Path, mask_folder: Path, view: SliceView = DEFAULT_VIEW) -> list[Pair]:
    """Pairs every image with the mask of the same stem, sorted, as `pair_all` does. Of volumes it pairs the slices."""
    images, masks = list_images(image_folder, volumes=True), list_images(mask_folder, volumes=True)
    pairs = pair_all(images, masks, image_folder, mask_folder)
    files = [(find_file(pair.image), find_file(pair.mask)) for pair in pairs]
    return [Pair(*sources) for image, mask in files for sources in list_slice_pairs(image, mask, view)]


def pair_all(
    images: Mapping[str, Source], masks: Mapping[str, Source], image_folder: Path, mask_folder: Path
) -> list[Pair]:
    """Pairs every image with the mask of the same name. UserError if an image has no mask. Warns about other masks."""
    pairs, unpaired_images, unpaired_masks = pair_names(images, masks)
    if unpaired_images:
        raise UserError(
            f"{len(unpaired_images)} of {len(images)} images have no mask: {shortlist(unpaired_images)} "
            f"(masks looked for in {mask_folder}; a mask has its image's name, whatever the extension)"
        )
    warn_unpaired_masks(unpaired_masks, image_folder, mask_folder)
    return pairs


def pair_names(images: Mapping[str, Source], masks: Mapping[str, Source]) -> tuple[list[Pair], list[str], list[str]]:
    """Returns pairs of equal names, the files of images without mask, and the files of masks without image."""
    pairs = [Pair(path, masks[name]) for name, path in images.items() if name in masks]
    unpaired_images = [path.name for name, path in images.items() if name not in masks]
    return pairs, unpaired_images, [path.name for name, path in masks.items() if name not in images]


def warn_unpaired_masks(names: Sequence[str], image_folder: Path, mask_folder: Path) -> None:
    if names:
        warn(
            f"{len(names)} masks in {mask_folder} have no image in {image_folder} and are left out: {shortlist(names)}"
        )
