"""Reads some frames of a video clip. A file that refers to other files is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UserError
from ...runtime.versions import import_extra
from ..files import Limits, check_file_size, check_pixels

# FFmpeg's name of a format, the position of its mark in the file, and the mark. FFmpeg must not guess the format. It
# would also accept a list of file names as a clip, and then show these files of the server to the visitor.
FORMATS = (
    ("mov", 4, b"ftyp"),
    ("mov", 4, b"moov"),
    ("mov", 4, b"mdat"),
    ("mov", 4, b"wide"),
    ("matroska", 0, b"\x1aE\xdf\xa3"),
    ("avi", 8, b"AVI "),
    ("gif", 0, b"GIF8"),
    ("asf", 0, b"0&\xb2u\x8ef\xcf\x11"),
    ("mpeg", 0, b"\x00\x00\x01\xba"),
    ("mpegts", 0, b"G"),
    ("mpegts", 4, b"G"),  # files of cameras: .mts, .m2ts
)
LONGEST = 20_000  # the largest number of frames of a clip


def spread_frames(path: Path, count: int, limits: Limits) -> Iterator[tuple[int, Image.Image]]:
    """Yields up to `count` frames at equal distances with their numbers, from 1. The first and the last are among them.

    Raises UserError if the file is not a clip, or is too large or too long.
    """
    check_file_size(path, limits)
    total = 0
    for total, _ in enumerate(decode_frames(path, limits), 1):  # noqa: B007
        if total > LONGEST:
            raise UserError(f"{path} has more than {LONGEST} frames; give a shorter clip")
    numbers = set(np.unique(np.linspace(1, total, count).astype(int)).tolist())
    for number, frame in enumerate(decode_frames(path, limits), 1):
        if number in numbers:
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield number, Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns)))


def decode_frames(path: Path, limits: Limits) -> Iterator:
    options = {"max_pixels": str(int(limits.megapixels * 1e6))}  # FFmpeg rejects a larger frame before it decodes it
    with open_clip(path, limits, options) as clip:
        stream = clip.streams.video[0]
        if not stream.width:
            raise UserError(f"{path} is damaged, or its frames have more than {limits.megapixels:g} million pixels")
        check_pixels(path, stream.width, stream.height, limits)
        stream.codec_context.options = options
        stream.thread_type = "AUTO"
        yield from clip.decode(stream)


@contextmanager
def open_clip(path: Path, limits: Limits, options: dict[str, str]) -> Iterator:
    """Opens a clip with PyAV and these options of FFmpeg. Errors of PyAV become UserError, also inside the context."""
    av = import_extra("av", 'clips need PyAV, which is not installed: pip install "sam2unet[video]"')
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"GIF8"):  # FFmpeg does not report the size of a GIF that is too large
        width, height = (int.from_bytes(head[at : at + 2], "little") for at in (6, 8))
        check_pixels(path, width, height, limits)
    kind = next((name for name, start, mark in FORMATS if head[start:].startswith(mark)), None)
    try:
        if kind is None:
            raise ValueError("unknown format")
        with av.open(str(path), format=kind, options=options) as clip:
            yield clip
    except (OSError, ValueError, IndexError, av.FFmpegError) as e:
        raise UserError(f"cannot read {path}: not a clip or damaged") from e
