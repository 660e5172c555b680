"""scripts/calibrate.py and test.py --calibrated: the temperature that fits, and what it does to a map."""

import numpy as np
import pytest
import torch
import yaml

import sam2unet
from sam2unet.data.pairs import match
from sam2unet.errors import UserError
from sam2unet.masks.prediction.calibration import Calibration, read_temperature, write_temperature
from tests.conftest import save, write_classes

SIDE = 64


TRUTH = 2.0  # the temperature of the masks: they are drawn from the probabilities at this temperature


def to_logits(probability):
    return np.log(probability) - np.log1p(-probability)


@pytest.fixture(scope="module")
def data(checkpoint, tmp_path_factory):
    """Images with masks for the model of `checkpoint`, which is too sure by the factor `TRUTH`."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    model = sam2unet.load_model(checkpoint, device="cpu")
    for i in range(4):
        save(folder / f"images/{i}.png", rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        sure = sam2unet.predict(model, folder / f"images/{i}.png", size=SIDE, minmax=False).astype(float)
        chance = 1 / (1 + np.exp(-to_logits(sure) / TRUTH))
        save(folder / f"masks/{i}.png", np.where(rng.random((SIDE, SIDE)) < chance, 255, 0).astype(np.uint8))
    return folder


@pytest.fixture
def sharpened(checkpoint, tmp_path):
    """Two checkpoints; the logits of the second are three times those of the first."""
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state, tmp_path / "plain.pth")
    torch.save({k: 3 * v if k.startswith("head.") else v for k, v in state.items()}, tmp_path / "sharp.pth")
    (tmp_path / "recipe.yaml").write_text(f"model: sam2unet\nsize: {SIDE}\n")
    return tmp_path


def test_the_temperature_follows_the_scale_of_the_logits(sharpened, data, run_py, test_py):
    for name in ("plain", "sharp"):
        flags = ["--image_path", data / "images", "--mask_path", data / "masks", "--device", "cpu"]
        ended = run_py("scripts/calibrate.py", "--checkpoint", sharpened / f"{name}.pth", *flags)
        assert ended.status == 0 and "test.py --calibrated uses it" in ended.out, ended.err
    values = yaml.safe_load((sharpened / "calibration.yaml").read_text())
    assert float(values["plain.pth"]) == pytest.approx(TRUTH, rel=0.1)
    assert values["sharp.pth"] == pytest.approx(3 * values["plain.pth"], rel=1e-3)

    def predict(name, *more):
        flags = [
            "--checkpoint",
            sharpened / "sharp.pth",
            "--test_image_path",
            data / "images",
            "--save_prob",
            "float32",
        ]
        assert test_py(*flags, "--save_path", sharpened / name, *more).status == 0
        return np.load(sharpened / name / "prob/0.npz")["probability"]

    before, after = predict("before"), predict("after", "--calibrated")
    sure = np.abs(before - 0.5) > 0.4999  # float32 has no precise logits there
    expected = 1 / (1 + np.exp(-to_logits(before[~sure]) / values["sharp.pth"]))
    np.testing.assert_allclose(after[~sure], expected, atol=1e-3)


def test_the_temperature_has_the_lowest_likelihood(sharpened, data):
    from sam2unet.masks.prediction.calibration import collect_pixels, fit_temperature
    from sam2unet.masks.prediction.predictor import Predictor

    model = sam2unet.load_model(sharpened / "sharp.pth", device="cpu")
    predictor, pairs = Predictor.from_model(model, SIDE), match(data / "images", data / "masks")
    fit = fit_temperature(predictor, pairs)
    logits, labels = collect_pixels(predictor, pairs, None, np.random.default_rng(0))
    x, y = logits[:, 1].numpy(), labels.numpy()
    assert len(x) == 4 * SIDE * SIDE

    def likelihood(temperature):
        return np.logaddexp(0, x / temperature).mean() - (y * x / temperature).mean()

    assert fit.before == pytest.approx(likelihood(1)) and fit.after == pytest.approx(likelihood(fit.temperature))
    assert all(fit.after <= likelihood(fit.temperature * factor) + 1e-9 for factor in (0.9, 0.99, 1.01, 1.1))


def test_classes_have_a_temperature_too(class_checkpoint, data, tmp_path, run_py):
    rng = np.random.default_rng(0)
    for i in range(4):
        save(tmp_path / f"masks/{i}.png", rng.choice([0, 1, 2, 255], (SIDE, SIDE)).astype(np.uint8))
    flags = ["--checkpoint", class_checkpoint, "--image_path", data / "images", "--mask_path", tmp_path / "masks"]
    file = write_classes(tmp_path / "classes.yaml")
    ended = run_py("scripts/calibrate.py", *flags, "--classes", file, "--device", "cpu")
    assert ended.status == 0, ended.err
    path = class_checkpoint.with_name("calibration.yaml")
    assert 0.05 <= yaml.safe_load(path.read_text())[class_checkpoint.name] <= 20
    path.unlink()
    assert run_py("scripts/calibrate.py", *flags).is_refusal("has classes; give --classes")
    assert run_py("scripts/calibrate.py", *flags, "--seed", -1).is_refusal("seed is -1; it must be from 0")
    both = [*flags, "--classes", file, "--mask_threshold", 0]
    assert run_py("scripts/calibrate.py", *both).is_refusal("--classes does not go with --mask_threshold")
    for mask in (tmp_path / "masks").iterdir():
        save(mask, np.full((SIDE, SIDE), 255, np.uint8))
    assert run_py("scripts/calibrate.py", *flags, "--classes", file).is_refusal("the classes ignore all pixels")
    assert not path.exists()


def test_masks_that_have_nothing_to_do_with_the_maps_are_a_warning(sharpened, data, tmp_path, run_py):
    rng = np.random.default_rng(1)
    for i in range(4):
        save(tmp_path / f"other/{i}.png", np.where(rng.random((SIDE, SIDE)) < 0.5, 255, 0).astype(np.uint8))
    folders = ["--image_path", data / "images", "--mask_path", tmp_path / "other", "--device", "cpu"]
    ended = run_py("scripts/calibrate.py", "--checkpoint", sharpened / "sharp.pth", *folders)
    assert ended.status == 0 and "the temperature is at its limit" in ended.err[-1]


def test_what_is_missing_or_not_ours_is_named(sharpened, data, run_py, test_py):
    flags = ["--test_image_path", data / "images", "--save_path", sharpened / "out", "--calibrated"]
    assert test_py("--checkpoint", sharpened / "plain.pth", *flags).is_refusal("plain.pth has no temperature in")
    (sharpened / "calibration.yaml").write_text("plain.pth: warm\n")
    assert test_py("--checkpoint", sharpened / "plain.pth", *flags).is_refusal("the temperature of plain.pth is warm")
    fit = ["--checkpoint", sharpened / "plain.pth", "--image_path", data / "images", "--mask_path", data / "masks"]
    assert run_py("scripts/calibrate.py", *fit).is_refusal("calibration.yaml is not from sam2unet calibrate")
    assert (sharpened / "calibration.yaml").read_text() == "plain.pth: warm\n"


def test_a_checkpoint_can_have_any_name(tmp_path):
    names = ["model 🍃.pth", 'a "b": c.pth', "é\u2028x.pth", "plain.pth", f"{'long ' * 30}.pth", "\udcff.pth"]
    for number, name in enumerate(names, 1):
        (tmp_path / name).touch()
        write_temperature(tmp_path / name, Calibration(number, 0.5, 0.4), images=4)
    assert [read_temperature(tmp_path / name) for name in names] == [1, 2, 3, 4, 5, 6]
    assert '\n"plain.pth": 4\n' in (tmp_path / "calibration.yaml").read_text()


def test_the_temperature_of_other_weights_is_refused(tmp_path):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text("first")
        write_temperature(tmp_path / name, Calibration(2, 0.5, 0.4), images=4)
    (tmp_path / "a.pth").write_text("second")
    with pytest.raises(UserError, match="fitted to other weights, because a.pth has changed since then; run"):
        read_temperature(tmp_path / "a.pth")
    assert read_temperature(tmp_path / "b.pth") == 2
    write_temperature(tmp_path / "a.pth", Calibration(3, 0.5, 0.4), images=4)
    assert (read_temperature(tmp_path / "a.pth"), read_temperature(tmp_path / "b.pth")) == (3, 2)
