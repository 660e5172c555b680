"""Frames of a clip, evenly spread; read so that a clip can name no other file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UserError
from ..files import Limits, check_file_size, check_pixels

# FFmpeg's name of the format, and what stands in the file from which byte. FFmpeg is told the format: left to find it,
# it takes a list of other files' names for a clip too, whatever the ending, and shows those files.
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
    ("mpegts", 4, b"G"),  # of cameras: .mts, .m2ts
)
LONGEST = 20_000  # frames that are decoded at most


def spread_frames(path: Path, most: int, limits: Limits) -> Iterator[tuple[int, Image.Image]]:
    """Number, from 1, and picture of at most `most` frames, the first and, if there are two, the last among them.

    UserError for what is no clip, too large or too long.
    """
    check_file_size(path, limits)
    count = 0
    for count, _ in enumerate(decoded(path, limits), 1):  # noqa: B007
        if count > LONGEST:
            raise UserError(f"{path} has more than {LONGEST} frames; give a part of it")
    wanted = set(np.unique(np.linspace(1, count, most).astype(int)).tolist())
    for number, frame in enumerate(decoded(path, limits), 1):
        if number in wanted:
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield number, Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns)))


def decoded(path: Path, limits: Limits) -> Iterator:
    most = {"max_pixels": str(int(limits.megapixels * 1e6))}  # FFmpeg rejects a larger frame before it decodes it
    with opened_clip(path, limits, most) as clip:
        stream = clip.streams.video[0]
        if not stream.width:
            raise UserError(f"{path} is damaged, or its frames have more than {limits.megapixels:g} million pixels")
        check_pixels(path, stream.width, stream.height, limits)
        stream.codec_context.options = most
        stream.thread_type = "AUTO"
        yield from clip.decode(stream)


@contextmanager
def opened_clip(path: Path, limits: Limits, options: dict[str, str]) -> Iterator:
    """By PyAV with FFmpeg's options; what fails inside is a UserError."""
    try:
        import av
    except ImportError as e:
        raise UserError('clips need PyAV here: pip install -e ".[video]"') from e
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"GIF8"):  # FFmpeg would not say the size of one that is too large
        check_pixels(path, *(int.from_bytes(head[at : at + 2], "little") for at in (6, 8)), limits)
    kind = next((name for name, start, mark in FORMATS if head[start:].startswith(mark)), None)
    try:
        if kind is None:
            raise ValueError("no mark of a clip")
        with av.open(str(path), format=kind, options=options) as clip:
            yield clip
    except (OSError, ValueError, IndexError, av.FFmpegError) as e:
        raise UserError(f"cannot read {path}: not a clip or damaged") from e
