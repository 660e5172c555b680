"""Slices of volumes as images: which ones there are, their values, and their place in the volume."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from ...errors import UserError
from ...slice_view import MEASURED_WINDOWS, PERCENTILES, SliceView, parse_window
from ..archives.member import Member
from .open import (
    STACKS,
    VolumeFile,
    check_values,
    is_volume,
    measure_spacing,
    name_case,
    open_volume,
    read_change,
    read_values,
)

SAME_PLACE = 1e-3  # largest difference of two affines, in mm
WHITE = 255
DEEP = (".png", *STACKS)  # pictures that can have more than 8 bits
measuring = threading.Lock()  # one volume at a time, because all its values are in memory


@dataclass(frozen=True, order=True)
class Slice:
    """A slice of a volume, or a picture with more than 8 bits. It takes the place of the path of an image."""

    volume: Path  # the file, or the folder of a DICOM series
    index: int | None  # from 0, along `view.axis`; None for a picture
    view: SliceView
    grid: Path | None = None  # for a mask: the volume of the image

    @property
    def case(self) -> str:
        return name_case(self.volume)

    @property
    def stem(self) -> str:
        return self.volume.stem if self.index is None else f"{self.case}/{self.index:04d}"

    @property
    def name(self) -> str:
        return self.volume.name if self.index is None else f"{self.volume.name}/{self.index:04d}"

    @property
    def parent(self) -> Path:
        return self.volume.parent

    @property
    def suffix(self) -> str:
        return self.volume.suffix

    def stat(self) -> os.stat_result:
        return self.volume.stat()

    def resolve(self) -> "Slice":
        return replace(self, volume=self.volume.resolve(), grid=self.grid and self.grid.resolve())

    def __str__(self) -> str:
        return str(self.volume) if self.index is None else f"{self.volume}/{self.index:04d}"

    def __fspath__(self) -> str:
        return str(self.volume)

    def open(self) -> Image.Image:
        """Returns the values as stored: mode L, I (whole numbers), F or RGB. UserError if they are not finite."""
        assert self.index is not None and self.view.axis is not None
        volume = open_volume(self.volume, self.grid)
        values = orient_plane(check_values(volume.read_plane(self.view.axis, self.index), self.volume), volume)
        if values.dtype in (np.uint8, np.float32):
            return Image.fromarray(values)
        if values.dtype == bool:
            return Image.fromarray(values.astype(np.uint8))
        if values.dtype.kind == "f" and (values != np.rint(values)).any() or np.abs(values).max() >= 2**31:
            return Image.fromarray(values.astype(np.float32))
        return Image.fromarray(values.astype(np.int32))

    def neighbour(self, step: int) -> "Slice":
        """Returns the slice that is `step` slices further. At an end of the volume, returns the last one."""
        assert self.index is not None and self.view.axis is not None
        last = open_volume(self.volume, self.grid).shape[self.view.axis] - 1
        return replace(self, index=min(max(self.index + step, 0), last))


Source = Path | Slice | Member  # where an image or a mask is read from


def orient_plane(plane: ndarray, volume: VolumeFile) -> ndarray:
    """Returns a plane as rows and columns, as radiologists see it: anterior or superior is up, right is on the left.

    A plane of a file without positions stays as it is.
    """
    if volume.affine is None:
        return np.ascontiguousarray(plane)
    return np.ascontiguousarray(plane[::-1, ::-1].swapaxes(0, 1))


def restore_plane(picture: ndarray, volume: VolumeFile) -> ndarray:
    """Reverses `orient_plane`. A picture may have more axes, for example of classes, which stay."""
    return picture if volume.affine is None else picture.swapaxes(0, 1)[::-1, ::-1]


def pick_axis(volume: VolumeFile, axis: int | None) -> int:
    """Returns `axis`, or the axis with the largest spacing, the last one of several. Without positions it is 0."""
    spacing = measure_spacing(volume.affine)
    if axis is not None or spacing is None:
        return axis or 0
    return max(range(3), key=lambda i: (round(spacing[i], 3), i))


def list_slices(path: Path, view: SliceView, grid: Path | None = None) -> list[Source]:
    """Returns the slices of a volume, the picture if it has more than 8 bits and `view` a window, or the path.

    Raises UserError for CT from DICOM without a window.
    """
    if is_volume(path):
        volume = open_volume(path, grid)
        if volume.modality == "CT" and view.window is None:
            raise UserError(f"{path} is CT; give --window abdomen, lung, brain, bone or LEVEL,WIDTH")
        if volume.is_colour and view.context:
            raise UserError(f"{path} has colours, so there are no channels for neighbours; leave out --context")
        axis = pick_axis(volume, view.axis)
        return [Slice(path, i, replace(view, axis=axis), grid) for i in range(volume.shape[axis])]
    return [Slice(path, None, view)] if view.window and is_deep(path) else [path]


def list_slice_pairs(image: Path, mask: Path, view: SliceView) -> list[tuple[Source, Source]]:
    """Returns the slices of an image and of its mask. Raises UserError if they do not show the same place."""
    has_slices = is_volume(image), is_volume(mask)
    if not any(has_slices):
        return [(source, mask) for source in list_slices(image, view)]
    images = list_slices(image, view)
    if not has_slices[1] and len(images) == 1:
        return [(images[0], mask)]
    if not all(has_slices):
        raise UserError(
            f"{image if has_slices[0] else mask} is a volume, and {mask if has_slices[0] else image} is not"
        )
    refuse_other_place(image, open_volume(image), mask, open_volume(mask, image))
    assert isinstance(images[0], Slice)
    view = replace(view, axis=images[0].view.axis)
    return list(zip(images, list_slices(mask, view, image), strict=True))


def refuse_other_place(path: Path, volume: VolumeFile, mask_path: Path, mask: VolumeFile) -> None:
    """Raises UserError if a volume and its mask do not have the same voxels."""
    shapes = ["x".join(map(str, part.shape)) for part in (volume, mask)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path} has {shapes[0]} voxels, its mask {shapes[1]} ({mask_path}); resample one of them")
    if (volume.affine is None) != (mask.affine is None):
        raise UserError(f"{path} and {mask_path} have different formats; only one of them knows its orientation")
    if volume.affine is None or mask.affine is None:
        return
    if not np.allclose(volume.affine, mask.affine, rtol=0, atol=SAME_PLACE):
        raise UserError(f"{path} has another affine than {mask_path}; write one with the affine of the other")


def is_deep(path: Path) -> bool:
    """Returns whether a picture has more than 8 bits. Returns False for a damaged file, which its reader reports."""
    if path.suffix.lower() not in DEEP:
        return False
    try:
        with Image.open(path) as image:
            return image.mode.startswith(("I", "F"))
    except Exception:
        return False


def apply_window(image: Image.Image, source: Slice) -> Image.Image:
    """Converts grey values to 8 bits by the window of `source.view`. Colours, and 8 bits without window, stay."""
    window = source.view.window
    if image.mode == "RGB" or window is None and image.mode == "L":
        return image
    values = np.asarray(image).astype(np.float64)
    limits = parse_window(window or "percentile")
    low, high = limits or measure_values(values if source.index is None else source.volume, window or "percentile")
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8))


def measure_values(source: Path | ndarray, window: str) -> tuple[float, float]:
    """Returns the lowest and the highest value of one of `MEASURED_WINDOWS`, of a volume or of an array."""
    assert window in MEASURED_WINDOWS
    if isinstance(source, Path):
        with measuring:
            return measure_once(source, read_change(source), window)
    if window == "full":
        return float(source.min()), float(source.max())
    low, high = np.percentile(source, PERCENTILES)
    return float(low), float(high)


@lru_cache(maxsize=2**16)
def measure_once(path: Path, change: tuple[int, int], window: str) -> tuple[float, float]:
    return measure_values(read_values(open_volume(path), path), window)


def find_white(path: Path, grid: Path | None = None) -> int | None:
    """Returns the value of foreground in a mask or a map: 1 or 255. None if it has other values.

    Floats up to 1 are probabilities.
    """
    with measuring:
        return find_white_once(path, grid, read_change(path))


@lru_cache(maxsize=2**16)
def find_white_once(path: Path, grid: Path | None, change: tuple[int, int]) -> int | None:
    return choose_white(read_values(open_volume(path, grid), path))


def choose_white(values: ndarray) -> int | None:
    if 0 <= values.min() and values.max() <= 1:
        return 1
    return WHITE if ((values == 0) | (values == WHITE)).all() else None


def measure_pixel(source: Slice) -> tuple[float, float] | None:
    """Returns the distance of neighbouring rows and of neighbouring columns of a slice in mm, if its file knows it."""
    spacing = measure_spacing(open_volume(source.volume, source.grid).affine)
    if spacing is None or source.index is None:
        return None
    column, row = (length for axis, length in enumerate(spacing) if axis != source.view.axis)
    return row, column


def find_file(source: Source) -> Path:
    """Returns the path of an image, of the volume of a slice, or of a member: its archive, then the name inside."""
    if isinstance(source, Slice):
        return source.volume
    return source.path if isinstance(source, Member) else source


def list_cases(stems: Sequence[str]) -> list[str]:
    """Returns for each name of an image the case that it belongs to: `a` of the slice `a/0042`, or the name."""
    return [stem.rpartition("/")[0] or stem for stem in stems]
