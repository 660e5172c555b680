"""Polygons for all objects of an image. Objects that touch must not cover each other after simplification."""

from collections.abc import Sequence

import numpy as np

from .outlines import MIN_IOU, fill_rings, simplify_rings, trace_rings
from .record import Region, slice_region

Parts = list[list[np.ndarray]]  # of one object; see `trace_rings`


def trace_regions(regions: Sequence[Region], size: tuple[int, int], tolerance: float) -> list[Parts]:
    """Returns the simplified parts of each region in coordinates of the image.

    If all polygons are drawn, one after the other, the visible pixels of each region, and of the background, have an
    IoU of at least `MIN_IOU` with those of the masks. Where this fails, the polygons involved are simplified less.
    """
    exact = [trace_rings(region.pixels) for region in regions]
    tolerances = np.full(len(regions), float(tolerance))
    parts = [simplify_rings(region.pixels, rings, tolerance) for region, rings in zip(regions, exact, strict=True)]
    target = paint_numbers([region.pixels for region in regions], regions, size)
    masks = [fill_parts(rings, region) for rings, region in zip(parts, regions, strict=True)]
    while tolerances.any():
        is_wrong = find_wrong_numbers(target, paint_numbers(masks, regions, size), len(regions)) & (tolerances > 0)
        if not is_wrong.any():
            break
        for index in np.flatnonzero(is_wrong):
            tolerances[index] = tolerances[index] / 2 if tolerances[index] >= 0.5 else 0
            parts[index] = simplify_rings(regions[index].pixels, exact[index], tolerances[index])
            masks[index] = fill_parts(parts[index], regions[index])
    return [
        [[(ring + (region.left, region.top)).round(2) for ring in part] for part in rings]
        for region, rings in zip(regions, parts, strict=True)
    ]


def fill_parts(parts: Parts, region: Region) -> np.ndarray:
    """Returns the mask of the parts, bool, in the bounding box of the region."""
    return fill_rings([ring for part in parts for ring in part], *region.pixels.shape)


def paint_numbers(masks: Sequence[np.ndarray], regions: Sequence[Region], size: tuple[int, int]) -> np.ndarray:
    """Returns int32 (height, width): the number of the last region on each pixel, from 1, or 0.

    A mask has the bounding box of its region.
    """
    numbers = np.zeros(size, np.int32)
    for number, (mask, region) in enumerate(zip(masks, regions, strict=True), 1):
        numbers[slice_region(region)][mask] = number
    return numbers


def find_wrong_numbers(target: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """Returns bool (count,): the regions with a low IoU, and those that cover them or are covered by them."""
    areas, target_areas, overlaps = (
        np.bincount(values, minlength=count + 1)
        for values in (numbers.ravel(), target.ravel(), target[target == numbers])
    )
    is_low = overlaps < MIN_IOU * (areas + target_areas - overlaps)
    differs = (target != numbers) & (is_low[target] | is_low[numbers])
    is_low[target[differs]] = is_low[numbers[differs]] = True
    return is_low[1:]
