"""Checks all files before a long run, so that a bad file ends the run in seconds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..classes import Classes, UnknownValues
from ..errors import UserError, shortlist, warn
from ..recipe import ForegroundRule, MaskRule, to_foreground_flags
from ..runtime.parallel import map_files
from .pairs import Pair
from .reading import WAY_OUT, MaskCoding, list_values, open_image, read_mask, rotate_upright, upright_size
from .slices import Source


class Size(NamedTuple):
    width: int
    height: int


def check_pairs(pairs: Sequence[Pair], mask_threshold: MaskRule = None) -> np.ndarray | None:
    """Reads all images and masks. UserError for an unreadable file, a mask with other values or another shape.

    With `Classes`, returns the number of pixels of each class in each mask, int64 (pairs, C).
    """
    images = map_files(check_image, [pair.image for pair in pairs])
    masks, counts = check_masks([pair.mask for pair in pairs], mask_threshold)
    if rotated := [pair.image.name for pair, (_, swapped) in zip(pairs, images, strict=True) if swapped]:
        warn_rotated(rotated)
    sizes = zip(pairs, images, masks, strict=True)
    if wrong := [text for pair, (image, _), mask in sizes if (text := describe_mismatch(pair, image, mask))]:
        raise UserError(
            f"{len(wrong)} masks have another aspect ratio than their image: {shortlist(wrong)}; pair the files"
        )
    return counts


def readable_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns the pairs that can be read, and warns about the others. Raises UserError if no pair is left."""

    def problem(pair: Pair) -> str | None:
        try:
            check_image(pair.image)
            check_image(pair.mask)
        except UserError as e:
            return str(e)
        return None

    problems = map_files(problem, pairs)
    for text in filter(None, problems):
        warn(f"left out: {text}")
    if not (kept := [pair for pair, text in zip(pairs, problems, strict=True) if not text]):
        raise UserError(f"none of {len(pairs)} pairs can be read")
    return kept


def describe_mismatch(pair: Pair, image: Size, mask: Size) -> str | None:
    """Returns `a.jpg (60x50, mask 60x60)` if the aspect ratios differ by more than 2 %, otherwise None."""
    if abs(image.width * mask.height / (image.height * mask.width) - 1) <= 0.02:
        return None
    return f"{pair.image.name} ({image.width}x{image.height}, mask {mask.width}x{mask.height})"


def warn_rotated(names: Sequence[str]) -> None:
    warn(f"{len(names)} images are rotated by their EXIF orientation, which swaps their sides: {shortlist(names)}")


def check_masks(paths: Sequence[Source], threshold: MaskRule = None) -> tuple[list[Size], np.ndarray | None]:
    """Returns the sizes of the masks. With `Classes` also the number of pixels of each class, int64 (masks, C).

    UserError for masks that are not 0/255 or have values of no class, and as in `refuse_constant`.
    """

    def look(path: Source) -> tuple[Size, Any] | MaskCoding | UnknownValues:
        try:
            mask = read_mask(path, threshold)
        except (MaskCoding, UnknownValues) as e:
            return e
        if isinstance(threshold, Classes):
            return Size(*mask.size), np.array(mask.histogram()[: len(threshold.items)])
        return Size(*mask.size), None if threshold is None else mask.getextrema()

    looks = map_files(look, paths)
    unknown = {path: e for path, e in zip(paths, looks, strict=True) if isinstance(e, UnknownValues)}
    if unknown and isinstance(threshold, Classes):
        text = describe_unknown_values(unknown, threshold)
        raise UserError(f"{len(unknown)} of {len(paths)} masks {text} (in {paths[0].parent})")
    if bad := {path: e for path, e in zip(paths, looks, strict=True) if isinstance(e, MaskCoding)}:
        found, names = f"{next(iter(bad.values())).found}; in {paths[0].parent}", shortlist([path.name for path in bad])
        raise UserError(f"{len(bad)} of {len(paths)} masks are not 0/255: {names} ({found}); {WAY_OUT}")
    good = [look for look in looks if not isinstance(look, UserError)]
    sizes, facts = [size for size, _ in good], [fact for _, fact in good]
    if isinstance(threshold, Classes):
        return sizes, np.stack(facts)
    if threshold is not None:
        refuse_constant(dict(zip(paths, facts, strict=True)), threshold)
    return sizes, None


def describe_unknown_values(bad: Mapping[Source, UnknownValues], classes: Classes) -> str:
    """Returns text such as `have values of no class: 11 (1,204 pixels in 2 files: a.png, b.png); add the line ...`."""
    counts: Counter[int] = Counter()
    files = defaultdict(list)
    for path, error in bad.items():
        counts.update(error.counts)
        for code in error.counts:
            files[code].append(path.name)
    return f"have values of no class: {classes.describe_unknown(counts, files)}"


def refuse_constant(masks: Mapping[Source, tuple[float, float]], rule: ForegroundRule) -> None:
    """Raises UserError for a rule that leaves all masks empty or all masks full. Warns if it does so for some masks.

    `masks` has the lowest and the highest value of each mask; 0 is background, other values are foreground.
    """
    flags = " ".join(to_foreground_flags(rule))
    for what, names in (
        ("no foreground", [path for path, (_, high) in masks.items() if not high]),
        ("nothing but foreground", [path for path, (low, _) in masks.items() if low]),
    ):
        if names and len(names) == len(masks):
            with open_image(names[0]) as image:
                values = list_values(rotate_upright(image), names[0])
            raise UserError(
                f"{flags} leaves {what} in all {len(masks)} masks of {names[0].parent} ({values} in {names[0].name}); "
                "give other values"
            )
        if names:
            text = shortlist([path.name for path in names])
            warn(f"{flags} leaves {what} in {len(names)} of {len(masks)} masks of {names[0].parent}: {text}")


def check_image(path: Source) -> tuple[Size, bool]:
    """Returns the size that `read_image` gives, and whether EXIF swaps the sides. Decodes the whole file."""
    with open_image(path) as image:
        size = Size(*upright_size(image))
        swapped = size != image.size
        image.draft("RGB", (image.width // 8, image.height // 8))  # JPEG: fewer pixels, but the whole file is read
        image.load()
        return size, swapped
