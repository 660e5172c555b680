"""Reads all files of a data set and lists everything that is wrong or unusual, for `sam2unet check`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from ...classes import IGNORED, LIMIT, Classes, MaskClass, pick_color, read_color, unpack_color
from ...errors import UserError, shortlist, warn
from ...recipe import MaskRule
from ...runtime.parallel import map_files
from ...slice_view import DEFAULT_VIEW, SliceView
from ..images.masks import FOREGROUND, is_colour_mask, read_codes, read_mask
from ..images.reading import open_image, orientation, read_image
from ..pairs import Pair, list_files
from ..volumes.open import is_volume, name_case, open_volume
from ..volumes.slices import Source, list_slices, refuse_other_place
from .check import Size
from .findings import PROBLEM, Finding, ImageFacts, MaskFacts, Twin, pair_up, report_data_set, report_others
from .near_duplicates import find_near_duplicates

T = TypeVar("T")
Bits = Callable[[Image.Image], np.ndarray]


class Audit(NamedTuple):
    findings: list[Finding]
    pairs: list[Pair]
    masks: dict[Source, MaskFacts]  # only masks that could be read
    twins: list[Twin]  # near duplicates, nearest first

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)


def audit_folders(
    image_folder: Path,
    mask_folder: Path,
    other_folder: Path | None = None,
    mask_threshold: MaskRule = None,
    view: SliceView = DEFAULT_VIEW,
) -> Audit:
    """Reads all files. Everything that is wrong with them is a finding. Raises UserError for a wrong folder.

    Of volumes it reads all slices. Raises UserError for CT from DICOM without a window.
    """
    folders = [folder for folder in (image_folder, mask_folder, other_folder) if folder is not None]
    files = [list_files(folder, volumes=True) for folder in folders]
    refuse_equal_folders(image_folder, mask_folder, other_folder)
    grids = {name_case(path): path for path in files[0] if is_volume(path)}
    image_files, bad_images = open_sources(files[0], view, {})
    mask_files, bad_masks = open_sources(files[1], view, grids)
    bits = perceptual_bits() if other_folder else None
    images, unread_images = audit_files(image_files, partial(audit_image, bits=bits))
    masks, unread_masks = audit_files(mask_files, partial(audit_mask, threshold=mask_threshold))

    pairs, findings = pair_up(image_files, mask_files)
    opened = {case: path for case, path in grids.items() if path not in bad_images}
    findings += report_volumes(opened, [path for path in files[1] if path not in bad_masks])
    errors = bad_images | unread_images, bad_masks | unread_masks
    findings += report_data_set(pairs, images, masks, *errors, mask_threshold)
    twins: list[Twin] = []
    for part in files[2:]:
        other_files, bad_others = open_sources(part, view, {})
        others, unread_others = audit_files(other_files, partial(audit_image, bits=bits))
        twins = find_near_duplicates(images, others) if bits else []
        findings += report_others(images, others, bad_others | unread_others, twins, searched=bits is not None)
    return Audit(findings, pairs, masks, twins)


def refuse_equal_folders(image_folder: Path, mask_folder: Path, other_folder: Path | None) -> None:
    if image_folder.resolve() == mask_folder.resolve():
        raise UserError(f"images and masks are the same folder: {image_folder}; give the folder of the masks")
    if other_folder and other_folder.resolve() in (image_folder.resolve(), mask_folder.resolve()):
        which = "images to train on" if other_folder.resolve() == image_folder.resolve() else "masks"
        raise UserError(
            f"--other {other_folder} is the folder of the {which}; give a folder of other images to compare"
        )


def open_sources(
    files: Sequence[Path], view: SliceView, grids: Mapping[str, Path]
) -> tuple[list[Source], dict[Source, UserError]]:
    """Returns the slices of all volumes and the other files, and the error of each volume that cannot be opened.

    For masks, `grids` has the image of each case.
    """
    sources: list[Source] = []
    bad: dict[Source, UserError] = {}
    for path in files:
        grid = grids.get(name_case(path))
        try:
            if is_volume(path):
                open_volume(path, grid)
        except UserError as e:
            bad[path] = e
        else:
            sources += list_slices(path, view, grid)
    return sources, bad


def report_volumes(images: Mapping[str, Path], masks: Sequence[Path]) -> list[Finding]:
    """Reports the volumes that do not have the voxels of their mask. `images` has the volume of each case."""
    wrong = []
    for mask in masks:
        image = images.get(name_case(mask))
        try:
            if image and is_volume(mask):
                refuse_other_place(image, open_volume(image), mask, open_volume(mask, image))
        except UserError as e:
            wrong.append(str(e))
    text = f"{len(wrong)} of {len(images)}; first: {wrong[0]}" if wrong else ""
    return [Finding("other voxels", text, PROBLEM)] if wrong else []


def audit_files(
    files: Sequence[Source], look: Callable[[Source], T]
) -> tuple[dict[Source, T], dict[Source, UserError]]:
    """Returns the result of `look` for each file, and the error of each file that it cannot read."""

    def try_look(path: Source) -> T | UserError:
        try:
            return look(path)
        except UserError as e:
            return e

    looks = dict(zip(files, map_files(try_look, files), strict=True))
    bad = {path: look for path, look in looks.items() if isinstance(look, UserError)}
    return {path: look for path, look in looks.items() if not isinstance(look, UserError)}, bad


def audit_image(path: Source, bits: Bits | None) -> ImageFacts:
    with open_image(path) as image:
        rotated = orientation(image) != 1
    picture = read_image(path)
    digest = hashlib.sha256(f"{picture.size}".encode())
    digest.update(picture.tobytes())
    return ImageFacts(Size(*picture.size), rotated, digest.digest(), bits(picture) if bits else None)


def audit_mask(path: Source, threshold: MaskRule) -> MaskFacts:
    mask = read_mask(path, threshold)
    counts, size = mask.histogram(), Size(*mask.size)
    total = mask.width * mask.height
    if isinstance(threshold, Classes):
        pixels = np.array([*counts[: len(threshold.items)], counts[IGNORED]])
        return MaskFacts(size, pixels[1:-1].sum() / total, 0, pixels)
    return MaskFacts(size, sum(counts[FOREGROUND + 1 :]) / total, sum(counts[1:255]) / total)


def find_classes(mask_folder: Path) -> Classes:
    """Returns a class for each value in the masks, ascending. If a mask is an RGB image, a class for each colour.

    Keeps the colours of the first palette. The value 255 becomes the ignore value, unless there are only two
    values. Leaves out files that cannot be read. Raises UserError if the values cannot be classes.
    """
    files, bad = open_sources(list_files(mask_folder, volumes=True), DEFAULT_VIEW, {})
    has_values = not any(audit_files(files, has_rgb_colours)[0].values())
    looks, unread = audit_files(files, partial(list_codes, has_values=has_values))
    if not looks:
        raise next(iter((unread | bad).values()))
    codes = np.unique(np.concatenate([look.codes for look in looks.values()])).tolist()
    ignore = (IGNORED,) if has_values and IGNORED in codes and len(codes) > 2 else ()
    codes = [code for code in codes if code not in ignore]
    what = "value" if has_values else "colour"
    if not 2 <= len(codes) <= LIMIT:
        count = f"more than {LIMIT} {what}s" if len(codes) > LIMIT else f"only one {what}"
        raise UserError(
            f"the masks in {mask_folder} have {count}, so they are not masks of classes; give PNG masks with one "
            f"{what} for each class (soft edges, and lossy formats such as JPEG, have other {what}s)"
        )
    if has_values and (wrong := [code for code in codes if code % 1 or not 0 <= code < 2**16]):
        raise UserError(f"the masks in {mask_folder} have the value {wrong[0]:g}; wanted whole numbers from 0 to 65535")
    if lossy := [path.name for path, look in looks.items() if look.is_jpeg]:
        warn(
            f"{len(lossy)} of {len(looks)} masks are JPEG, which changes values: {shortlist(lossy)}; some values "
            "may belong to no class; give PNG masks"
        )
    palette = next((look.palette for look in looks.values() if look.palette), None) or []
    items = []
    for index, code in enumerate(map(int, codes)):
        name = "background" if code == 0 else f"class {code if has_values else index}"
        color = palette[3 * code : 3 * code + 3] if has_values else unpack_color(code)
        items.append(MaskClass(name, code if has_values else None, read_color(color) if color else pick_color(index)))
    return Classes(tuple(items), ignore)


def has_rgb_colours(path: Source) -> bool:
    with open_image(path) as image:
        return is_colour_mask(image)


class MaskCodes(NamedTuple):
    codes: np.ndarray  # the distinct values of a mask, ascending; of many the first, more than classes can have
    palette: list[int] | None  # red, green, blue of index 0, and so on
    is_jpeg: bool


def list_codes(path: Source, has_values: bool) -> MaskCodes:
    with open_image(path) as image:
        codes = np.unique(read_codes(image, path, has_values))[: LIMIT + 2]
        return MaskCodes(codes, image.getpalette("RGB"), image.format in ("JPEG", "MPO"))


def perceptual_bits() -> Bits | None:
    """Returns a function RGB picture -> (BITS,) bool, or None if ImageHash is not installed.

    Similar pictures have similar bits. A bit says whether one of 16 x 16 cells is brighter than the cell before it,
    horizontally or vertically. This hash separates slightly cropped copies best from other photographs.
    """
    try:
        import imagehash
    except ImportError:
        return None

    def bits(picture: Image.Image) -> np.ndarray:
        grey = picture.convert("L")
        return np.concatenate([imagehash.dhash(grey, 16).hash, imagehash.dhash_vertical(grey, 16).hash], axis=None)

    return bits
