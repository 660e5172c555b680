"""Reads masks and maps, and refuses masks that would silently be misread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from ...classes import Classes
from ...errors import UserError
from ...recipe import MaskRule
from ..volumes.slices import Slice, Source, find_white
from .grey_png import decode_grey_png
from .reading import open_image, rotate_upright, to_8_bit, to_grey

FOREGROUND = 128  # a grey value of a mask above this is foreground, as in the released scripts
EDGE_LEVELS = 128  # a mask with more grey levels has soft edges, even if it has flat areas
FEW_LEVELS = 16
LOSSY = ("JPEG", "MPO", "WEBP")
VALUES_NOTE = "Class values"  # a text in a PNG with a palette: the value of each index, if values need more than 8 bits

WAY_OUT = (
    "say which values are foreground with --foreground V ... (these) or --mask_threshold N (those above N), or give "
    "each value a class with --classes FILE (sam2unet check --classes auto --write_classes FILE makes it); "
    "sam2unet make-prompts --split values makes a mask of each value"
)


class MaskCoding(UserError):
    """A mask is not 0/255, so training or scoring would read another mask than it shows. `found` names its values."""

    found = ""

    @classmethod
    def of(cls, path: Source, found: str) -> MaskCoding:
        error = cls(f"{path} is not a 0/255 mask ({found}); {WAY_OUT}")
        error.found = found
        return error


@contextmanager
def open_grey(path: Source) -> Iterator[Image.Image]:
    """Does the work of `open_image` for maps and masks. A plain grey PNG is already decoded."""
    pixels = None if isinstance(path, Slice) else decode_grey_png(path)
    if pixels is None:
        with open_image(path) as image:
            yield image
    else:
        yield Image.frombuffer("L", pixels.shape[::-1], pixels, "raw", "L", 0, 1)  # without a copy


def read_grey(path: Source) -> Image.Image:
    """Reads a map in mode L. In a slice, the values 0 and 1, or probabilities, become 0 to 255."""
    with open_grey(path) as image:
        if isinstance(path, Slice):
            return Image.fromarray(np.rint(to_share(image, path) * 255).astype(np.uint8))
        return to_grey(image, path)


def read_mask(path: Source, threshold: MaskRule = None) -> Image.Image:
    """Reads an upright mask in mode L: 8-bit grey, grey as RGB or palette, 1 bit, 16 bit, or floats in [0, 1].

    Without `threshold`, a 0/255 mask keeps its grey values, and MaskCoding is raised for other values. Otherwise
    `threshold` is a rule for the values in the file, grey or indices of a palette; the result has only 0 and 255. If it
    is `Classes`, the result has the index of each pixel's class; UnknownValues is raised for other values.
    """
    if isinstance(path, Slice) and path.index is None:
        path = path.volume  # a picture with more than 8 bits; its window is for images
    if isinstance(threshold, Classes):
        return Image.fromarray(read_indices(path, threshold))
    with open_grey(path) as image:
        image = rotate_upright(image)
        if threshold is None and isinstance(path, Slice):
            return Image.fromarray((to_share(image, path) > 0.5) * np.uint8(255))
        if threshold is None:
            return check_coding(image, path)
        if np.ndim(threshold) and is_colour_mask(image):
            raise MaskCoding.of(path, "it has colours, but no palette whose indices could be the values")
        values = stored_values(image, path)
        foreground = values > threshold if np.ndim(threshold) == 0 else np.isin(values, threshold)
        return Image.fromarray(foreground * np.uint8(255))


def to_share(image: Image.Image, source: Slice) -> np.ndarray:
    """Converts a slice of a mask or of a map to [0, 1]. The volume has values 0 and 1, probabilities, or 0 and 255.

    Raises MaskCoding for other values, and for colours.
    """
    if has_colours(image):
        raise MaskCoding.of(source.volume, "it has colours")
    white = find_white(source.volume, source.grid)
    if white is None:
        raise MaskCoding.of(source.volume, list_values(image, source))
    return np.asarray(image.convert("L") if image.mode == "RGB" else image) / white


def read_indices(path: Source, classes: Classes) -> np.ndarray:
    """Reads an upright mask as uint8 (H, W), the index of each pixel's class. Raises UnknownValues for other values."""
    with open_image(path) as image:
        return classes.to_indices(read_codes(rotate_upright(image), path, classes.has_values), path)


def read_codes(image: Image.Image, path: Source, has_values: bool) -> np.ndarray:
    """Returns integers (H, W): the values of a mask, or its packed colours if the classes have no values."""
    if not has_values:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), -1, 0)
        return red << 16 | green << 8 | blue
    if is_colour_mask(image):
        raise UserError(f"{path} has no values: it has colours; for colours, give the classes a color and no value")
    values = stored_values(image, path)
    if has_palette(image) and VALUES_NOTE in image.info:
        table = np.full(256, -1)
        known = [int(text) for text in image.info[VALUES_NOTE].split()]
        table[: len(known)] = known
        values = table[values]
    return values


def is_colour_mask(image: Image.Image) -> bool:
    return not has_palette(image) and has_colours(image)


def check_coding(image: Image.Image, path: Source) -> Image.Image:
    """Returns the mask in mode L. Refuses masks that would silently be misread: 0/1, 0/128, label maps, colours."""
    refuse_lost_values(image, path)
    if has_colours(image):
        indices = f"; {list_values(image, path)}" if has_palette(image) else ""
        raise MaskCoding.of(path, f"it has colours{indices}")
    grey = to_grey(image, path)
    levels = [level for level, count in enumerate(grey.histogram()) if count]
    two_levels_but_not_white = len(levels) <= 2 and levels[-1] not in (0, 255)
    wrong = two_levels_but_not_white or 0 < levels[-1] <= FOREGROUND
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if ((values > 0) & (values < values.max())).any():  # 8 bits cannot distinguish a 16-bit 1 from 0
            wrong = wrong or is_label_map(values, np.unique(values).tolist(), lossy=False)
    elif not wrong:
        wrong = is_label_map(grey, levels, lossy=image.format in LOSSY)
    if wrong:
        raise MaskCoding.of(path, list_values(image, path))
    return grey


def is_label_map(grey: np.ndarray | Image.Image, levels: Sequence[int], lossy: bool) -> bool:
    """Returns whether grey values (H, W) form flat areas, as in a label map, and not soft edges.

    `levels` are its distinct values, ascending. In a `lossy` format values change slightly, so dark ones count as
    black.
    """
    low, high = levels[-1] / 8 if lossy else 1, levels[-1] * 7 / 8
    if len(levels) > EDGE_LEVELS or not any(low <= level <= high for level in levels):
        return False
    if list(levels[:-1]) == [0, 1]:  # an object and an area to ignore; soft edges also have other values
        return True
    values = np.asarray(grey)
    middle = (values >= low) & (values <= high)
    if len(levels) <= FEW_LEVELS and middle.sum() > max((values > high).sum(), values.size / 100):
        return True
    beside = values[:, 1:] == values[:, :-1]
    below = (values[1:] == values[:-1])[:, 1:-1]
    rows = beside[:, 1:] & beside[:, :-1]
    flat = rows[1:-1] & rows[:-2] & rows[2:] & below[1:] & below[:-1]  # equal to all eight neighbours
    middle = middle[1:-1, 1:-1]
    return 2 * (flat & middle).sum() > middle.sum()


def refuse_lost_values(image: Image.Image, path: Source) -> None:
    """Raises MaskCoding if the image has values that 8-bit grey loses: varying transparency, or negative numbers.

    Floats may be negative by less than 1, because resampling can go below 0 a little.
    """
    if varies := varying_alpha(image):
        raise MaskCoding.of(path, f"its transparency varies, alpha {varies}; {list_values(image, path)}")
    if image.mode in ("I", "F") and np.asarray(image).min() <= -1:
        raise MaskCoding.of(path, list_values(image, path))


def varying_alpha(image: Image.Image) -> str:
    """Returns the range of the transparency, such as `0 to 255`, if pixels differ in it; otherwise empty text."""
    if "A" not in image.getbands():
        if "transparency" not in image.info or image.mode.startswith("I"):
            return ""
        image = image.convert("RGBA")
    alpha = np.asarray(image.getchannel("A"))
    low, high = alpha.min(), alpha.max()
    return f"{low} to {high}" if low < high else ""


def has_palette(image: Image.Image) -> bool:
    return image.mode in ("P", "PA")


def has_colours(image: Image.Image) -> bool:
    if image.mode not in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        return False
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.int16), -1, 0)
    return max(np.abs(red - green).max(), np.abs(green - blue).max()) > 32  # JPEG changes a grey pixel by less


def stored_values(image: Image.Image, path: Source) -> np.ndarray:
    """Returns (H, W): the indices of a palette, or the grey values as stored."""
    if has_palette(image):
        pixels = np.asarray(image)
        return pixels if pixels.ndim == 2 else pixels[..., 0]
    to_8_bit(image, path)  # refuses NaN
    return np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("L"))


def list_values(image: Image.Image, path: Source) -> str:
    """Returns text such as `values found: 0, 1, 2`."""
    distinct = np.unique(stored_values(image, path))
    what = "palette indices" if has_palette(image) else "values"
    more = " and more" if len(distinct) > 6 else ""
    return f"{what} found: {', '.join(f'{value:g}' for value in distinct[:6])}{more}"
