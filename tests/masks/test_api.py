"""Prediction maps against the released steps written out, and test.py as a process."""

import re
from concurrent.futures import ThreadPoolExecutor

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

import sam2unet
from sam2unet.data.images.photos import to_photo
from sam2unet.data.pairs import match
from sam2unet.families.load import Checkpoint
from sam2unet.families.settings import find_recipe
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.layers.windows import use_padded_windows_
from sam2unet.masks.validate import validate
from tests.conftest import write_pairs


def released_map(model, photo, size, wanted):
    """The released test script's steps, from photograph to 8-bit map."""
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    steps = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalise])
    with torch.no_grad():
        logits, _, _ = model(steps(photo).unsqueeze(0))
        res = F.interpolate(logits, size=wanted, mode="bilinear", align_corners=False)
        res = res.sigmoid().data.cpu().numpy().squeeze()
    res = (res - res.min()) / (res.max() - res.min() + 1e-8)
    return (res * 255).astype(np.uint8)


def link(folder, files):
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    return folder


def test_exact_pngs_have_the_released_bits_and_others_are_one_grey_level_apart(script, checkpoint, polyps, tmp_path):
    photos = sorted((polyps / "images").iterdir())[:3]
    images = link(tmp_path / "images", photos)
    masks = tmp_path / "masks"
    masks.mkdir()
    for photo, width in zip(photos, (300, 301, 302), strict=True):  # masks of another size: maps take theirs
        Image.open(polyps / f"masks/{photo.stem}.png").resize((width, 200)).save(masks / f"{photo.stem}.png")
    flags = ["--checkpoint", checkpoint, "--test_image_path", images, "--exact"]
    with_masks = script("test.py", *flags, "--test_gt_path", masks, "--save_path", tmp_path / "a")
    without = script("test.py", *flags, "--save_path", tmp_path / "b")
    assert with_masks.returncode == 0 and without.returncode == 0, with_masks.stderr + without.stderr
    assert "3 maps in" in without.stdout and "images/s" in without.stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes: sums come out the same to the bit
    model, exact = (sam2unet.load_model(checkpoint, device="cpu") for _ in range(2))
    use_padded_windows_(exact)  # as in SAM 2
    for photo, width in zip(photos, (300, 301, 302), strict=True):
        image = Image.open(photo).convert("RGB")
        for folder, wanted in (("a", (200, width)), ("b", (image.height, image.width))):
            written = iio.imread(tmp_path / folder / f"{photo.stem}.png")
            released = released_map(exact, image, 352, wanted)
            assert written.dtype == np.uint8 and np.array_equal(written, released)
            assert np.abs(released_map(model, image, 352, wanted) - released.astype(int)).max() <= 1
    torch.set_num_threads(threads)


def test_predict_gives_the_map_that_is_written(script, checkpoint, polyps, tmp_path):
    (photo,) = sorted((polyps / "images").iterdir())[:1]
    images = link(tmp_path / "images", [photo])
    model = sam2unet.load_model(checkpoint, device="cpu")
    stretched = sam2unet.predict(model, photo, size=64)
    plain = sam2unet.predict(model, Image.open(photo), size=64, minmax=False)
    assert stretched.dtype == np.float32 and stretched.shape == Image.open(photo).size[::-1]
    assert stretched.min() == 0 and stretched.max() == pytest.approx(1)
    np.testing.assert_allclose(stretched, (plain - plain.min()) / np.ptp(plain), atol=1e-6)
    flags = ["--checkpoint", checkpoint, "--test_image_path", images, "--size", 64, "--save_path"]
    script("test.py", *flags, tmp_path / "plain", "--no_minmax")
    script("test.py", *flags, tmp_path / "cut", "--threshold", 0.5)
    written = iio.imread(tmp_path / f"plain/{photo.stem}.png").astype(int)
    assert np.abs(written - plain * 255).max() <= 1.01  # truncated, and threads may differ in the last bits
    cut = iio.imread(tmp_path / f"cut/{photo.stem}.png")
    assert set(np.unique(cut)) == {0, 255} and np.mean((cut == 255) == (stretched > 0.5)) > 0.999


def test_predict_leaves_the_model_as_it_was(checkpoint, polyps):
    model = sam2unet.load_model(checkpoint, device="cpu").train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sam2unet.predict(model, next((polyps / "images").iterdir()), size=64)
    assert model.training and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_threads_that_predict_with_one_model_do_not_change_it_or_each_other(training, checkpoint):
    model = sam2unet.load_model(checkpoint, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    alone = sam2unet.predict(model, image, size=32)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.train(training)
    modes = []

    def predict(_):
        map_ = sam2unet.predict(model, image, size=32)
        modes.append({module.training for module in model.modules()})
        return map_

    with ThreadPoolExecutor(6) as pool:
        maps = list(pool.map(predict, range(18)))
    assert all(np.array_equal(map_, alone) for map_ in maps)
    assert all(found == {training} for found in modes)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_size_of_training_is_the_size_of_prediction(script, checkpoint, tmp_path):
    images, _ = write_pairs(tmp_path, count=1)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / checkpoint.name).symlink_to(checkpoint)
    flags = ["--checkpoint", folder / checkpoint.name, "--test_image_path", images, "--save_path", tmp_path / "maps"]
    assert "1 images at 352x352" in script("test.py", *flags).stdout
    (folder / "recipe.yaml").write_text("size: 96\n")
    assert "1 images at 96x96" in script("test.py", *flags).stdout
    assert "1 images at 64x64" in script("test.py", *flags, "--size", 64).stdout


@pytest.mark.parametrize(
    "recipe, why",
    [
        ("size: 96\nencoder: tiny\n", None),
        ("model: sam2unext\nsize: 96\n", "it is for sam2unext, the checkpoint is sam2unet"),
        ("encoder: large\nsize: 96\n", "its encoder is large, that of the checkpoint is tiny"),
        ("ingredients: [flour, milk]\n", r"it is not of this project \(unknown key ingredients\)"),
        ("size: [1\n", "it is not of this project"),
        ("size: 3200000\n", "it is not of this project"),
        (b"\xff\xfe", "it is not of this project"),
    ],
)
def test_a_recipe_of_another_model_or_project_is_a_warning(recipe, why, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    found = Checkpoint(tmp_path / "x.pth", FAMILIES["sam2unet"], NetworkShape(encoder="tiny"), {}, {})
    assert [find_recipe(found).size for _ in range(2)] == ([352, 352] if why else [96, 96])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (1 if why else 0)
    assert not why or re.search(rf"^warning: {path} beside the checkpoint is not used: {why}", lines[0])


def test_many_images_give_the_maps_of_each_alone(checkpoint, polyps, tmp_path):
    files = sorted((polyps / "images").iterdir())[:5]
    model = sam2unet.load_model(checkpoint, device="cpu")
    alone = {path.stem: sam2unet.predict(model, path, size=64) for path in files}
    folder = link(tmp_path / "images", files)
    for images in (folder, str(folder), iter(files), folder / "*.jpg"):
        found = list(sam2unet.predict_many(model, images, size=64, batch_size=2))
        assert [name for name, _ in found] == list(alone)
        for name, map_ in found:
            assert map_.dtype == np.float32
            np.testing.assert_allclose(map_, alone[name], atol=1e-4)  # another batch sums in another order
    (half,) = (map_ for _, map_ in sam2unet.predict_many(model, files[:1], size=64, amp=True))
    assert 0 < np.abs(half - alone[files[0].stem]).max() < 0.1


def test_one_image_in_any_form_gives_one_map(checkpoint, polyps):
    path = sorted((polyps / "images").iterdir())[0]
    model = sam2unet.load_model(checkpoint, device="cpu")
    photo = Image.open(path).convert("RGB").resize((90, 70))
    array = np.asarray(photo)
    wanted = sam2unet.predict(model, photo, size=64)
    assert wanted.shape == (70, 90)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for form in (array, array.astype(np.float64) / 255, array.astype(np.float32) / 255, tensor, tensor / 255):
        assert np.array_equal(sam2unet.predict(model, form, size=64), wanted)
    grey = array[..., 0]
    as_colour = sam2unet.predict(model, np.stack([grey] * 3, axis=-1), size=64)
    for form in (grey, torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None]):
        assert np.array_equal(sam2unet.predict(model, form, size=64), as_colour)
    assert [name for name, _ in sam2unet.predict_many(model, [array, path], size=64)] == ["0", path.stem]
    half = (tensor / 255).bfloat16()
    assert np.array_equal(sam2unet.predict(model, half, size=64), sam2unet.predict(model, half.float(), size=64))


RGB = np.zeros((7, 9, 3), np.uint8)


@pytest.mark.parametrize(
    "image, words",
    [
        (None, "an image is a path, a Pillow image, an array or a tensor, not NoneType; give one of these"),
        ([[0, 1], [2, 3]], "or a tensor, not list"),
        (b"\x89PNG", "or a tensor, not bytes"),
        (RGB.astype(np.int32), "an array of int32"),
        (RGB + 2.5, "an array of float64 is an image only with floats in"),
        (RGB * np.nan, "an array of float64 is an image only with floats in"),
        (RGB[None], r"an array of shape \(1, 7, 9, 3\) is no image; give one image at a time, image\[0\]"),
        (RGB[:0], r"an array of shape \(0, 9, 3\) is no image; it has no pixels"),
        (np.zeros(0), r"an array of shape \(0,\) is no image; it has no pixels"),
        (RGB[..., [0, 1, 2, 2]], r"shape \(7, 9, 4\) is no image; leave out the alpha channel: image\[..., :3\]"),
        (np.moveaxis(RGB, -1, 0), r"\(3, 7, 9\) is no image; .* wrong side: np.moveaxis\(image, 0, -1\)\[..., :3\]"),
        (torch.zeros(4, 7, 9), r"a tensor of shape \(4, 7, 9\) is no image; leave out the alpha channel: image\[:3\]"),
        (torch.zeros(7, 9, 3), r"a tensor of shape \(7, 9, 3\) .* wrong side: image.movedim\(-1, 0\)\[:3\]"),
        (torch.zeros(3, 7, 9, device="meta"), "a tensor of torch.float32 cannot be read as an image"),
        (torch.zeros(5, 7, 9), r"a tensor of shape \(5, 7, 9\) is no image; wanted"),
    ],
)
def test_what_is_no_image_is_one_line_that_says_how_to_convert_it(image, words, checkpoint):
    with pytest.raises(sam2unet.UserError, match=words):
        to_photo(image)


def test_wrong_arguments_in_python_are_errors_without_flags(checkpoint, monkeypatch):
    model = sam2unet.load_model(checkpoint, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for call, words in (
        (lambda: sam2unet.predict(model, RGB, size=100), "^size 100 is not a multiple of 32; give 96 or 128$"),
        (lambda: sam2unet.predict(None, RGB), "^NoneType is not a model of this package; .*load_model gives one$"),
        (lambda: sam2unet.predict(torch.nn.DataParallel(model), RGB), "^DataParallel is not a model of this package"),
        (lambda: list(sam2unet.predict_many(model, None)), "an iterable of images, not NoneType; give"),
        (lambda: list(sam2unet.predict_many(model, [None])), "an image is a path, .* not NoneType"),
        (lambda: list(sam2unet.predict_many(model, [RGB], batch_size=0)), "^batch_size is 0; it must be from 1 to"),
        (lambda: list(sam2unet.predict_many(model, [RGB], batch_size=-1)), "^batch_size is -1; it must be from 1"),
        (
            lambda: sam2unet.load_model("no.pth", device="gpu"),
            "^device gpu cannot be used here; give cpu, or",
        ),
    ):
        with pytest.raises(sam2unet.UserError, match=words):
            call()
    if torch.cuda.device_count() == 0:
        with pytest.raises(sam2unet.UserError, match=r"^device cuda cannot be used here \(.+\); give cpu, or no"):
            sam2unet.load_model(checkpoint, device="cuda")


def test_an_output_that_is_not_finite_is_an_error(checkpoint, test_py, tmp_path):
    """The weights are finite, but their products are not."""
    state = torch.load(checkpoint)
    torch.save(state | {"head.weight": state["head.weight"] * 1e38}, tmp_path / "x.pth")
    model = sam2unet.load_model(tmp_path / "x.pth", device="cpu")
    with pytest.raises(sam2unet.UserError, match="^the model gives NaN or Inf for image 0; the weights are damaged or"):
        sam2unet.predict(model, RGB, size=32)
    images, masks = write_pairs(tmp_path, count=2)
    with pytest.raises(
        sam2unet.UserError, match=rf"^the model gives NaN or Inf for {images}/a.jpg; .* \(1 more files have"
    ):
        validate(model, match(images, masks), 32)
    flags = ("--test_image_path", images, "--save_path", tmp_path / "maps", "--size", 32, "--device", "cpu")
    ended = test_py("--checkpoint", tmp_path / "x.pth", *flags)
    assert (ended.status, len(ended.err)) == (2, 1) and not (tmp_path / "maps").exists()
    assert ended.err[0].startswith(f"error: the model gives NaN or Inf for {images}/a.jpg; the weights are damaged")
