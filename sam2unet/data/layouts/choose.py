"""Finds the image folder and the mask folder in any folder, for `--data` of train.py and test.py."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from ...errors import UserError, print_line, warn
from .find import compile_layouts, find_mask_folders, fits_rule
from .listing import ListedFolder, Listing, list_folders
from .table import IMAGE_NAMES, IMAGES, MASK_NAMES, MASKS, to_expression

SPLITS = {"train": r"train\w*|tr", "test": r"test\w*|te\d*", "validation": r"val\w*|vd"}  # words of folder names
LIKE_IMAGES, LIKE_MASKS = to_expression(IMAGES), to_expression(MASKS)


class FolderPair(NamedTuple):
    """An image folder and its mask folder. `split` is train, test, validation, or empty if the path does not say it."""

    images: Path
    masks: Path
    split: str
    others: int = 0  # images that do not belong to the known data set


def choose_folders(folder: Path, split: str) -> FolderPair:
    """Returns the only image folder of `folder` that fits `split`, train or test, with its masks. Prints a note.

    Raises UserError if there is none, or if several are possible.
    """
    pairs = list_pairs(folder)
    names = [f"{pair.images.relative_to(folder)} with {pair.masks.relative_to(folder)}" for pair in pairs]
    candidates = [pair for pair in pairs if pair.split in (split, "")]
    if not pairs:
        raise UserError(
            f"no image folder beside a mask folder in {folder}; images are in {', '.join(IMAGE_NAMES)}, masks in "
            f"{', '.join(MASK_NAMES)}; ZIP files are not searched, sam2unet prepare unpacks them"
        )
    if len(candidates) != 1:
        what = f"has several folders for {split}" if candidates else f"has no folder for {split}"
        raise UserError(f"--data {folder} {what}: {'; '.join(names)}; give --data a folder that contains only one")
    (pair,) = candidates
    print_line(f"note: --data {folder}: images in {pair.images}, masks in {pair.masks}")
    if pair.others:
        warn(
            f"{pair.others} images of {pair.images} do not belong to the split of the papers; "
            "sam2unet prepare leaves them out"
        )
    return pair


def list_pairs(folder: Path) -> list[FolderPair]:
    """Returns all image folders below `folder` that have a mask folder, by their names."""
    rows = compile_layouts()

    def is_wanted(key: str) -> bool:
        is_in_table = any(row.images.fullmatch(key) or row.masks.fullmatch(key) for row in rows)
        return bool(is_in_table or LIKE_IMAGES.fullmatch(key) or LIKE_MASKS.fullmatch(key))

    listing = list_folders(folder, is_wanted, archives=False)
    pairs: dict[tuple[Path, Path], list[str]] = {}  # the rules for stems of the known data sets in them
    sizes = {}
    for images in listing.folders:
        for masks in list_siblings(images, listing):
            pairs.setdefault((images.path, masks.path), [])
        for row in rows:
            for masks in find_mask_folders(images, row, listing) if row.images.fullmatch(images.key) else ():
                pairs.setdefault((images.path, masks.path), []).append(row.layout.stems)
        sizes[images.path] = [PurePath(name).stem for name in images.files]
    return [
        FolderPair(images, masks, find_split(images.relative_to(folder)), count_others(sizes[images], rules))
        for (images, masks), rules in pairs.items()
    ]


def list_siblings(images: ListedFolder, listing: Listing) -> Iterator[ListedFolder]:
    """Yields the mask folders beside an image folder. For `train-images`, these are `train-labels` and so on."""
    if not LIKE_IMAGES.fullmatch(images.key):
        return
    beside = [folder for folder in listing.folders if folder.path.parent == images.path.parent]
    masks = [folder for folder in beside if LIKE_MASKS.fullmatch(folder.key)]
    is_only_pair = len(masks) == 1 and sum(bool(LIKE_IMAGES.fullmatch(folder.key)) for folder in beside) == 1
    for folder in masks:
        if is_only_pair or find_prefix(folder, MASK_NAMES) == find_prefix(images, IMAGE_NAMES):
            yield folder


def find_prefix(folder: ListedFolder, names: tuple[str, ...]) -> str:
    """Returns `train` for `train-images`, and empty text for `images`."""
    name = folder.path.name.casefold()
    return "" if name in names else name.rpartition("-")[0]


def find_split(path: PurePath) -> str:
    """Returns the split that the folder names of a path say. The last folder counts most."""
    for part in reversed(path.parts):
        for word in re.findall("[a-z]+[0-9]*", part.casefold()):
            for split, pattern in SPLITS.items():
                if re.fullmatch(pattern, word):
                    return split
    return ""


def count_others(stems: list[str], rules: list[str]) -> int:
    """Returns the number of stems that fit none of the rules. Without rules, returns 0."""
    return sum(not any(fits_rule(stem, rule) for rule in rules) for stem in stems) if rules else 0
