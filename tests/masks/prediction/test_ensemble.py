"""test.py with several checkpoints, and --uncertainty: means of probabilities, entropies, and the named images."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.masks.prediction.predictor import Predictor
from sam2unet.masks.prediction.probability import measure_entropy
from tests.conftest import save

SIDE = 64


@pytest.fixture(scope="module")
def members(checkpoint, fill, tmp_path_factory):
    """Two models with different weights, as flags."""
    model = sam2unet.create_model("sam2unet", encoder="micro")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 1))
    path = tmp_path_factory.mktemp("other") / "SAM2-UNet-20.pth"
    torch.save(model.state_dict(), path)
    return [checkpoint, path]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in "abc":
        save(folder / f"{name}.png", rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def predict(images, test_py, tmp_path):
    def call(name, *flags):
        ended = test_py("--test_image_path", images, "--save_path", tmp_path / name, "--size", SIDE, *flags)
        assert ended.status == 0, ended.err
        files = {path.stem: np.load(path)["probability"] for path in (tmp_path / name / "prob").glob("*.npz")}
        return ended, files

    return call


def test_the_map_is_the_mean_of_the_probabilities(predict, members):
    keep = ["--save_prob", "float32"]
    one, two = (predict(str(i), "--checkpoint", path, *keep)[1] for i, path in enumerate(members))
    _, both = predict("both", "--checkpoint", *members, *keep)
    _, flipped = predict("flip", "--checkpoint", *members, *keep, "--tta", "flip")
    alone = [predict(f"flip{i}", "--checkpoint", path, *keep, "--tta", "flip")[1] for i, path in enumerate(members)]
    for name in "abc":
        assert np.abs(one[name] - two[name]).max() > 0.05
        np.testing.assert_allclose(both[name], (one[name] + two[name]) / 2, atol=1e-6)
        np.testing.assert_allclose(flipped[name], (alone[0][name] + alone[1][name]) / 2, atol=1e-6)


def test_uncertainty_is_the_entropy_and_disagreement_names_the_images(predict, members, tmp_path):
    from scipy.stats import entropy  # slow to import, and not needed by the other tests

    keep = ["--save_prob", "float32", "--uncertainty"]
    ended, both = predict("both", "--checkpoint", *members, *keep)
    parts = [predict(str(i), "--checkpoint", path, *keep)[1] for i, path in enumerate(members)]
    expected = {}
    for name, mean in both.items():
        picture = np.asarray(Image.open(tmp_path / f"both/uncertainty/{name}.png"))
        truth = entropy([mean, 1 - mean], base=2)
        assert picture.shape == (SIDE, SIDE) and np.abs(picture / 255 - truth).max() < 1.01 / 255
        # The maps have the input side, so resizing changes nothing.
        expected[name] = (truth - np.mean([entropy([p[name], 1 - p[name]], base=2) for p in parts], axis=0)).mean()
    (line,) = [line for line in ended.out.splitlines() if "disagree" in line]
    printed = re.findall(r"(\w)\.png \((.+?)\)", line)
    assert [name for name, _ in printed] == sorted(expected, key=expected.get, reverse=True)
    assert all(float(value) == pytest.approx(expected[name], abs=0.001) for name, value in printed)
    assert predict("again", "--checkpoint", members[0], members[0], "--uncertainty")[0].out.count("(0.000)") == 3
    assert "the model is most uncertain on" in predict("one", "--checkpoint", members[0], "--uncertainty")[0].out


def test_uncertainty_of_probabilities_that_rounding_takes_above_1():
    entropies = measure_entropy(torch.tensor([0.5, 1.0, 1 + 1e-7, -1e-7]), None)
    assert entropies.tolist() == [1, 0, 0, 0]


def test_classes_are_averaged_too(predict, class_checkpoint, fill, tmp_path):
    from scipy.stats import entropy  # slow to import, and not needed by the other tests

    state = torch.load(class_checkpoint, weights_only=True)
    other = tmp_path / "other/SAM2-UNet-20.pth"
    other.parent.mkdir()
    torch.save(fill.fill_state_dict(state, 2), other)
    (tmp_path / "other/recipe.yaml").write_text(class_checkpoint.with_name("recipe.yaml").read_text())
    keep = ["--save_prob", "float32", "--uncertainty"]
    one, two = (predict(str(i), "--checkpoint", path, *keep)[1] for i, path in enumerate((class_checkpoint, other)))
    _, both = predict("both", "--checkpoint", class_checkpoint, other, *keep)
    for name, mean in both.items():
        np.testing.assert_allclose(mean, (one[name] + two[name]) / 2, atol=1e-6)
        picture = np.asarray(Image.open(tmp_path / f"both/uncertainty/{name}.png"))
        assert np.abs(picture / 255 - entropy(mean, base=3)).max() < 1.01 / 255
        index = np.asarray(Image.open(tmp_path / f"both/{name}.png"))
        assert np.array_equal(index, mean.argmax(0))


def test_models_that_do_not_fit_together_are_refused(test_py, images, members, class_checkpoint, tmp_path):
    flags = ["--test_image_path", images, "--save_path", tmp_path / "out"]
    ended = test_py(*flags, "--checkpoint", members[0], class_checkpoint, "--size", SIDE)
    assert ended.is_refusal("models are averaged only with one input side and the same classes")
    assert not (tmp_path / "out").exists()


def test_models_on_two_devices_are_refused():
    """For example an .onnx file that runs on the CPU, beside a checkpoint on a GPU."""
    one, other = (Predictor(torch.nn.Identity(), SIDE, torch.device(name)) for name in ("cpu", "meta"))
    with pytest.raises(sam2unet.UserError, match="^one model is on cpu and another on meta, .*; give --device cpu$"):
        one.add_models([other])
