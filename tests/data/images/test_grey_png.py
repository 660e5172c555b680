"""Plain grey PNG files have the pixels that Pillow reads. All others are left to Pillow."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sam2unet.data.images.grey_png import decode_grey_png
from sam2unet.data.images.masks import read_grey, read_mask
from sam2unet.errors import UserError

pytest.importorskip("numba")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def write_png(path, lines: np.ndarray, size=None, more=b"", packed=None):
    """Writes a grey PNG of filtered lines (H, 1 + W)."""
    width, height = size or (lines.shape[1] - 1, lines.shape[0])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    packed = zlib.compress(lines.tobytes()) if packed is None else packed
    half = len(packed) // 2  # two chunks
    body = chunk(b"IDAT", packed[:half]) + chunk(b"IDAT", packed[half:])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + body + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (40, 33)])
@pytest.mark.parametrize("kind", range(5))
def test_each_filter_gives_the_pixels_of_pillow(kind, size, tmp_path):
    lines = np.random.default_rng(kind).integers(0, 256, (size[0], size[1] + 1), dtype=np.uint8)
    lines[:, 0] = kind
    path = write_png(tmp_path / "a.png", lines)
    np.testing.assert_array_equal(decode_grey_png(path), np.asarray(Image.open(path)))


def test_published_maps_and_masks_have_the_pixels_of_pillow(shared):
    paths = sorted((shared / "data/maps_sod_dss").rglob("*.png"))[::20]
    assert len(paths) == 30
    for path in paths:
        np.testing.assert_array_equal(decode_grey_png(path), np.asarray(Image.open(path)))
        np.testing.assert_array_equal(read_grey(path), np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "1", "I;16"])
def test_files_of_other_kinds_are_left_to_pillow(mode, tmp_path):
    Image.new(mode, (8, 6)).save(tmp_path / "a.png")
    assert decode_grey_png(tmp_path / "a.png") is None


def test_a_file_with_more_information_is_left_to_pillow(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 1:4] = 255
    lines = np.pad(mask, ((0, 0), (1, 0)))
    exif = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    path = write_png(tmp_path / "a.png", lines, more=chunk(b"eXIf", exif))
    assert decode_grey_png(path) is None
    assert read_mask(path).size == (6, 8)  # it is rotated


def test_damaged_files_are_left_to_pillow(tmp_path):
    lines, path = np.zeros((40, 41), np.uint8), tmp_path / "a.png"
    whole = write_png(path, lines).read_bytes()
    assert decode_grey_png(path) is not None
    for content in (
        whole[:-1],
        whole[:-20],
        whole[:40],
        b"",
        whole.replace(b"IDAT", b"IDAX"),
        whole[:50] + b"x" + whole[51:],
    ):
        path.write_bytes(content)
        assert decode_grey_png(path) is None
    packed = zlib.compress(lines.tobytes())
    for kind in (dict(packed=packed[:-4]), dict(packed=b"no stream"), dict(size=(41, 40)), dict(size=(40, 39))):
        assert decode_grey_png(write_png(path, lines, **kind)) is None
    assert decode_grey_png(write_png(path, lines, size=(60_000, 60_000))) is None
    lines[7, 0] = 5  # there is no such filter
    assert decode_grey_png(write_png(path, lines)) is None
    with pytest.raises(UserError, match="cannot read"):
        read_grey(path)
