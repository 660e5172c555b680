"""From masks to each format and back: run lengths are exact, polygons keep an IoU of at least 0.98."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from sam2unet.annotations import outlines
from sam2unet.annotations.formats import FORMATS
from sam2unet.annotations.runs import count_runs, decode_brush, encode_brush, expand_runs, parse_coco_counts
from sam2unet.commands import convert_annotations
from tests.annotations.conftest import MaskSet, compute_iou, count_holes, read_array
from tests.conftest import save

WRITTEN = {name: form for name, form in FORMATS.items() if form.write}
EXACT = [(name, shape) for name, form in WRITTEN.items() for shape in form.shapes or ("",) if shape != "polygons"]
POLYGONS = [name for name, form in WRITTEN.items() if "polygons" in form.shapes]


def convert_and_back(convert_py, data, target, folder, *flags):
    """Converts masks to a format and back. Returns the folder of the masks."""
    forth = convert_py(
        data.masks, *data.flags, "--to", target, "--images", data.images, "--save_path", folder / "there", *flags
    )
    assert forth.status == 0, forth.err
    kind, *classes = data.flags[1], *data.flags[2:]
    source = folder / "there/masks" if target in ("masks", "classes", "objects") else folder / "there"
    words = ("--from", target, "--to", kind, *classes, "--images", data.images, "--save_path", folder / "back")
    back = convert_py(source, *words)
    assert (back.status, back.err) == (0, [])
    return folder / "back/masks"


def test_the_script_knows_all_formats():
    assert convert_annotations.FORMATS == tuple(WRITTEN)


@pytest.mark.parametrize(("name", "shape"), [pair for pair in EXACT if pair[0] != "classes"])
def test_masks_come_back_exactly(convert_py, binary_set, tmp_path, name, shape):
    masks = convert_and_back(convert_py, binary_set, name, tmp_path, *(["--shapes", shape] if shape else []))
    for path in sorted(binary_set.masks.iterdir()):
        assert (read_array(masks / path.name) == read_array(path)).all(), path.name


@pytest.mark.parametrize(
    ("name", "shape"),
    [pair for pair in EXACT if pair[0] in ("classes", "coco", "labelme", "cvat", "label_studio", "voc")],
)
def test_classes_and_ignored_pixels_come_back_exactly(convert_py, class_set, tmp_path, name, shape):
    masks = convert_and_back(convert_py, class_set, name, tmp_path, *(["--shapes", shape] if shape else []))
    for path in sorted(class_set.masks.iterdir()):
        assert (read_array(masks / path.name) == read_array(path)).all(), path.name


@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_keep_the_real_masks(convert_py, binary_set, tmp_path, name):
    masks = convert_and_back(convert_py, binary_set, name, tmp_path)
    for path in sorted(binary_set.masks.iterdir()):
        assert compute_iou(read_array(masks / path.name) > 0, read_array(path) > 0) >= 0.98, path.name


@pytest.mark.parametrize("name", POLYGONS)
def test_exact_polygons_keep_holes_parts_and_single_pixels(convert_py, tmp_path, name):
    mask = np.zeros((60, 70), np.uint8)
    mask[5:40, 5:50] = 255
    mask[10:20, 10:20] = mask[25:35, 30:45] = 0  # two holes
    mask[28:31, 35:38] = 255  # an island in a hole
    mask[14, 14] = mask[55, 3] = mask[59, 69] = mask[0, 69] = 255  # single pixels, in a hole and in corners
    mask[50, 10:60] = 255  # a line
    mask[45:48, 60:63] = np.eye(3) * 255  # pixels that touch at corners
    save(tmp_path / "images/a.png", mask)
    save(tmp_path / "masks/a.png", mask)
    data = MaskSet(tmp_path / "images", tmp_path / "masks", ("--from", "masks"))
    for objects in ("regions", "classes"):
        folder = tmp_path / objects
        masks = convert_and_back(convert_py, data, name, folder, "--tolerance", 0, "--objects", objects)
        assert (read_array(masks / "a.png") == mask).all()
    assert count_holes(mask > 0) == 2


def test_one_object_with_parts_stays_one_object(convert_py, tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[2:10, 2:10] = mask[20:36, 20:36] = 255
    save(tmp_path / "images/a.png", mask)
    save(tmp_path / "masks/a.png", mask)
    flags = ("--images", tmp_path / "images", "--objects", "classes")
    for name in POLYGONS:
        end = convert_py(tmp_path / "masks", "--from", "masks", "--to", name, "--save_path", tmp_path / name, *flags)
        assert end.out.startswith("1 images with 1 objects")
        end = convert_py(
            tmp_path / name, "--from", name, "--to", "coco", "--save_path", tmp_path / f"{name}_coco", *flags
        )
        assert end.out.startswith("1 images with 1 objects"), name


@pytest.mark.parametrize("target", WRITTEN)
def test_unusual_names_of_files_and_classes(convert_py, tmp_path, target):
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:20] = 255
    names = ["日本 ü", "q'\"&<x>", "50% ?d=x", *([] if target == "cvat" else ["a\nb", os.fsdecode(b"bad\xff")])]
    for name in names:
        save(tmp_path / f"images/{name}.png", mask)
        save(tmp_path / f"masks/{name}.png", mask)
    (tmp_path / "c.yaml").write_text("classes: [{name: sky, value: 0}, {name: 'a \"b\" <&', value: 255}]")
    data = MaskSet(tmp_path / "images", tmp_path / "masks", ("--from", "classes", "--classes", tmp_path / "c.yaml"))
    if target == "masks":  # they have no names of classes
        data = data._replace(flags=("--from", "masks"))
    masks = convert_and_back(convert_py, data, target, tmp_path, "--tolerance", 0)
    assert sorted(path.stem for path in masks.iterdir()) == sorted(names)
    assert all((read_array(path) == mask).all() for path in masks.iterdir())


def test_a_thin_line_is_simplified_less_than_a_disc():
    rows, columns = np.mgrid[:80, :80]
    disc = (rows - 40) ** 2 + (columns - 40) ** 2 < 35**2
    line = abs(rows - columns + 5 * np.sin(columns / 4)) < 1
    for mask, share in ((disc, 0.5), (line, 1.0)):
        exact = outlines.trace_rings(mask)
        simple = outlines.simplify_rings(mask, exact, 4.0)
        rings = [ring for part in simple for ring in part]
        assert compute_iou(outlines.fill_rings(rings, 80, 80), mask) >= outlines.MIN_IOU
        assert sum(map(len, rings)) <= share * sum(len(ring) for part in exact for ring in part)


def test_polygons_far_outside_the_image_cost_nothing():
    ring = np.array([[-1e6, -1e6], [1e6, -1e6], [1e6, 20.0], [-1e6, 20.0]])
    mask = outlines.fill_rings([ring], 30, 40)
    assert mask[:20].all() and not mask[20:].any()


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_of_random_masks(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 70), rng.integers(1, 300))) < rng.choice([0.02, 0.5, 0.999])
    from pycocotools import mask as coco_mask

    counts = count_runs(mask.T.ravel())
    text = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"].decode()
    assert parse_coco_counts(text) == counts
    assert (expand_runs(counts, mask.size).reshape(mask.shape[::-1]).T == mask).all()
    assert (decode_brush(encode_brush(mask), mask.shape) == mask).all()


@pytest.mark.parametrize("text", ["zzzz", "oooooooooooooooooo", "5", "", "\x01", "PPPPPPPPPPPPPP"])
def test_damaged_run_lengths_are_refused(text):
    with pytest.raises(ValueError):
        expand_runs(parse_coco_counts(text), 100)


@pytest.mark.parametrize(
    ("keys", "pixels"),
    [
        (["value: 0", "value: 700", "value: 9"], np.array([0, 700, 9, 1000], np.uint16)),
        (
            ["color: [0, 0, 0]", "color: [9, 8, 7]", "color: [255, 0, 0]"],
            [[0, 0, 0], [9, 8, 7], [255, 0, 0], [1, 2, 3]],
        ),
    ],
)
def test_masks_with_16_bits_or_colours_come_back(convert_py, tmp_path, keys, pixels):
    codes = np.repeat(np.repeat(np.array([[0, 1, 2], [3, 2, 1]]), 20, axis=0), 10, axis=1)
    mask = np.asarray(pixels, np.uint16 if np.ndim(pixels) == 1 else np.uint8)[codes]
    save(tmp_path / "images/a.png", np.zeros(codes.shape, np.uint8))
    save(tmp_path / "masks/a.png", mask)
    rows = [f"  - {{name: {name}, {key}}}\n" for name, key in zip("xyz", keys, strict=True)]
    ignore = 1000 if np.ndim(pixels) == 1 else [1, 2, 3]
    (tmp_path / "classes.yaml").write_text(f"classes:\n{''.join(rows)}ignore: {ignore}\n")
    data = MaskSet(
        tmp_path / "images", tmp_path / "masks", ("--from", "classes", "--classes", tmp_path / "classes.yaml")
    )
    masks = convert_and_back(convert_py, data, "coco", tmp_path, "--shapes", "masks")
    assert (read_array(masks / "a.png") == mask).all()


def test_a_file_of_masks_for_sam_med2d(convert_py, binary_set, tmp_path):
    words = ("--from", "masks", "--to", "objects", "--images", binary_set.images, "--save_path", tmp_path / "out")
    end = convert_py(binary_set.masks, *words, "--class_name", "left/right cell")
    images, objects = map(int, re.match(r"(\d+) images with (\d+) objects", end.out).groups())
    entries = json.loads((tmp_path / "out/image2label_train.json").read_text())
    assert len(entries) == images == 15
    assert sum(map(len, entries.values())) == objects == len([*(tmp_path / "out/masks").iterdir()])
    for image, masks in entries.items():
        union = np.any([read_array(mask) > 0 for mask in masks], axis=0)
        assert union.shape == Image.open(image).size[::-1]
    back = convert_py(
        tmp_path / "out/masks", "--from", "objects", "--to", "coco", *words[4:6], "--save_path", tmp_path / "c"
    )
    content = json.loads((tmp_path / "c/annotations.json").read_text())
    assert [row["name"] for row in content["categories"]] == ["left/right cell"]
    assert back.out.startswith(f"15 images with {objects} objects of 1 classes")
