"""Results of test.py become annotations with scores, so that a person can correct them."""

import csv
import json

import numpy as np
import pytest
from scipy import ndimage

from sam2unet.classes import Classes
from sam2unet.data.images.class_pictures import encode_index_png
from sam2unet.prompts.lists import write_test_list
from sam2unet.weights.formats import save_state
from tests.annotations.conftest import compute_iou, read_array
from tests.conftest import flat, save, tiny_sam_med2d


@pytest.fixture
def photos(polyps, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((polyps / "images").iterdir())[:3]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def export(convert_py, tmp_path, photos):
    def call(source, target, *flags):
        words = ("--from", "predictions", "--to", target, "--images", photos, "--save_path", tmp_path / target)
        end = convert_py(source, *words, *flags)
        assert end.status == 0, end.err
        return end, tmp_path / target

    return call


def test_maps_become_coco_with_mean_probabilities(maps_of, export, photos, tmp_path):
    assert maps_of(photos, tmp_path / "maps", "--save_prob").status == 0
    end, folder = export(tmp_path / "maps", "coco", "--shapes", "masks", "--class_name", "polyp")
    assert end.err == []
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "annotations.json"))
    assert [row["name"] for row in coco.dataset["categories"]] == ["polyp"]
    assert len(coco.imgs) == 3
    for number, row in coco.imgs.items():
        with np.load(tmp_path / "maps/prob" / f"{row['file_name'].removesuffix('.jpg')}.npz") as content:
            probability = content["probability"].astype(float)
        labels, count = ndimage.label(probability > 0.5, np.ones((3, 3)))
        expected = sorted(probability[labels == index].mean() for index in range(1, count + 1))
        entries = coco.loadAnns(coco.getAnnIds(number))
        np.testing.assert_allclose(sorted(entry["score"] for entry in entries), expected, atol=1e-5)
        assert (sum(coco.annToMask(entry) for entry in entries) == (probability > 0.5)).all()
    coco.loadRes(coco.dataset["annotations"])


def test_maps_become_labelme_and_label_studio(maps_of, export, photos, tmp_path):
    maps_of(photos, tmp_path / "maps", "--save_prob")
    _, folder = export(tmp_path / "maps", "labelme", "--threshold", 0.6)
    for path in photos.iterdir():
        content = json.loads((folder / f"{path.stem}.json").read_text())
        assert (folder / content["imagePath"]).resolve() == path.resolve()
        assert all(0.6 < shape["score"] <= 1 for shape in content["shapes"])
    _, folder = export(tmp_path / "maps", "label_studio", "--shapes", "masks", "--image_root", "s3://bucket/")
    tasks = json.loads((folder / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"s3://bucket/{path.name}" for path in sorted(photos.iterdir())
    ]
    for task in tasks:
        (prediction,) = task["predictions"]
        scores = [result["score"] for result in prediction["result"]]
        assert prediction["score"] == pytest.approx(np.mean(scores))
    assert not any("annotations" in task for task in tasks)


def test_maps_without_probabilities_have_the_mean_grey_level(export, photos, tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (20, 1))
    for path in photos.iterdir():
        save(tmp_path / f"images/{path.stem}.jpg", np.stack([ramp] * 3, -1))
        save(tmp_path / f"maps/{path.stem}.png", ramp if path == min(photos.iterdir()) else (ramp > 99) * np.uint8(255))
    end, folder = export(tmp_path / "maps", "coco", "--images", tmp_path / "images")
    assert len(end.err) == 1 and "3 maps have no probabilities; scores come from grey levels" in end.err[0]
    entries = json.loads((folder / "annotations.json").read_text())["annotations"]
    assert [entry.get("score") for entry in entries] == [
        pytest.approx(np.arange(128, 256).mean() / 255, abs=1e-5),
        None,
        None,
    ]


def test_maps_of_classes(class_checkpoint, test_py, export, photos, tmp_path):
    words = ("--checkpoint", class_checkpoint, "--test_image_path", photos, "--save_path", tmp_path / "maps")
    assert test_py(*words, "--save_prob").status == 0
    classes = class_checkpoint.parent / "classes.yaml"
    _, folder = export(tmp_path / "maps", "coco", "--classes", classes, "--objects", "classes", "--shapes", "masks")
    content = json.loads((folder / "annotations.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    stems = {row["id"]: row["file_name"].removesuffix(".jpg") for row in content["images"]}
    assert {"left", "right"} <= set(names.values()) and content["annotations"]
    for entry in content["annotations"]:
        stem, index = stems[entry["image_id"]], ["background", "left", "right"].index(names[entry["category_id"]])
        pixels = read_array(tmp_path / f"maps/{stem}.png") == index
        with np.load(tmp_path / f"maps/prob/{stem}.npz") as content:
            expected = content["probability"][index].astype(float)[pixels].mean()
        assert entry["score"] == pytest.approx(expected, abs=1e-5)
        assert entry["area"] == pixels.sum()


def test_answers_of_sam_med2d_have_the_expected_iou(lists, test_py, convert_py, tmp_path):
    save_state(tiny_sam_med2d().state_dict(), tmp_path / "small.pth")
    write_test_list(tmp_path, flat(lists))
    words = ("--checkpoint", tmp_path / "small.pth", "--data_path", tmp_path, "--save_path", tmp_path / "out")
    assert test_py(*words, "--save_pred", "--device", "cpu", "--point_num", 3).status == 0
    with open(tmp_path / "out/per_mask.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] == "3 pts"]
    words = ("--from", "predictions", "--images", tmp_path / "images", "--save_path", tmp_path / "coco")
    end = convert_py(tmp_path / "out/points3_prompt", *words, "--to", "coco", "--class_name", "organ")
    assert end.status == 0
    content = json.loads((tmp_path / "coco/annotations.json").read_text())
    scores = sorted(entry["score"] for entry in content["annotations"])
    usable = [row for row in rows if read_array(tmp_path / "out/points3_prompt" / row["mask"].rsplit("/")[-1]).any()]
    np.testing.assert_allclose(scores, sorted(np.clip([float(row["quality"]) for row in usable], 0, 1)))
    assert [row["file_name"] for row in content["images"]] == ["i0.png", "i1.png", "i2.png"]


def test_corrected_annotations_become_masks_to_train_on(maps_of, export, convert_py, photos, tmp_path):
    maps_of(photos, tmp_path / "maps")
    _, folder = export(tmp_path / "maps", "labelme", "--tolerance", 0)
    words = ("--from", "labelme", "--to", "masks", "--images", photos, "--save_path", tmp_path / "corrected")
    assert convert_py(folder, *words).status == 0
    for path in photos.iterdir():
        found = read_array(tmp_path / f"corrected/masks/{path.stem}.png") > 0
        assert compute_iou(found, read_array(tmp_path / f"maps/{path.stem}.png") / 255 > 0.5) == 1


@pytest.mark.parametrize("has_probabilities", [False, True])
def test_maps_of_classes_without_classes_are_refused(convert_py, tmp_path, has_probabilities):
    indices = np.repeat(np.arange(3, dtype=np.uint8), 8)[None].repeat(20, 0)
    save(tmp_path / "images/a.jpg", np.zeros((20, 24, 3), np.uint8))
    (tmp_path / "maps/prob").mkdir(parents=True)
    (tmp_path / "maps/a.png").write_bytes(encode_index_png(indices, Classes.number(3)))
    if has_probabilities:
        np.savez(tmp_path / "maps/prob/a.npz", probability=np.eye(3, dtype=np.float16)[indices].transpose(2, 0, 1))
    words = ("--from", "predictions", "--to", "coco", "--images", tmp_path / "images", "--save_path", tmp_path / "coco")
    end = convert_py(tmp_path / "maps", *words)
    assert end.is_refusal("a.png is a map of several classes; give the file of the classes, --classes"), end
    if has_probabilities:
        save(tmp_path / "maps/a.png", 100 * indices)  # a map of another model
        end = convert_py(tmp_path / "maps", *words)
        assert end.is_refusal("a.npz has 3x20x24 numbers, but a.png needs 20x24; run test.py again"), end
