"""Exported models of several classes: their metadata, their maps, test.py with an .onnx, and hub folders."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.classes import Classes
from sam2unet.data.images.reading import read_image
from sam2unet.export import masks as mask_export
from sam2unet.families.load import read_checkpoint, save_checkpoint
from sam2unet.families.table import FAMILIES
from sam2unet.masks.prediction.onnx_file import OnnxForward, read_classes
from sam2unet.masks.prediction.open import open_predictor
from sam2unet.masks.transforms import image_bytes, normalise_image
from sam2unet.recipe import Recipe


@pytest.fixture(scope="module")
def model(class_checkpoint):
    return sam2unet.load_model(class_checkpoint, "cpu")


@pytest.fixture(scope="module")
def photos(polyps):
    return [read_image(path) for path in sorted((polyps / "images").iterdir())[:3]]


@pytest.fixture(scope="module")
def convolution_of_classes(convolution, model):
    """A checkpoint of a convolution that was trained with the classes of `class_checkpoint`."""
    path = convolution(classes=3)
    recipe = replace(Recipe.read(model="convolution", size=64), encoder="micro", classes=model.recipe.classes)
    recipe.write(path.with_name("recipe.yaml"))
    return path


@pytest.fixture(scope="module")
def onnx_file(convolution_of_classes, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    mask_export.run(read_checkpoint(convolution_of_classes), path, photos)
    return path


def test_an_onnx_takes_the_side_that_it_was_exported_at(convolution, photos, monkeypatch, tmp_path):
    """Also a side that is no multiple of 32, of a model that can take it."""
    monkeypatch.setitem(FAMILIES, "convolution", replace(FAMILIES["convolution"], stride=14))
    mask_export.run(read_checkpoint(convolution()), tmp_path / "model.onnx", photos[:1], size=70)
    predictor = open_predictor(tmp_path / "model.onnx", torch.device("cpu"))
    assert predictor.sides == (70,)
    assert predictor.predict_photo(photos[0]).shape == (photos[0].height, photos[0].width)


def test_test_py_writes_the_classes_of_an_onnx(onnx_file, convolution_of_classes, photos, test_py, model, tmp_path):
    facts = ort.InferenceSession(onnx_file).get_modelmeta().custom_metadata_map
    assert Classes.from_entries(json.loads(facts["classes"]), "") == model.recipe.classes
    assert facts["class_count"] == "3" and facts["output"] == "logits float32 (batch, 3, 64, 64)"
    for number, photo in enumerate(photos):
        (tmp_path / "images").mkdir(exist_ok=True)
        photo.save(tmp_path / f"images/{number}.png")
    for name, path in (("onnx", onnx_file), ("torch", convolution_of_classes)):
        words = ("--checkpoint", path, "--test_image_path", tmp_path / "images", "--save_path", tmp_path / name)
        assert test_py(*words, "--overlay").status == 0
    for number in range(3):
        a, b = (Image.open(tmp_path / name / f"{number}.png") for name in ("onnx", "torch"))
        assert a.mode == "P" and a.getpalette() == b.getpalette()
        assert np.mean(np.asarray(a) == np.asarray(b)) > 0.999 and len(np.unique(a)) == 3
    assert test_py(*words[:1], onnx_file, *words[2:], "--threshold", 0.5).is_refusal("leave out --threshold")


def test_a_whole_graph_makes_maps_of_indices(class_checkpoint, model, photos, tmp_path):
    """A convolution instead of a network, which takes minutes to export."""
    logits, classes = torch.nn.Conv2d(3, 3, 5, padding=2), model.recipe.classes
    facts = mask_export.describe_mask_export(read_checkpoint(class_checkpoint), {}, 64, True, classes)
    images = torch.stack([image_bytes(photo, 64) for photo in photos])
    graph = mask_export.WholeGraph(logits).eval()
    example = mask_export.to_graph_input(graph, images)
    with open(tmp_path / "whole.onnx", "wb") as file:
        mask_export.write_onnx(graph, example[:2], facts, file)
    session = ort.InferenceSession(tmp_path / "whole.onnx")
    (maps,) = session.run(None, {"photo": example.numpy()})
    assert maps.dtype == np.uint8 and maps.shape == (3, 64, 64) and len(np.unique(maps)) == 3
    wanted = logits(normalise_image(images)).argmax(1)
    assert np.mean(maps == wanted.numpy()) > 0.999
    assert "index of the largest logit" in session.get_modelmeta().custom_metadata_map["postprocessing"]
    assert OnnxForward(tmp_path / "whole.onnx", torch.device("cpu")).classes == classes
    assert mask_export.find_largest_difference(mask_export.read_onnx(tmp_path / "whole.onnx"), graph, images) < 1e-4


def test_the_difference_of_two_maps_is_that_of_the_probabilities():
    probability = torch.tensor([[[[0.7]], [[0.1]], [[0.2]]]])
    for index, difference in enumerate((0, 0.6, 0.5)):
        maps = torch.full((1, 1, 1), index, dtype=torch.uint8)
        assert mask_export.compare_maps(maps, probability).item() == pytest.approx(difference)


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, '{"classes": 5}', '{"classes": [{"name": "a\\nb"}]}'])
def test_classes_that_are_damaged_are_one_line(text, tmp_path):
    with pytest.raises(sam2unet.UserError) as error:
        read_classes(text, tmp_path / "x.onnx")
    assert str(error.value).startswith(str(tmp_path / "x.onnx")) and "\n" not in str(error.value)


def test_a_hub_folder_has_the_classes(class_checkpoint, model, convert, photos, tmp_path):
    numbers = dict.fromkeys(("mIoU", "mIoU_fg", "accuracy", "mean_accuracy", "fw_IoU", "IoU_left"), 0.25)
    scores = {"arguments": {"protocol": "semantic"}, "files": {"x": {"": {"images": 7}}}}
    (tmp_path / "r.json").write_text(json.dumps(scores | {"datasets": {"x": {"": numbers}}}))
    convert(class_checkpoint, "--hub", tmp_path / "hub", "--scores", tmp_path / "r.json")
    again = sam2unet.load_model(tmp_path / "hub", "cpu")
    assert again.recipe.classes == model.recipe.classes and again.recipe.size == 64
    assert np.array_equal(sam2unet.predict(again, photos[0]), sam2unet.predict(model, photos[0]))
    card = (tmp_path / "hub/README.md").read_text()
    assert "into 3 classes: `background`, `left`, `right`" in card and "- semantic-segmentation" in card
    assert "| data set | images | mIoU ↑ | mIoU_fg ↑ | accuracy ↑ | mean_accuracy ↑ | fw_IoU ↑ |" in card


def test_every_name_of_a_class_is_stored_as_it_is(class_checkpoint, model, convert, tmp_path):
    first, *others = model.recipe.classes.items
    others = (replace(item, name=f"🍃 é\"'\n|`{item.name}") for item in others)
    recipe = replace(model.recipe, classes=replace(model.recipe.classes, items=(first, *others)))
    (tmp_path / class_checkpoint.name).symlink_to(class_checkpoint)
    recipe.write(tmp_path / "recipe.yaml")
    convert(tmp_path / class_checkpoint.name, "--hub", tmp_path / "hub")
    (tmp_path / "alone").mkdir()
    save_checkpoint(model, tmp_path / "alone/x.safetensors", recipe=recipe)
    for path in (tmp_path / class_checkpoint.name, tmp_path / "hub", tmp_path / "alone/x.safetensors"):
        assert sam2unet.load_model(path, "cpu").recipe.classes == recipe.classes
