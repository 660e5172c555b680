"""Image files with changed bytes: each is read, or is one line that says what is wrong."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sam2unet.data.checks.check import check_image
from sam2unet.data.images.masks import read_mask
from sam2unet.data.images.reading import FORMATS, read_image
from sam2unet.errors import UserError
from sam2unet.prompts.framing import read_label

RNG = np.random.default_rng(0)
GREY = np.repeat(np.array([0, 1, 60, 255], np.uint8), 3)[None].repeat(9, 0)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def encoded(kind, image, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette():
    image = Image.fromarray(GREY).quantize(4)
    image.info["transparency"] = bytes([0, 255])
    return image


RGB = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8))
FILES = {
    "JPEG": encoded("JPEG", RGB, exif=EXIF),
    "JPEG progressive": encoded("JPEG", RGB, progressive=True),
    "JPEG CMYK": encoded("JPEG", RGB.convert("CMYK")),
    "PNG": encoded("PNG", RGB, exif=EXIF),
    "PNG palette": encoded("PNG", palette()),
    "PNG 16 bit": encoded("PNG", Image.fromarray(GREY.astype(np.uint16) * 257)),
    "PNG LA": encoded("PNG", Image.fromarray(GREY).convert("LA")),
    "PNG 1 bit": encoded("PNG", Image.fromarray(GREY).convert("1")),
    "BMP": encoded("BMP", RGB),
    "BMP palette": encoded("BMP", palette()),
    "TIFF": encoded("TIFF", RGB, exif=EXIF),
    "TIFF LZW": encoded("TIFF", Image.fromarray(GREY), compression="tiff_lzw"),
    "TIFF JPEG": encoded("TIFF", RGB, compression="jpeg"),
    "TIFF float": encoded("TIFF", Image.fromarray((GREY / 255).astype(np.float32))),
    "TIFF int": encoded("TIFF", Image.fromarray(GREY.astype(np.int32) - 1)),
    "WEBP": encoded("WEBP", RGB, exif=EXIF),
    "WEBP lossless": encoded("WEBP", Image.fromarray(GREY).convert("RGBA"), lossless=True),
}
READERS = (read_image, read_mask, lambda path: read_mask(path, 0), lambda path: read_mask(path, (1, 3)))
READERS += (read_label, check_image)


@st.composite
def damaged(draw):
    """A file with up to eight bytes changed, most of them near its start, perhaps cut or with bytes put in."""
    name = draw(st.sampled_from(sorted(FILES)))
    data = bytearray(FILES[name])
    places = st.one_of(st.integers(0, min(64, len(data) - 1)), st.integers(0, len(data) - 1))
    for place, byte in draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        data[place] = byte
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data[place:place] = draw(st.binary(max_size=12))
    if draw(st.booleans()):
        del data[draw(st.integers(1, len(data))) :]
    return name, bytes(data)


def check(folder, data):
    path = folder / "a.png"  # formats are told by content
    path.write_bytes(data)
    for read in READERS:
        try:
            read(path)
        except UserError as e:
            assert str(path) in str(e) and "\n" not in str(e)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to write to, and few pixels at most, so that a header that claims many takes no time."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    return tmp_path


def test_every_format_is_among_the_files_and_is_read_as_it_is(folder):
    assert {name.split()[0] for name in FILES} == set(FORMATS)
    for data in FILES.values():
        (folder / "a.png").write_bytes(data)
        assert sorted(read_image(folder / "a.png").size) == [9, 12]


FIXED = dict(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, **FIXED)
@given(damaged())
def test_a_damaged_file_is_read_or_is_one_line(folder, example):
    check(folder, example[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=3000, **FIXED)
@given(damaged())
def test_a_damaged_file_is_read_or_is_one_line_in_many_more_cases(folder, example):
    check(folder, example[1])
