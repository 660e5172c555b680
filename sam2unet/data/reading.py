"""Image files as they come -> RGB photographs and grey masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import UserError

FOREGROUND = 128  # a mask's grey value above which a pixel is foreground, as released


WAY_OUT = "say which values are foreground with --mask_threshold N (those above N; 0 if 0 is the background)"


class MaskCoding(UserError):
    """A mask that would train or score as something else than it shows.

    Attributes:
        found: the values in it, in words.
    """

    found = ""

    @classmethod
    def of(cls, path: Path, found: str) -> MaskCoding:
        error = cls(f"{path} is not a 0/255 mask ({found}); {WAY_OUT}")
        error.found = found
        return error


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow opens it, undecoded; every failure to open or decode is a UserError."""
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError as e:
        limit = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise UserError(f"{path} is too large: images have at most {limit} million pixels here; make it smaller") from e
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except PermissionError as e:
        raise UserError(f"no permission to read {path}") from e
    except (OSError, SyntaxError, ValueError) as e:  # Pillow's words for damaged files are of all three kinds
        raise UserError(f"cannot read {path}: not an image or damaged; replace or remove it") from e


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) that `upright` will have, without decoding."""
    sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return image.size[::-1] if sideways else image.size


def read_image(path: Path) -> Image.Image:
    """An upright RGB photograph."""
    with opened(path) as image:
        image = upright(to_8_bit(image))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # `convert` copies what is RGB too


def to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits is scaled to 8; Pillow's own conversion would cut it off at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    deep = Image.fromarray(np.rint(values / 257 if values.max() > 255 else values).clip(0, 255).astype(np.uint8))
    deep.info["exif"] = image.info.get("exif", b"")
    return deep


def read_mask(path: Path, threshold: int | None = None) -> Image.Image:
    """An upright mask in mode L: grey levels of a 0/255 mask as they are, or 0 and 255 cut at `threshold`.

    Recognised: 8-bit grey, grey as RGB or palette, 1 bit, 16 bit. `threshold` is in the file's own grey values.
    Raises MaskCoding without `threshold` where the values are not those of a 0/255 mask.
    """
    with opened(path) as image:
        image = upright(image)
        if threshold is None:
            check_coding(image, path)
            return to_8_bit(image).convert("L")
        grey = np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("L"))
        return Image.fromarray(np.where(grey > threshold, 255, 0).astype(np.uint8))


def check_coding(image: Image.Image, path: Path) -> None:
    """Refuse what the released code would silently take for an empty or a half-bright mask: 0/1, 0/128, colours."""
    if image.mode in ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.int16), -1, 0)
        if max(np.abs(red - green).max(), np.abs(green - blue).max()) > 32:  # JPEG shifts a grey by less
            raise MaskCoding.of(path, "it has colours")
    grey = to_8_bit(image).convert("L")
    levels = [level for level, count in enumerate(grey.histogram()) if count]
    two_levels_but_not_white = len(levels) <= 2 and levels[-1] not in (0, 255)
    if two_levels_but_not_white or 0 < levels[-1] <= FOREGROUND:
        own = np.unique(np.asarray(image)) if image.mode.startswith(("I", "F")) else levels
        more = " and more" if len(own) > 6 else ""
        raise MaskCoding.of(path, f"values found: {', '.join(f'{value:g}' for value in own[:6])}{more}")
