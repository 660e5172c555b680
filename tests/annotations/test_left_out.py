"""What a conversion must not lose without a line: corrections of a person, objects, pixels to ignore, flags."""

import base64
import json
import os

import numpy as np
import pytest

from sam2unet.annotations.runs import encode_brush
from sam2unet.data.images.pictures import encode_png
from tests.annotations.conftest import read_array
from tests.annotations.small_files import (
    SQUARE,
    make_square,
    write,
    write_coco,
    write_label_studio,
    write_labelme,
)
from tests.conftest import save


@pytest.fixture
def convert(convert_py, tmp_path):
    """`convert(source, "labelme", "masks", ...)` with an image of 20 x 10 writes into `out`."""
    save(tmp_path / "images/a.jpg", np.zeros((10, 20, 3), np.uint8))
    words = ("--images", tmp_path / "images", "--save_path", tmp_path / "out")
    return lambda source, kind, target, *flags: convert_py(source, "--from", kind, "--to", target, *words, *flags)


def test_a_corrected_file_is_not_overwritten(convert, tmp_path):
    source = write_coco(tmp_path)
    for _ in range(2):  # the files are those of the first call
        assert convert(source, "coco", "labelme").status == 0
    path = tmp_path / "out/a.json"
    path.write_text("corrected")
    time = os.stat(tmp_path / "out/.sam2unet").st_mtime + 10
    os.utime(path, (time, time))
    end = convert(source, "coco", "labelme")
    words = f"1 of 1 files in {tmp_path / 'out'} are newer than the last conversion: a.json; they may have corrections"
    assert end.is_refusal(words), end.err
    assert path.read_text() == "corrected"


def test_a_call_that_failed_can_be_repeated(convert, tmp_path):
    source = write_labelme(tmp_path)
    save(tmp_path / "images/b.jpg", np.zeros((10, 20, 3), np.uint8))
    second = source / "b.json"
    second.write_text("{}")
    assert convert(source, "labelme", "masks").is_refusal("b.json is not a labelme file")
    second.unlink()
    assert (tmp_path / "out/masks/a.png").is_file()
    assert convert(source, "labelme", "masks").status == 0


def test_regions_to_ignore_are_named_where_a_format_has_none(convert, convert_py, tmp_path):
    far = [[12, 1], [16, 1], [16, 5], [12, 5]]
    shapes = [{"label": label, "points": points} for label, points in (("dog", SQUARE), ("ignore", far))]
    source = write_labelme(tmp_path, *shapes)
    end = convert(source, "labelme", "masks")
    assert end.err == ["warning: 1 images have pixels to ignore, which become background: a.jpg"]
    assert (read_array(tmp_path / "out/masks/a.png") == 255 * make_square()).all()
    end = convert(source, "labelme", "objects", "--save_path", tmp_path / "objects")
    words = "crowds and regions to ignore are no single objects and are left out"
    assert end.err == [f"warning: 1 {words}: a.jpg"]
    assert [path.name for path in (tmp_path / "objects/masks").iterdir()] == ["a_dog_000.png"]


@pytest.mark.parametrize("flags", [("--mask_threshold", 3), ("--foreground", 1, 2)])
def test_rules_for_binary_masks_are_refused_for_other_sources(convert, tmp_path, flags):
    end = convert(write_coco(tmp_path), "coco", "masks", *flags)
    assert end.is_refusal("--mask_threshold and --foreground are for --from masks and --from objects; leave them out")


def test_a_mask_of_labelme_is_an_object_although_it_has_a_group(read, tmp_path):
    picture = base64.b64encode(encode_png(np.full((2, 3), 255, np.uint8))).decode()
    polygon = {"label": "dog", "points": SQUARE, "shape_type": "polygon", "group_id": 1}
    mask_shape = {"label": "dog", "points": [[12, 6], [14, 7]], "shape_type": "mask", "group_id": 1, "mask": picture}
    expected = make_square()
    expected[6:8, 12:15] = True
    for number, shapes in enumerate([(polygon, mask_shape), (mask_shape, polygon)]):
        (tmp_path / str(number)).mkdir()
        end, mask = read("labelme", write_labelme(tmp_path / str(number), *shapes))
        assert (end.status, end.err) == (0, []) and (mask == 2 * expected).all()


def test_nested_objects_of_label_studio_keep_their_labels(read, tmp_path):
    path = write_label_studio(tmp_path)
    (task,) = json.loads(path.read_text())
    (parent,) = results = task["annotations"][0]["result"]
    points = [[15, 20], [25, 20], [25, 40], [15, 40]]  # columns 3 and 4, rows 2 and 3
    ear = {"points": points, "polygonlabels": ["cat"]}
    corner = np.zeros((10, 20), bool)
    corner[8:, 17:] = True
    brush = {"rle": encode_brush(corner), "brushlabels": ["dog"]}
    results += [parent | {"id": name, "parentID": "x", "value": value} for name, value in (("e", ear), ("b", brush))]
    end, mask = read("label_studio", write(path, json.dumps([task])))
    expected = 2 * (make_square() | corner)
    expected[2:4, 3:5] = 1
    assert end.status == 0 and (mask == expected).all()


def test_what_only_the_images_know_is_asked_for(convert_py, tmp_path):
    words = ("--from", "labelme", "--save_path", tmp_path / "out")
    end = convert_py(write_labelme(tmp_path), *words, "--to", "objects")
    assert end.is_refusal("the list of --to objects has the paths of the images; give their folder, --images")
    end = convert_py(write_labelme(tmp_path, imageHeight=None), *words, "--to", "coco")
    assert end.is_refusal("the annotation of a.jpg has no size; give the folder that holds the image, --images")
    assert not (tmp_path / "out").exists()


def test_a_mask_without_image_is_named_as_it_is(convert, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"masks/{name}.png", 255 * make_square().astype(np.uint8))
    end = convert(tmp_path / "masks", "masks", "coco")
    assert end.err == ["warning: 1 annotated images do not exist; their objects are left out: b.png"]
