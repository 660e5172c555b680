"""The file of the classes, the indices of masks, and what a model remembers of its classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.classes import IGNORED, Classes, UnknownValues
from sam2unet.data.images.masks import read_mask
from sam2unet.errors import UserError
from sam2unet.families.load import save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.recipe import Recipe
from tests.conftest import write_classes

ORGANS = """
classes:
  - {name: background, value: 0, color: [0, 0, 0]}
  - {name: liver, value: 300, color: [220, 20, 60]}
  - {name: spleen, value: 7}
ignore: 255
"""


@pytest.fixture
def organs(tmp_path) -> Classes:
    (tmp_path / "classes.yaml").write_text(ORGANS)
    return Classes.read(tmp_path / "classes.yaml")


def test_a_file_gives_names_values_and_colours(organs, tmp_path):
    assert organs.names == ["background", "liver", "spleen"] and organs.codes == [0, 300, 7] and organs.ignore == (255,)
    assert organs.palette[1].tolist() == [220, 20, 60] and organs.palette[2].any() and not organs.palette[255].any()
    (tmp_path / "again.yaml").write_text(organs.to_yaml())
    assert Classes.read(tmp_path / "again.yaml") == organs


@pytest.mark.parametrize(
    "text, words",
    [
        ("classes: 5", "`classes` must be a list"),
        ("classes: [a, b]", "class 1 is a; wanted e.g. {name: liver"),
        ("classes: [{name: a, value: 0}]", "there are 1 classes"),
        ("classes: [{name: a, value: 0}, {name: b}]", "class b has neither value nor color"),
        ("classes: [{name: a, value: 0}, {name: a, value: 1}]", "two classes have the name a"),
        ("classes: [{name: a, value: 1}, {name: b, value: 1}]", "two classes have the value 1"),
        ("classes: [{name: a, value: 0}, {name: b, value: -1}]", "value is -1; it must be a whole number from 0"),
        ("classes: [{name: a, value: 0}, {name: b, color: [1, 2]}]", "color is ['1', '2']; wanted red, green and blue"),
        ("classes: [{name: a, value: 0}, {name: b, color: [1, 2, 3]}]", "some classes have a value and some have none"),
        ("classes: [{name: a, value: 0}, {name: b, value: 1}]\nignore: 1", "ignore has 1, which is a class"),
        ("classes: [{name: a, value: 0}, {name: b, value: 1}]\nother: 1", "unknown key other"),
        ("classes: [{name: a, color: [0, 0, 0]}, {name: b, color: [1, 2, 3]}]\nignore: {x: 1}", "color is {'x': '1'}"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(text, words, tmp_path):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        Classes.read(tmp_path / "classes.yaml")
    assert str(error.value).startswith(f"{tmp_path}/classes.yaml: ") and words in str(error.value)


def save_mask(path: Path, values: np.ndarray, palette: bool = False) -> Path:
    image = Image.fromarray(values)
    if palette:
        image.putpalette([3, 2, 1] * 256)
    image.save(path)
    return path


def test_grey_deep_palette_and_rgb_masks_give_the_same_indices(tmp_path, organs):
    wanted = np.array([[0, 1, 2, 2], [IGNORED, 1, 0, 0]], np.uint8)
    deep = np.array([0, 300, 7], np.uint16)[wanted.clip(max=2)]
    deep[1, 0] = 255
    assert np.array_equal(read_mask(save_mask(tmp_path / "deep.png", deep), organs), wanted)

    small = Classes.from_entries(
        {"classes": [{"name": n, "value": v} for n, v in zip("abc", (0, 9, 7), strict=True)], "ignore": 255}, "x"
    )
    grey = np.array([0, 9, 7], np.uint8)[wanted.clip(max=2)]
    grey[1, 0] = 255
    for palette in (False, True):
        assert np.array_equal(read_mask(save_mask(tmp_path / "grey.png", grey, palette), small), wanted)

    colors = [[0, 0, 0], [220, 20, 60], [0, 0, 255]]
    colored = Classes.from_entries(
        {"classes": [{"name": n, "color": c} for n, c in zip("abc", colors, strict=True)], "ignore": [255, 255, 255]},
        "x",
    )
    rgb = np.array([*colors, [255, 255, 255]], np.uint8)[wanted.clip(max=3)]
    assert np.array_equal(read_mask(save_mask(tmp_path / "rgb.png", rgb), colored), wanted)
    with pytest.raises(UserError, match="it has colours; for colours, give the classes a color and no value"):
        read_mask(tmp_path / "rgb.png", small)


def test_values_of_no_class_are_counted_and_the_missing_line_is_named(tmp_path, organs):
    path = save_mask(tmp_path / "a.png", np.array([[0, 5, 5, 7], [9, 5, 255, 0]], np.uint8))
    with pytest.raises(UnknownValues) as error:
        read_mask(path, organs)
    assert error.value.counts == {5: 3, 9: 1}
    assert str(error.value) == (
        f"{path} has values of no class: 5 (3 pixels), 9 (1 pixels); "
        "add the line `- {name: ..., value: 5}` to the classes, or `ignore: [255, 5]`"
    )


@pytest.mark.parametrize("value", [-1, 70_000, 0.5])
def test_no_line_is_named_for_a_value_that_no_class_can_have(value, tmp_path, organs):
    Image.fromarray(np.full((4, 5), value, np.float32 if value % 1 else np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UnknownValues) as error:
        read_mask(tmp_path / "a.tif", organs)
    words = f"values of no class: {value} (20 pixels); change the masks: a value is a whole number from 0 to 65535"
    assert str(error.value) == f"{tmp_path / 'a.tif'} has {words}"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_keeps_names_and_colours(suffix, organs, tmp_path):
    recipe = Recipe.read(model="sam2unet", encoder="tiny", classes=organs, size=96)
    model, _ = start_model("sam2unet", NetworkShape(encoder="tiny", class_count=3), recipe=recipe)
    path = tmp_path / f"SAM2-UNet-1{suffix}"
    save_checkpoint(model, path, recipe=recipe)
    if suffix == ".pth":
        loaded = sam2unet.load_model(path, device="cpu")
        assert loaded.recipe.classes.names == ["class 0", "class 1", "class 2"]  # without recipe.yaml
        recipe.write(tmp_path / "recipe.yaml")
    loaded = sam2unet.load_model(path, device="cpu")
    assert loaded.recipe.classes == organs and loaded.recipe.size == 96
    with torch.inference_mode():
        assert [out.shape for out in loaded(torch.zeros(1, 3, 64, 64))] == [(1, 3, 64, 64)] * 3


def test_other_classes_keep_all_weights_but_the_last_layers(checkpoint, capsys):
    before = sam2unet.load_model(checkpoint, device="cpu").state_dict()
    model = sam2unet.create_model("sam2unet", init_from=checkpoint, classes=4)
    assert "the last layers (head, side1, side2) are new, from foreground and background to 4 classes" in (
        capsys.readouterr().out
    )
    for name, weight in model.state_dict().items():
        if name.split(".")[0] in ("head", "side1", "side2"):
            assert len(weight) == 4 and len(before[name]) == 1
        else:
            assert torch.equal(weight, before[name])


def test_a_recipe_refuses_what_does_not_go_with_classes(organs, tmp_path):
    for flags, words in (
        ({"mask_threshold": 5}, "both say what mask values mean"),
        ({"class_weights": ("1", "2")}, "wanted none, inverse, or 3 numbers above 0, for background, liver, spleen"),
    ):
        with pytest.raises(UserError, match=words):
            Recipe.read(classes=organs, **flags)
    with pytest.raises(UserError, match="class_weights need --classes"):
        Recipe.read(class_weights=("inverse",))
    file = write_classes(tmp_path / "recipe.yaml", "model: sam2unet\n")
    assert Recipe.read(file).classes.names == ["background", "left", "right"]
