"""The lists and prompt files of SAM-Med2D: writing, reading, bad files, and make_prompt_data.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam2unet.data.pairs import Pair
from sam2unet.errors import UserError
from sam2unet.prompts.clicks import find_box
from sam2unet.prompts.framing import Framing, read_label
from sam2unet.prompts.groups import draw_prompts, group_by_image, read_group
from sam2unet.prompts.lists import (
    TEST_LIST,
    TRAIN_LIST,
    make_unique_names,
    read_prompts,
    read_test_list,
    read_train_list,
    refuse_bad_masks,
    write_entries,
    write_test_list,
    write_train_list,
)
from sam2unet.prompts.make_lists import write_slices
from sam2unet.slice_view import DEFAULT_VIEW
from tests.conftest import flat, same, save


def test_a_volume_of_one_slice_can_have_a_picture_as_mask(tmp_path):
    photo, mask = np.arange(1024, dtype=np.uint8).reshape(1, 32, 32) % 251, np.eye(32, dtype=np.uint8) * 255
    save(tmp_path / "masks/a.png", mask)
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images/a.npy", photo)
    folders = (tmp_path / name for name in ("images", "masks", "slices"))
    [item] = write_slices(*folders, DEFAULT_VIEW, keeps_values=False, protects=False)
    image, copy = (np.asarray(Image.open(path)) for path in (item.image, *item.masks))
    assert item.image == tmp_path / "slices/images/a_0000.png"
    assert np.array_equal(image, np.repeat(photo[0][..., None], 3, axis=2)) and np.array_equal(copy, mask)


@pytest.mark.parametrize("points", [1, 3, 5])
def test_prompts_of_a_test_come_back_from_their_file(points, lists, tmp_path):
    pairs = flat(lists)
    names = make_unique_names([pair.mask for pair in pairs])
    whole = [
        draw_prompts(label, place, points, seed=3)
        for places in group_by_image(pairs, limit=2)
        for place, label in zip(places, read_group(pairs, places, Framing(64)).labels, strict=True)
    ]
    assert same(whole[4], draw_prompts(read_group(pairs, [4], Framing(64)).labels[0], 4, points, seed=3))
    assert not same(whole[4], draw_prompts(read_group(pairs, [4], Framing(64)).labels[0], 4, points, seed=4))
    entries = {
        name: {"boxes": box.tolist(), "point_coords": coords[0].tolist(), "point_labels": labels[0].tolist()}
        for name, (box, (coords, labels)) in zip(names, whole, strict=True)
    }
    write_entries(tmp_path / "64_prompt.json", entries.items())
    assert same(tuple(read_prompts(tmp_path / "64_prompt.json", names)), tuple(whole))
    entry = json.loads((tmp_path / "64_prompt.json").read_text())["i0_0.png"]
    assert np.shape(entry["point_coords"]) == (points, 2) and np.shape(entry["point_labels"]) == (points,)


def test_prompts_nested_one_deeper_are_read_too(tmp_path):
    entry = {"boxes": [[1, 2, 3, 4]], "point_coords": [[[5, 6], [7, 8], [9, 1]]], "point_labels": [[1, 0, 0]]}
    (tmp_path / "p.json").write_text(json.dumps({"a.png": entry}))
    [one] = read_prompts(tmp_path / "p.json", ["a.png"])
    assert one.points.coords.tolist() == [[[5, 6], [7, 8], [9, 1]]] and one.points.labels.tolist() == [[1, 0, 0]]


def test_masks_with_one_file_name_keep_their_prompts_apart(lists):
    folders = [path.parent for path in lists[0].masks[:2]]
    pairs = [Pair(lists[0].image, folder / name / "m.png") for folder, name in zip(folders, "ab", strict=True)]
    names = make_unique_names([pair.mask for pair in pairs])
    assert len(set(names)) == 2 and all(name.endswith("/m.png") for name in names)


# Refusals


def test_lists_come_back_as_written(lists, tmp_path):
    write_train_list(tmp_path, lists)
    write_test_list(tmp_path, flat(lists))
    assert read_train_list(tmp_path) == lists and read_test_list(tmp_path) == flat(lists)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "no such file"),
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "is empty"),
        ('{"a.png": []}', "1 of 1 images have an empty list of masks: a.png"),
        ('{"a.png": "m.png"}', "1 of 1 images have no list of mask paths: a.png"),
        ('{"a.png": ["m.png"]}', "1 of 1 images do not exist: a.png"),
        ('{"here.png": ["m.png", "here.png", "n.png"]}', "2 of 3 masks do not exist: m.png, n.png"),
    ],
)
def test_a_bad_train_list_is_refused_in_one_line(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "here.png", np.zeros((4, 4), np.uint8))
    if text is not None:
        (tmp_path / TRAIN_LIST).write_text(text)
    with pytest.raises(UserError, match=words) as e:
        read_train_list(Path())
    assert "\n" not in str(e.value)


def test_a_bad_test_list_is_refused(tmp_path):
    (tmp_path / TEST_LIST).write_text('{"m.png": ["a.png"]}')
    with pytest.raises(UserError, match="1 of 1 masks have no image path: m.png"):
        read_test_list(tmp_path)
    (tmp_path / TEST_LIST).write_text('{"m.png": "a.png"}')
    with pytest.raises(UserError, match="1 of 1 masks do not exist: m.png"):
        read_test_list(tmp_path)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"boxes": [[1, 2, 3]]}, "must have boxes with 4 numbers"),
        ({"point_labels": [1, 0]}, "and one point_label per point"),
        ({"point_labels": [2]}, "a label other than 1, 0, -1"),
        ({"point_coords": [[1, float("nan")]]}, "a coordinate that is not finite"),
        ({"point_coords": None}, "must have boxes with 4 numbers"),
        ({"point_coords": [[1, 2], [3, 4]], "point_labels": [1, 0]}, "different numbers of points: 1, 2"),
    ],
)
def test_bad_prompts_are_refused(change, words, tmp_path):
    good = {"boxes": [[1, 2, 3, 4]], "point_coords": [[5, 6]], "point_labels": [1]}
    (tmp_path / "p.json").write_text(json.dumps({"a.png": good | change, "b.png": good}))
    with pytest.raises(UserError, match=words):
        read_prompts(tmp_path / "p.json", ["a.png", "b.png"])
    with pytest.raises(UserError, match="has no prompts for 1 of 2 masks: c.png"):
        read_prompts(tmp_path / "p.json", ["b.png", "c.png"])


# The converter


def convert(script, folder, *flags):
    return script("scripts/make_prompt_data.py", "images", "masks", "--save_path", "lists", *flags, cwd=folder)


def test_folders_become_lists_that_train_and_test(script, lists, tmp_path, monkeypatch):
    save(tmp_path / "images/spare.png", np.zeros((9, 9, 3), np.uint8))
    save(tmp_path / "masks/other.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / "masks/i1_empty.png", np.zeros((50, 90), np.uint8))
    result = convert(script, tmp_path, "--hold_out", 3, "--size", 64)
    assert result.returncode == 0, result.stderr
    assert "1 masks in masks have no image" in result.stderr and "other.png" in result.stderr
    assert "1 of 4 images have no mask" in result.stderr and "spare.png" in result.stderr
    assert "1 of 7 masks are left out: i1_empty.png" in result.stderr
    assert "2 images with 6 masks" in result.stdout and "1 images with 3 masks" in result.stdout
    monkeypatch.chdir(tmp_path)
    train, test = read_train_list(Path("lists")), read_test_list(Path("lists"))
    assert [item.image.as_posix() for item in train] == ["images/i0.png", "images/i1.png"]
    assert [pair.mask.as_posix() for pair in test] == [f"masks/i2_{k}.png" for k in range(3)]
    refuse_bad_masks(flat(train) + test, Framing(64), strict=True)


@pytest.mark.parametrize("by, numbers", [("regions", [0, 1]), ("values", [3, 7])])
def test_a_mask_of_several_objects_is_split(by, numbers, script, tmp_path, monkeypatch):
    values = np.zeros((50, 60), np.uint8)
    values[3:10, 5:20], values[30:40, 20:50] = (255, 255) if by == "regions" else (3, 7)
    save(tmp_path / "images/a.png", np.zeros((50, 60, 3), np.uint8))
    save(tmp_path / "masks/a.png", values)
    result = convert(script, tmp_path, "--split", by)
    assert result.returncode == 0, result.stderr
    monkeypatch.chdir(tmp_path)
    [item] = read_train_list(Path("lists"))
    assert [mask.name for mask in item.masks] == [f"a_{number:03d}.png" for number in numbers]
    assert [find_box(read_label(mask)).tolist() for mask in item.masks] == [[5, 3, 20, 10], [20, 30, 50, 40]]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--hold_out", "9"], "hold_out 9 leaves no test image of 3"),
        (["--hold_out", "1"], "hold_out is 1"),
        (["--hold_out", "2", "--part", "test"], "not allowed with"),
        (["--split", "values", "--mask_threshold", "1"], "leave --mask_threshold out"),
        (["--split", "regions", "--save_path", "."], "masks is the folder of masks"),
    ],
)
def test_the_converter_refuses_in_one_line(flags, words, script, lists, tmp_path):
    result = convert(script, tmp_path, *flags)
    assert result.returncode == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
