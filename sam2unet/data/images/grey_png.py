"""Decodes plain grey PNG files faster than Pillow. Most maps and masks are such files.

A plain file has 8 bits, no interlacing, and no chunks but IHDR, IDAT and IEND. The extra `fast` has two packages for
it: numba compiles `undo_filters`, and zlib-ng decompresses. Without numba, Pillow reads all files.
"""

import functools
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from ..archives.member import Member

try:
    from zlib_ng.zlib_ng import decompressobj
except ImportError:
    from zlib import decompressobj

from ...runtime.compiled import compile_cached

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def decode_grey_png(path: Path | Member) -> ndarray | None:
    """Returns the pixels (H, W), uint8, the same as Pillow.

    Returns None for every other file, and for a damaged one, so that Pillow reads it or finds the error.
    """
    compiled = compile_undo_filters()
    if compiled is None:
        return None
    try:
        width, height, packed = split_chunks(path.read_bytes())
    except (OSError, struct.error, ValueError):
        return None
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):  # None: the program has no limit
        return None
    stream, size = decompressobj(), height * (width + 1)
    try:
        filtered = stream.decompress(packed, size + 1)  # no more memory than the header says
    except Exception:  # zlib-ng has an exception of its own
        return None
    if len(filtered) != size or not stream.eof:
        return None
    lines = np.frombuffer(filtered, np.uint8).reshape(height, width + 1)
    return compiled(lines) if lines[:, 0].max() <= 4 else None


def split_chunks(content: bytes) -> tuple[int, int, bytes]:
    """Returns the width, the height and the compressed pixels. Raises ValueError if the file is not plain."""
    if not content.startswith(SIGNATURE):
        raise ValueError("no PNG")
    position, header, parts, name = len(SIGNATURE), b"", [], b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, position + 8 + length)
        if checksum != zlib.crc32(name + body):
            raise ValueError("damaged")
        if name == b"IHDR" and not header:
            header = body
        elif name == b"IDAT":
            parts.append(body)
        elif name != b"IEND":
            raise ValueError("another chunk")
        position += length + 12
    width, height, *kind = struct.unpack(">IIBBBBB", header)
    if kind != [8, 0, 0, 0, 0] or not width or not height:
        raise ValueError("another kind of pixels")
    return width, height, b"".join(parts)


@functools.cache
def compile_undo_filters() -> Callable[[ndarray], ndarray] | None:
    """Returns `undo_filters`, compiled, or None without numba."""
    try:
        return compile_cached(undo_filters)
    except ImportError:
        return None


def undo_filters(lines: ndarray) -> ndarray:
    """Returns the pixels (H, W) of filtered lines (H, 1 + W). A line begins with the number of its filter.

    A filter stores the difference from a prediction: 0 nothing, 1 the pixel to the left, 2 the one above, 3 the mean of
    both, 4 Paeth's choice among left, above and upper left (PNG specification, section 9.2).
    """
    height, width = lines.shape[0], lines.shape[1] - 1
    pixels = np.zeros((height + 1, width + 1), np.uint8)  # with a black row above and a black column at the left
    for y in range(height):
        kind, above, row = lines[y, 0], pixels[y], pixels[y + 1]
        if kind == 0:
            row[1:] = lines[y, 1:]
        elif kind == 1:
            for x in range(1, width + 1):
                row[x] = lines[y, x] + row[x - 1]
        elif kind == 2:
            for x in range(1, width + 1):
                row[x] = lines[y, x] + above[x]
        elif kind == 3:
            for x in range(1, width + 1):
                row[x] = lines[y, x] + (row[x - 1] + above[x]) // 2
        else:
            left, corner = 0, 0
            for x in range(1, width + 1):
                up = int(above[x])
                by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                paeth = up if by_up <= by_corner else corner
                paeth = left if by_left <= by_up and by_left <= by_corner else paeth
                left, corner = (lines[y, x] + paeth) & 255, up
                row[x] = left
    return pixels[1:, 1:].copy()
