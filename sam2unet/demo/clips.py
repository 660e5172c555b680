"""Frames of a clip, evenly spread; read so that a clip can name no other file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .files import Limits, check_size

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
    check_size(path, limits)
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
    with opened_clip(path) as clip:
        stream = clip.streams.video[0]
        if stream.width * stream.height > limits.megapixels * 1e6:
            raise UserError(
                f"{path} has {stream.width} x {stream.height} pixels; at most {limits.megapixels:g} million are taken"
            )
        stream.thread_type = "AUTO"
        yield from clip.decode(stream)


@contextmanager
def opened_clip(path: Path) -> Iterator:
    """By PyAV; what fails inside is a UserError."""
    try:
        import av
    except ImportError as e:
        raise UserError('clips need PyAV here: pip install -e ".[video]"') from e
    with open(path, "rb") as file:
        head = file.read(64)
    kind = next((name for name, start, mark in FORMATS if head[start:].startswith(mark)), None)
    try:
        if kind is None:
            raise ValueError("no mark of a clip")
        with av.open(str(path), format=kind) as clip:
            yield clip
    except (OSError, ValueError, IndexError, av.FFmpegError) as e:
        raise UserError(f"cannot read {path}: not a clip or damaged") from e
