"""Image files as users have them: odd metadata, other formats, extreme shapes, long names, no permission."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from sam2unet.atomic import write_atomic
from sam2unet.data.checks.audit import audit_folders
from sam2unet.data.images.reading import TURNS, open_image, orientation, read_image, upright_size
from sam2unet.data.pairs import list_images, match
from sam2unet.errors import Stopped, UserError
from sam2unet.masks.files.find_inputs import find_inputs
from sam2unet.masks.files.outputs import PredictOutputs, write_outputs
from tests.conftest import save, write_pairs

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
LONG = "图" * 80  # 240 bytes


@pytest.mark.parametrize("value", sorted(TURNS))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_every_exif_orientation_turns_the_pixels_and_the_size(ending, value, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = value
    stored = Image.fromarray(PIXELS)
    stored.save(tmp_path / f"a.{ending}", exif=exif)
    stored.save(tmp_path / f"b.{ending}")
    turned = read_image(tmp_path / f"b.{ending}").transpose(TURNS[value])
    assert np.array_equal(read_image(tmp_path / f"a.{ending}"), turned)
    with open_image(tmp_path / f"a.{ending}") as image:
        assert upright_size(image) == turned.size


def test_exif_that_cannot_be_written_again_does_not_matter(tmp_path):
    """Orientation 6, and ResolutionUnit as text, which Pillow cannot pack."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x0128, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (20, 30)


def test_broken_exif_leaves_the_image_as_it_is(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0nothing of the kind")
    assert read_image(tmp_path / "a.jpg").size == (30, 20)
    with open_image(tmp_path / "a.jpg") as image:
        assert orientation(image) == 1


@pytest.mark.parametrize("error", [KeyError("x"), struct.error("x"), ZeroDivisionError(), NotImplementedError("x")])
def test_any_error_of_a_decoder_is_a_file_that_cannot_be_read(error, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with (
        pytest.raises(UserError, match=r"cannot read \S+a\.png: not an image or damaged"),
        open_image(tmp_path / "a.png"),
    ):
        raise error
    for own in (UserError("own"), Stopped(2)):
        with pytest.raises(type(own)), open_image(tmp_path / "a.png"):
            raise own


DAMAGED = "a.png: not an image or damaged"


@pytest.mark.parametrize("kind, words", [("GIF", "is GIF; wanted JPEG"), ("PPM", DAMAGED), ("DDS", DAMAGED)])
def test_other_formats_are_not_opened(kind, words, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", format=kind)
    with pytest.raises(UserError, match=words):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "name, content, words",
    [
        (
            "a.nii.gz",
            b"\x1f\x8b\x08",
            r"cannot read .*a.nii.gz: not a volume or damaged",
        ),
        ("a.dcm", b"no preamble", r"a.dcm is not a DICOM file"),
        ("a.png", bytes(128) + b"DICM", r"a.png is DICOM; wanted JPEG"),
    ],
)
def test_volumes_are_told_from_damaged_images(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    (item,) = find_inputs(tmp_path / name)
    with pytest.raises(UserError, match=words):
        read_image(item.path)


def test_a_list_is_not_a_folder_and_the_line_says_where_it_goes(tmp_path):
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"list.json is a file; wanted a folder of images; --data_path of sam_med2d takes"
    ):
        list_images(tmp_path / "list.json")


def test_comparing_a_folder_with_itself_is_named(tmp_path):
    images, masks = write_pairs(tmp_path)
    with pytest.raises(
        UserError, match=r"--other \S+images is the folder of the images to train on; give a folder of other"
    ):
        audit_folders(images, masks, images)


@pytest.mark.parametrize("shape", [(1, 200_000), (1, 1_200_000), (1_200_000, 1)])
def test_lines_of_pixels_get_maps_and_pictures(shape, tmp_path):
    grey = np.zeros(shape, np.uint8)
    grey.flat[: grey.size // 2] = 255
    save(tmp_path / "a.png", np.stack([grey] * 3, -1))
    write_outputs(tmp_path / "out", "a", grey, PredictOutputs(overlay=True, contours=True), tmp_path / "a.png")
    assert np.array_equal(Image.open(tmp_path / "out/a.png"), grey)
    for kind in ("overlay", "contours"):
        assert max(Image.open(tmp_path / f"out/{kind}/a.jpg").size) == 65_500


@pytest.mark.parametrize("name", [f"{LONG}.png", "x" * 251 + ".png", "a.png"])
def test_a_file_is_written_whole_under_any_name_that_can_be(name, tmp_path):
    with write_atomic(tmp_path / name) as file:
        file.write(b"all")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"all")]
    with pytest.raises(UserError, match="cannot write .*File name too long"), write_atomic(tmp_path / ("x" * 256)):
        pass


def test_long_names_go_through_a_prediction(maps_of, tmp_path):
    save(tmp_path / f"images/{LONG}.png", PIXELS)
    assert maps_of(tmp_path / "images", tmp_path / "maps", "--overlay").status == 0
    assert (tmp_path / f"maps/{LONG}.png").is_file() and (tmp_path / f"maps/overlay/{LONG}.jpg").is_file()


@pytest.mark.parametrize("flag", ["--test_image_path", "--test_gt_path", "--save_path", "--checkpoint"])
def test_an_argument_of_300_characters_is_the_error(flag, maps_of, tmp_path):
    save(tmp_path / "images/a.png", PIXELS)
    ended = maps_of(tmp_path / "images", tmp_path / "maps", flag, tmp_path / ("x" * 300))
    assert ended.is_refusal("File name too long"), ended


@pytest.fixture
def forbid(monkeypatch):
    """Makes listing a folder fail as it does without permission, which tests that run as root always have."""

    def call(folder):
        def refuse(real):
            def checked(path="."):
                if path in (folder, os.fspath(folder)):
                    raise PermissionError(13, "Permission denied", os.fspath(path))
                return real(path)

            return checked

        for name in ("listdir", "scandir"):
            monkeypatch.setattr(os, name, refuse(getattr(os, name)))

    return call


def test_a_folder_without_permission_is_named(forbid, tmp_path):
    images, masks = write_pairs(tmp_path)
    forbid(images)
    for look in (lambda: match(images, masks), lambda: find_inputs(images)):
        with pytest.raises(UserError, match=f"no permission to read the folder {images}"):
            look()


def test_folders_inside_without_permission_are_warned_of(forbid, tmp_path, capsys):
    save(tmp_path / "a.png", PIXELS)
    save(tmp_path / "in/b.png", PIXELS)
    forbid(tmp_path / "in")
    assert [item.name for item in find_inputs(tmp_path, recursive=True)] == ["a"]
    assert f"warning: 1 folders cannot be read and are left out: {tmp_path / 'in'}" in capsys.readouterr().err
