"""Opens image files, and reads photographs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

from ...errors import Stopped, UserError
from ..archives.member import Member
from ..archives.sparse_rows import read_row
from ..volumes.slices import Slice, Source, apply_window
from .unreadable import FORMATS, explain_unreadable

LARGEST_TILED = 10**9  # pixels of the largest image that test.py --tile opens
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


@contextmanager
def open_image(path: Source) -> Iterator[Image.Image]:
    """Opens a file without decoding it. Errors become UserError, also those of decoding inside the `with` block.

    For a slice of a volume, the image has the values as they are stored.
    """
    try:
        if isinstance(path, Slice) and path.index is not None:
            opened = path.open()
        elif isinstance(path, Member) and path.row is not None:
            opened = Image.fromarray(read_row(path))
        elif isinstance(path, Member):
            opened = Image.open(path.open(), formats=FORMATS)
        else:
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            yield image
    except (UserError, Stopped):
        raise
    except Image.DecompressionBombError as e:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        more = f" (sam2unet test --tile takes up to {LARGEST_TILED // 10**6} million)" if limit < LARGEST_TILED else ""
        raise UserError(
            f"{path} is too large: images have at most {limit // 10**6} million pixels here; make it smaller{more}"
        ) from e
    except FileNotFoundError as e:
        raise UserError(f"no such file: {path}") from e
    except PermissionError as e:
        raise UserError(f"no permission to read {path}") from e
    except MemoryError as e:
        raise UserError(f"cannot read {path}: not enough memory; make it smaller") from e
    except Exception as e:  # decoders raise exceptions of every kind for damaged files
        if isinstance(e, OSError) and e.errno:
            raise UserError(f"cannot read {path}: {e.strerror}") from e
        raise UserError(explain_unreadable(path)) from e


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation from 1 (upright) to 8. It is 1 if the metadata cannot be read."""
    if image.format == "TIFF":  # Pillow rotates these when it decodes them, and reports the rotated size
        return 1
    if image.format == "PNG":
        image.load()  # EXIF may follow the pixels; the `except` below must not hide their errors
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # cameras and editors write malformed metadata of every kind
        return 1
    return int(value) if value in TURNS else 1


def rotate_upright(image: Image.Image) -> Image.Image:
    """Rotates and flips an image by its EXIF orientation."""
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns the (width, height) of `rotate_upright`, without decoding."""
    return image.size[::-1] if orientation(image) >= 5 else image.size


def read_image(path: Source) -> Image.Image:
    """Reads a file as an upright RGB photograph. Raises UserError if the file cannot be read."""
    if isinstance(path, Slice) and path.view.context and path.index is not None:
        return Image.merge("RGB", [read_window(path.neighbour(step)) for step in (-1, 0, 1)])
    if isinstance(path, Slice):
        return read_window(path).convert("RGB")
    with open_image(path) as image:
        image = to_8_bit(rotate_upright(image), path)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # `convert` would copy an RGB image


def read_window(source: Slice) -> Image.Image:
    """Reads a slice, or a picture with more than 8 bits, by its window: mode L, or RGB if it has colours."""
    with open_image(source) as image:
        return to_8_bit(apply_window(rotate_upright(image), source), source)


def to_8_bit(image: Image.Image, name: Source | str = "the image") -> Image.Image:
    """Scales 16-bit grey, and floats up to 1, to 0..255. The conversion of Pillow would clip them.

    Raises UserError if the image has NaN or infinity. The message names `name`.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise UserError(f"{name} holds values that are not finite (NaN or infinity); replace them")
    if values.max() > 255:
        values = values / 257
    elif image.mode == "F" and values.max() < 2:  # resampling can exceed 1 a little
        values = values * 255
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def to_grey(image: Image.Image, name: Source | str) -> Image.Image:
    """Returns the image in mode L. Errors are those of `to_8_bit`."""
    image = to_8_bit(image, name)
    image.load()
    return image if image.mode == "L" else image.convert("L")  # `convert` would copy an image in mode L
