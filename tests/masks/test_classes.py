"""Prediction with several classes: averaging, and the files and arrays that test.py, Python and the demo give."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sam2unet
from sam2unet.classes import Classes, MaskClass
from sam2unet.data.images.class_pictures import (
    add_legend,
    draw_class_legend,
    encode_index_png,
    outline_classes_,
    tint_classes_,
)
from sam2unet.data.images.masks import VALUES_NOTE, read_mask
from sam2unet.masks.files.outputs import remove_small_parts
from sam2unet.masks.prediction.options import Averaging
from sam2unet.masks.prediction.predictor import Predictor
from sam2unet.masks.prediction.probability import pick_classes
from sam2unet.masks.prediction.tiles import Tile
from sam2unet.masks.transforms import image_bytes, normalise_image

CPU = torch.device("cpu")


def make_photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def forward(images: torch.Tensor) -> torch.Tensor:
    """Logits of four classes; not symmetric, so that a flip changes the map."""
    ramp = torch.linspace(-2, 2, images.shape[-1])
    return torch.cat([images, (images.mean(1, keepdim=True) + ramp)], dim=1) * 2


def softmax_map(photo: Image.Image, side: int, flip: bool = False) -> np.ndarray:
    """Probabilities (4, H, W) of a photograph, step by step."""
    images = normalise_image(image_bytes(photo, side)[None])
    logits = forward(images.flip(-1)).flip(-1) if flip else forward(images)
    logits = F.interpolate(logits, size=(photo.height, photo.width), mode="bilinear", align_corners=False)
    return logits.softmax(1)[0].numpy()


def test_flips_and_scales_are_means_of_probabilities():
    photo = make_photo(90, 70)
    predictor = Predictor(forward, 128, CPU, averaging=Averaging.read("flip,scale"))
    probability = predictor.predict_photo(photo)
    wanted = np.mean([softmax_map(photo, side, flip) for side in (96, 128, 160) for flip in (False, True)], axis=0)
    np.testing.assert_allclose(probability, wanted, atol=1e-5)
    assert np.abs(probability.numpy() - softmax_map(photo, 128)).max() > 0.05
    assert np.array_equal(pick_classes(probability), wanted.argmax(0))
    assert pick_classes(probability).dtype == np.uint8


def test_large_maps_leave_memory_for_fewer_batches_at_a_time(monkeypatch):
    monkeypatch.setattr("sam2unet.masks.prediction.predictor.free_memory", lambda: 2**30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    predictor = Predictor(forward, 64, CPU, classes=Classes.number(4))
    predictor.in_parallel = True
    assert predictor.limit_parallel(1, (100, 100)) == 4 and predictor.limit_parallel(1, (3000, 4000)) == 1
    predictor.classes = None
    assert predictor.limit_parallel(1, (3000, 4000)) == 4


def test_tiles_are_weighted_means_of_probabilities():
    photo = make_photo(100, 64)
    probability = Predictor(forward, 64, CPU, tile=Tile(64, 28)).predict_photo(photo)
    left, right = (softmax_map(photo.crop((start, 0, start + 64, 64)), 64) for start in (0, 36))
    center = np.arange(64) + 0.5
    fade = np.minimum(np.minimum(center, 64 - center) / 28, 1)
    total, weight = np.zeros((4, 64, 100)), np.zeros(100)
    for start, part in ((0, left), (36, right)):
        total[:, :, start : start + 64] += part * fade
        weight[start : start + 64] += fade
    np.testing.assert_allclose(probability, total / weight, atol=1e-5)
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-5)


@pytest.fixture
def photos(polyps, tmp_path) -> Path:
    """Two photographs: a.png and b.png."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, path in zip("ab", sorted((polyps / "images").iterdir()), strict=False):
        Image.open(path).convert("RGB").resize((90, 70)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def predict_maps(test_py, class_checkpoint, photos, tmp_path):
    """test.py on the photographs: `predict_maps("out", "--overlay")`."""
    words = ("--checkpoint", class_checkpoint, "--test_image_path", photos, "--save_path")
    return lambda name, *flags: test_py(*words, tmp_path / name, *flags)


def test_pngs_arrays_and_probabilities_have_the_same_classes(predict_maps, class_checkpoint, photos, tmp_path):
    assert predict_maps("out", "--save_prob", "float32").status == 0
    model = sam2unet.load_model(class_checkpoint, device="cpu")
    classes = model.recipe.classes
    many = dict(sam2unet.predict_many(model, photos))
    for name in "ab":
        path = tmp_path / f"out/{name}.png"
        written = Image.open(path)
        indices = sam2unet.predict(model, photos / f"{name}.png")
        assert indices.dtype == np.uint8 and indices.shape == (70, 90) and set(np.unique(indices)) == {0, 1, 2}
        assert written.mode == "P" and np.array_equal(written, indices)  # the values are 0, 1 and 2
        assert np.array_equal(many[name], indices) and np.array_equal(read_mask(path, classes), indices)
        assert np.array_equal(written.convert("RGB"), classes.palette[indices])
        stored = np.load(tmp_path / f"out/prob/{name}.npz")["probability"]
        probabilities = sam2unet.predict(model, photos / f"{name}.png", probabilities=True)
        assert stored.dtype == probabilities.dtype == np.float32 and stored.shape == (3, 70, 90)
        np.testing.assert_allclose(stored, probabilities, atol=1e-6)
        assert np.array_equal(stored.argmax(0), indices)
    with pytest.raises(sam2unet.UserError, match="^minmax=False is for .* give probabilities=True$"):
        sam2unet.predict(model, photos / "a.png", minmax=False)


def test_a_binary_model_gives_its_probabilities_too(checkpoint, photos):
    model = sam2unet.load_model(checkpoint, device="cpu")
    plain = sam2unet.predict(model, photos / "a.png", size=64, minmax=False)
    assert np.array_equal(sam2unet.predict(model, photos / "a.png", size=64, probabilities=True), plain)


def test_flips_scales_and_tiles_of_test_py(predict_maps, tmp_path):
    for name, *flags in (("plain",), ("tta", "--tta", "flip,scale"), ("tile", "--tile", "48,12")):
        assert predict_maps(name, *flags, "--save_prob").status == 0
        indices = np.asarray(Image.open(tmp_path / name / "a.png"))
        probability = np.load(tmp_path / name / "prob/a.npz")["probability"]
        assert probability.dtype == np.float16 and np.mean(probability.argmax(0) == indices) > 0.99
        same = np.mean(indices == np.asarray(Image.open(tmp_path / "plain/a.png")))
        assert same == 1 if name == "plain" else 0.3 < same < 1


def test_small_parts_of_each_class_become_background(predict_maps, tmp_path):
    predict_maps("all")
    assert predict_maps("some", "--components", 60).status == 0
    before, after = (np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("all", "some"))
    wanted = before.copy()
    for index in (1, 2):
        labels, count = scipy.ndimage.label(before == index, structure=np.ones((3, 3)))
        areas = scipy.ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))
        wanted[np.isin(labels, 1 + np.flatnonzero(areas < 60))] = 0
    assert np.array_equal(after, wanted) and (after != before).any()
    touching = np.array([[1, 1, 2], [0, 2, 2], [0, 0, 0]], np.uint8)  # two pixels of class 1, three of class 2
    assert np.array_equal(remove_small_parts(touching, 3, has_classes=True), np.where(touching == 1, 0, touching))


def test_pictures_have_the_colours_of_the_classes_and_a_legend(predict_maps, class_checkpoint, photos, tmp_path):
    assert predict_maps("out", "--overlay", "--contours").status == 0
    classes = sam2unet.load_model(class_checkpoint, device="cpu").recipe.classes
    indices, photo = np.asarray(Image.open(tmp_path / "out/a.png")), np.asarray(Image.open(photos / "a.png"))
    mixed = np.where(indices[..., None] > 0, (photo + classes.palette[indices].astype(int)) / 2, photo)
    assert np.abs(tint_classes_(photo.copy(), indices, classes) - mixed).max() <= 0.5
    lines = outline_classes_(np.zeros_like(photo), indices, classes)
    for index in (1, 2):
        inside = scipy.ndimage.binary_erosion(indices == index, np.ones((3, 3)))
        drawn = (lines == classes.palette[index]).all(-1)
        assert drawn.any() and not (drawn & inside).any() and not (drawn & (indices != index)).any()
    legend = draw_class_legend(classes, 90)
    for kind in ("overlay", "contours"):
        shown = np.asarray(Image.open(tmp_path / f"out/{kind}/a.jpg")).astype(int)
        assert shown.shape == (70 + len(legend), max(90, legend.shape[1]), 3)
        assert np.abs(shown[70:] - legend).mean() < 8  # a JPEG
    assert np.array_equal(add_legend(photo, classes)[:70, :90], photo)


def test_a_legend_names_every_class():
    classes = Classes.number(200)
    legend = draw_class_legend(classes, 640)
    assert legend.shape[1] == 640
    assert all((legend == item.color).all(-1).any() for item in classes.items[::20])
    longest = Classes((MaskClass("a" * 3000, 0, (1, 2, 3)), MaskClass("line\nbreak", 1, (4, 5, 6))))
    assert draw_class_legend(longest, 64).shape[1] < 1000


@pytest.mark.parametrize(
    "values, pixels",
    [((0, 1, 2), [0, 1, 2]), ((10, 255, 7), [10, 255, 7]), ((0, 300, 1), [0, 1, 2]), ((None,) * 3, [0, 1, 2])],
)
def test_pngs_have_values_of_8_bits_else_indices(values, pixels, tmp_path):
    colors = ((0, 0, 0), (9, 8, 7), (255, 0, 1))
    classes = Classes(tuple(MaskClass(*item) for item in zip("abc", values, colors, strict=True)))
    indices = np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)
    (tmp_path / "map.png").write_bytes(encode_index_png(indices, classes))
    image = Image.open(tmp_path / "map.png")
    assert image.mode == "P" and np.array_equal(image, np.array(pixels)[indices])
    assert np.array_equal(image.convert("RGB"), np.array(colors)[indices])
    assert np.array_equal(read_mask(tmp_path / "map.png", classes), indices)
    shuffled = Classes(classes.items[::-1])  # as in another classes.yaml
    assert np.array_equal(read_mask(tmp_path / "map.png", shuffled), 2 - indices)


@pytest.mark.parametrize("note, words", [("0 300", "of no class: -1"), ("0 x", "damaged"), ("1 " * 300, "damaged")])
def test_a_wrong_list_of_values_in_a_png_is_one_line(note, words, tmp_path):
    image, text = Image.fromarray(np.full((4, 5), 2, np.uint8)), PngInfo()
    image.putpalette(bytes(768))
    text.add_text(VALUES_NOTE, note)
    image.save(tmp_path / "map.png", pnginfo=text)
    with pytest.raises(sam2unet.UserError, match=words):
        read_mask(tmp_path / "map.png", Classes.number(3))


@pytest.mark.parametrize("flags", [("--threshold", 0.5), ("--no_minmax",)])
def test_flags_for_grey_levels_are_refused(predict_maps, flags, tmp_path):
    words = f"this model has 3 classes, and its maps have no grey levels; leave out {flags[0]}; --save_prob writes"
    assert predict_maps("out", *flags).is_refusal(words) and not (tmp_path / "out").exists()


def test_a_video_is_in_colour(test_py, class_checkpoint, photos, tmp_path):
    frames = np.repeat(np.asarray(Image.open(photos / "a.png"))[None], 3, axis=0)
    iio.imwrite(tmp_path / "clip.mp4", frames, fps=25, codec="libx264", plugin="pyav")
    words = ("--checkpoint", class_checkpoint, "--test_image_path", tmp_path / "clip.mp4", "--contours")
    assert test_py(*words, "--save_path", tmp_path / "out").status == 0
    model = sam2unet.load_model(class_checkpoint, device="cpu")
    frame = iio.imread(tmp_path / "clip.mp4", plugin="pyav")[0]
    indices = sam2unet.predict(model, frame)
    shown = iio.imread(tmp_path / "out/clip.mp4", plugin="pyav")
    assert shown.shape == (3, 70, 90, 3)
    same = np.abs(shown[0] - model.recipe.classes.palette[indices].astype(int)).max(-1) < 60
    assert same.mean() > 0.8
    legend = draw_class_legend(model.recipe.classes, 90)
    for kind in ("overlay", "contours"):
        shown = iio.imread(tmp_path / f"out/{kind}/clip.mp4", plugin="pyav")
        assert shown.shape == (3, 70 + len(legend), legend.shape[1], 3)
