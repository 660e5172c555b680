"""A model carries the settings of its training, so that every entry point gives the same map."""

import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.data.images.reading import read_image
from sam2unet.demo import serve
from sam2unet.demo.files import Limits
from sam2unet.demo.masks.bundle import bundle
from sam2unet.demo.masks.session import Bench, Session
from sam2unet.export import masks as mask_export
from sam2unet.families.load import read_checkpoint, save_checkpoint, start_model
from sam2unet.recipe import Recipe
from sam2unet.weights.formats import save_state
from tests.conftest import save, tiny_sam_med2d
from tests.exported import SIDE


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a.png"
    save(path, np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    return path


def to_grey(map_: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(map_) * 255).to(torch.uint8).numpy()


@pytest.mark.parametrize("form", ["file", "hub", "trainable"])
def test_every_entry_point_gives_the_map_of_the_trained_size(form, trained, photo, sam2_micro, test_py, tmp_path):
    checkpoint = trained[form]
    paths = {"hiera_path": sam2_micro} if form == "trainable" else {}
    flags = ["--hiera_path", sam2_micro] * bool(paths)
    ended = test_py("--checkpoint", checkpoint, "--test_image_path", photo, "--save_path", tmp_path, *flags)
    assert ended.status == 0 and f"1 images at {SIDE}x{SIDE} on" in ended.out and not ended.err
    png = iio.imread(tmp_path / "a.png")
    assert np.ptp(png) > 250

    model = sam2unet.load_model(checkpoint, "cpu", **paths)
    assert model.recipe.size == SIDE and model.recipe.epoch == 1
    assert np.array_equal(to_grey(sam2unet.predict(model, photo)), png)
    ((_, map_),) = sam2unet.predict_many(model, [photo])
    assert np.array_equal(to_grey(map_), png)
    other = sam2unet.predict(model, photo, size=352)
    assert np.abs(to_grey(other).astype(int) - png).max() > 10, "the size makes no difference to this map"

    (tmp_path / "home/uploads").mkdir(parents=True)
    (tmp_path / "home/uploads/a.png").write_bytes(photo.read_bytes())
    methods = serve.open_methods([checkpoint], paths, None, "cpu")
    session = Session(Bench(methods, tmp_path / "home", [tmp_path / "home/uploads"], Limits()))
    session.add_images([tmp_path / "home/uploads/a.png"])
    with zipfile.ZipFile(bundle(session, 0.5, 0.5)) as archive, archive.open("maps/a.png") as file:
        assert np.array_equal(iio.imread(file.read()), png)


SLOW = pytest.mark.slow  # an export takes half a minute; the forms differ only in where the settings are stored


@pytest.mark.parametrize("form", [pytest.param("file", marks=SLOW), pytest.param("hub", marks=SLOW), "trainable"])
def test_an_exported_file_gives_the_map_of_the_trained_size(
    form, trained, photo, sam2_micro, test_py, tmp_path, request
):
    pytest.importorskip("onnxruntime")
    paths, file = {}, tmp_path / "m.onnx"
    if form == "trainable":
        paths, file = {"hiera_path": sam2_micro}, request.getfixturevalue("exported_onnx")
    else:
        mask_export.run(read_checkpoint(trained[form]), file, [read_image(photo)])
    ended = test_py("--checkpoint", file, "--test_image_path", photo, "--save_path", tmp_path / "maps")
    assert ended.status == 0 and f"1 images at {SIDE}x{SIDE} on" in ended.out
    wanted = to_grey(sam2unet.predict(sam2unet.load_model(trained[form], "cpu", **paths), photo))
    assert np.abs(iio.imread(tmp_path / "maps/a.png").astype(int) - wanted).max() <= 1


def test_a_checkpoint_without_its_recipe_is_one_warning_that_names_the_size(trained, photo, test_py, tmp_path):
    moved = tmp_path / "moved.pth"
    moved.write_bytes(trained["file"].read_bytes())
    flags = ("--checkpoint", moved, "--test_image_path", photo, "--save_path")
    assert not test_py(*flags, tmp_path / "a", "--size", SIDE).err
    ended = test_py(*flags, tmp_path / "b")
    assert "1 images at 352x352" in ended.out
    assert ended.err == [
        f"warning: {moved} has no recipe.yaml beside it; size 352 is used, the released one; "
        "give --size if it was trained at another"
    ]


def test_released_files_cause_no_warning(checkpoint, tmp_path, capsys):
    assert sam2unet.load_model(checkpoint, "cpu").recipe.size == 352
    assert not capsys.readouterr().err
    model = sam2unet.create_model("sam2unet", encoder="micro")
    assert model.recipe == Recipe(encoder="micro")
    save_checkpoint(model, tmp_path / "own.pth")
    assert sam2unet.load_model(tmp_path / "own.pth", "cpu").recipe == model.recipe
    assert "own.pth has no recipe.yaml beside it; size 352 is used" in capsys.readouterr().err


def test_a_new_model_takes_the_settings_of_its_start_or_of_its_run(trained, capsys):
    assert sam2unet.create_model("sam2unet", init_from=trained["file"]).recipe.size == SIDE
    run = Recipe(encoder="micro", size=64)
    assert start_model("sam2unet", init_from=trained["file"], recipe=run)[0].recipe == run


def test_a_recipe_in_a_file_is_checked(sam2_micro, tmp_path, capsys):
    model, weight_files = start_model("sam2unet", weight_paths={"hiera_path": sam2_micro})
    path = tmp_path / "x.safetensors"
    save_checkpoint(model, path, weight_files, recipe=Recipe(model="sam2unext", size=96))
    assert sam2unet.load_model(path, "cpu", hiera_path=sam2_micro).recipe.size == 352
    line = f"warning: the recipe inside {path} is not used: it is for sam2unext, the checkpoint is sam2unet;"
    assert capsys.readouterr().err.startswith(line)


@pytest.fixture
def prompt_checkpoint(tmp_path):
    save_state(tiny_sam_med2d().state_dict(), tmp_path / "SAM-Med2D-1.pth")
    return tmp_path / "SAM-Med2D-1.pth"


def test_a_prompter_has_the_settings_of_the_training(prompt_checkpoint, convert):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))

    def answer(path):
        return sam2unet.Prompter(sam2unet.load_model(path, "cpu")).set_image(image).predict(box=[10, 10, 40, 40])

    released = answer(prompt_checkpoint)
    lines = "model: sam_med2d\nsize: 64\nrgb: true\nmask_prompt: logits\nmultimask: false\n"
    prompt_checkpoint.with_name("recipe.yaml").write_text(lines)
    model = sam2unet.load_model(prompt_checkpoint, "cpu")
    given = sam2unet.Prompter(model, sam2unet.prompts.prompter.Framing(rgb=True), "logits").set_image(image)
    wanted = given.predict(box=[10, 10, 40, 40], multimask=False)
    convert(prompt_checkpoint, "--hub", prompt_checkpoint.with_name("hub"))
    for path in (prompt_checkpoint, prompt_checkpoint.with_name("hub")):
        found = answer(path)
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert not np.array_equal(found.logits, released.logits) and found.prompt.min() < 0
