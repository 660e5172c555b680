"""An image with its objects, in the form that all formats are converted to and from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from .outlines import fill_rings


class Region(NamedTuple):
    """An object of a class. It keeps the pixels inside its bounding box only."""

    name: str  # of the class
    top: int
    left: int
    pixels: np.ndarray  # bool (height, width) of the bounding box; (0, 0) if the object has no pixel
    score: float | None = None  # from 0 to 1
    crowd: bool = False  # a group of objects that is not divided into single objects


class AnnotatedImage(NamedTuple):
    """An image and its objects, from the back to the front: where two overlap, the later one is visible."""

    file_name: str  # or the name of its mask, until `formats.check_images` replaces it
    size: tuple[int, int] | None  # (height, width); None: the annotation does not say
    regions: list[Region]

    @property
    def known_size(self) -> tuple[int, int]:
        """The size of an image that `formats.check_images` has passed."""
        assert self.size is not None
        return self.size


def crop_region(name: str, mask: np.ndarray, offset: tuple[int, int] = (0, 0), **values: Any) -> Region:
    """Makes a region from a mask, bool (H, W). `offset` is (top, left) of the mask in the image."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    pixels = mask[top : top + height, left : left + width].copy()
    return Region(name, top + offset[0], left + offset[1], pixels, **values)


def split_parts(name: str, mask: np.ndarray, connected: bool) -> list[Region]:
    """Returns a region for each connected part of a mask, or one for the whole mask. No region if it is empty."""
    if not connected:
        return [crop_region(name, mask)] if mask.any() else []
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    regions = []
    for number, (left, top, width, height, _) in enumerate(stats.tolist()[1:], 1):
        pixels = labels[top : top + height, left : left + width] == number
        regions.append(Region(name, top, left, pixels))
    return regions


def region_from_rings(name: str, rings: Sequence[np.ndarray], size: tuple[int, int], **values: Any) -> Region:
    """Makes a region from separate polygons, each float (N, 2), in an image of `size` (height, width)."""
    points = np.concatenate([*rings, np.empty((0, 2))])
    if len(points) == 0:
        return Region(name, 0, 0, np.zeros((0, 0), bool), **values)
    limit = size[::-1]
    left, top = np.floor(points.min(axis=0)).clip(0, limit).astype(int).tolist()
    right, bottom = np.ceil(points.max(axis=0)).clip(0, limit).astype(int).tolist()
    mask = fill_rings([ring - (left, top) for ring in rings], bottom - top, right - left, union=True)
    return crop_region(name, mask, (top, left), **values)


def place_region(region: Region, size: tuple[int, int]) -> np.ndarray:
    """Returns the mask of a region in its image, bool (height, width)."""
    mask = np.zeros(size, bool)
    mask[slice_region(region)] = region.pixels
    return mask


def slice_region(region: Region) -> tuple[slice, slice]:
    height, width = region.pixels.shape
    return slice(region.top, region.top + height), slice(region.left, region.left + width)
