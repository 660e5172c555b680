"""Numbers have limits, wherever they come from; files of settings are read exactly or end in one line."""

import json
from dataclasses import asdict

import pytest

from sam2unet.atomic import read_json
from sam2unet.errors import UserError
from sam2unet.limits import LIMITS
from sam2unet.recipe import Recipe
from sam2unet.weights.hub import read_hub_recipe

DIGITS = "32" * 20


@pytest.mark.parametrize(
    "line, words",
    [
        ("size: 3200000", "size is 3200000; it must be from 32 to 8192"),
        (f"size: {DIGITS}", f"size is {DIGITS}; it must be from 32 to 8192"),
        (f"epoch: {'9' * 400}", "(400 characters); it must be from 1 to 100000"),
        (f"batch_size: {'9' * 20}", f"batch_size is {'9' * 20}; it must be from 1 to 65536"),
        (f"accumulate: {'9' * 20}", "it must be from 1 to 65536"),
        ("multi_scale: [1, inf]", "multi_scale is inf; it must be above 0 and at most 16"),
        ("{size: 8192, multi_scale: [1.25]}", "size is 10240; it must be from 32 to 8192"),
        ("lr: inf", "lr is inf; it must be above 0 and at most 100"),
        ("lr: nan", "lr is nan"),
        ("lr: 0", "lr is 0.0"),
        ("weight_decay: inf", "weight_decay is inf"),
        ("epoch: 2024-13-45", "epoch is '2024-13-45'; wanted int"),
        ("epoch: 0b_", "epoch is '0b_'; wanted int"),
        ('epoch: !!int "abc"', "epoch is 'abc'; wanted int"),
        (f"epoch: {'9' * 5000}", "wanted int"),
        ("epoch: 1.5", "epoch is '1.5'; wanted int"),
        ("epoch: 1e300", "wanted int"),
        ("lr: [1]", "lr is a list; wanted float"),
        ("model: {a: b}", "model is a mapping; wanted str"),
        ("rgb: maybe", "rgb is 'maybe'; wanted bool"),
        ("point_list: 3", "point_list is '3'; wanted a list"),
        ("[" * 5000, "is nested too deep for YAML"),
        ("- 1", "must hold lines of the form `key: value`"),
        ("? [a]\n: b", "is not YAML: "),
        ("lr: 1\nsize: 64\nlr: 2", "lr occurs twice, again in line 3; remove one of them"),
    ],
)
def test_a_recipe_with_a_value_that_cannot_be_is_one_line_with_its_file(line, words, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(line)
    with pytest.raises(UserError) as error:
        Recipe.read(path)
    text = str(error.value)
    assert words in text and "\n" not in text and len(text) < 600
    assert str(path) in text or "multi_scale: [1.25]" in line


def test_whole_numbers_of_a_recipe_are_exact_and_others_are_read_as_yaml_means_them(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "seed: 9007199254740993\nlr: 2e-4\nepoch: 1e1\nsize: 352.0\namp: off\nrgb: yes\nencoder: null\n"
        "mask_threshold:\npoint_list: [1, 3]\n"
    )
    recipe = Recipe.read(path)
    assert (recipe.seed, recipe.lr, recipe.epoch, recipe.size) == (9007199254740993, 2e-4, 10, 352)
    assert (recipe.amp, recipe.rgb, recipe.encoder, recipe.mask_threshold) == ("off", True, None, None)
    recipe.write(tmp_path / "copy.yaml")
    assert Recipe.read(tmp_path / "copy.yaml") == recipe


def test_every_number_of_a_recipe_has_limits():
    without = {"mask_threshold", "ema"}  # which are checked where they are used
    numbers = {name for name, value in asdict(Recipe()).items() if type(value) in (int, float)} | {"point_list"}
    assert numbers - without <= set(LIMITS)


@pytest.mark.parametrize("size", ["100", True, 3200000, int(DIGITS), None, 0])
def test_a_size_in_a_hub_folder_is_a_whole_number_within_limits(size, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"size": size}))
    with pytest.raises(UserError, match=r"config.json: size is "):
        read_hub_recipe(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is not JSON"),
        ("[]", "holds a list, not an object of names"),
        ("[" * 100_000, "is nested too deep"),
        ('{"a": ' * 100_000, "is nested too deep"),
        (f'{{"a": {"9" * 5000}}}', "is not JSON"),
        ("\udcff", "is not text"),
    ],
)
def test_a_json_file_with_invalid_content_is_one_line(text, words, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=words) as error:
        read_json(path)
    assert "\n" not in str(error.value)
