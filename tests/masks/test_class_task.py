"""Training with several classes, through train.py."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import sam2unet
from sam2unet.classes import Classes
from sam2unet.data.images.masks import read_mask
from sam2unet.data.pairs import match
from sam2unet.masks.prediction.predictor import Predictor
from sam2unet.recipe import Recipe
from sam2unet.scoring.classes.confusion import count_confusion, count_pixels, score_classes
from tests.conftest import write_class_pairs, write_pairs
from tests.training.waiting import wait_for

SMALL = "--encoder micro --size 64 --batch_size 3 --device cpu --workers 0".split()
OPTIONS = ["--amp bf16", "--accumulate 2", "--ema 0.9", "--multi_scale 0.75 1 1.25", "--cache ram", "--cache disk"]
OPTIONS += ["--grad_checkpointing", "--loss structure", "--loss weighted", "--class_weights 1 2 0.5", "--fused"]


@pytest.fixture
def words(tmp_path):
    images, masks, classes = write_class_pairs(tmp_path, count=6)
    return ["--train_image_path", images, "--train_mask_path", masks, "--classes", classes, *SMALL]


def test_a_run_learns_says_its_scores_and_keeps_its_classes(train_py, words, tmp_path):
    held = ["--val_image_path", tmp_path / "images", "--val_mask_path", tmp_path / "masks"]
    ended = train_py(*words, *held, "--epoch", 20, "--val_every", 20, "--lr", 0.01, "--save_path", tmp_path / "run")
    assert ended.status == 0, ended.err
    assert "validation" in ended.out and "mIoU_fg" in ended.out and "lowest IoU" in ended.out
    assert "saved" in ended.out and "the best mIoU_fg so far" in ended.out
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"]["main"] for line in lines if line["kind"] == "train"]
    (scores,) = [line for line in lines if line["kind"] == "validation"]
    assert losses[-1] < 0.8 * losses[0]

    model = sam2unet.load_model(tmp_path / "run/best.pth", device="cpu")
    classes = Classes.read(tmp_path / "classes.yaml")
    assert model.recipe.classes == classes
    predictor, counts = Predictor.from_model(model), []
    for pair in match(tmp_path / "images", tmp_path / "masks"):
        mask = np.asarray(read_mask(pair.mask, classes))
        index = predictor.predict_photo(Image.open(pair.image), mask.shape).argmax(0).numpy().astype(np.uint8)
        counts.append(count_pixels(count_confusion(index, mask, 3)))
    for key, value in score_classes(np.stack(counts), classes.names).items():
        assert scores[key] == pytest.approx(value, abs=1e-9), key

    picture = np.asarray(Image.open(tmp_path / "run/validation/epoch-020.png"))
    masks = picture[:, 160:320].reshape(-1, 3)
    assert all((masks == color).all(1).sum() > 100 for color in classes.palette[:3])


@pytest.mark.parametrize("options", OPTIONS)
def test_options_of_training_work_with_classes(options, train_py, words, tmp_path):
    ended = train_py(*words, *options.split(), "--epoch", 1, "--save_path", tmp_path / "run")
    assert ended.status == 0, ended.err
    model = sam2unet.load_model(tmp_path / "run/SAM2-UNet-1.pth", device="cpu")
    assert len(model.head.bias) == 3 and all(p.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(start, train_py, words, tmp_path):
    words = [*words, "--class_weights", "inverse", "--epoch", 5, "--save_minutes", 0, "--save_path"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train_py(*words, whole).status == 0
    process = start("train.py", *words, run)
    wait_for(process, lambda: (run / "last.pt").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.finish()
    assert not (run / "SAM2-UNet-5.pth").exists()
    assert train_py(*words, run, "--resume", "auto").status == 0
    a, b = (torch.load(folder / "SAM2-UNet-5.pth", weights_only=True) for folder in (whole, run))
    assert all(torch.equal(a[name], b[name]) for name in a)
    weights = [float(weight) for weight in Recipe.read(run / "recipe.yaml").class_weights]
    assert len(weights) == 3 and min(weights) > 0 and weights[0] < min(weights[1:])  # most pixels are background


def test_two_processes_give_the_scores_of_one(two_processes, train_py, words, tmp_path):
    held = ["--val_image_path", tmp_path / "images", "--val_mask_path", tmp_path / "masks", "--epoch", 1]
    words = [*words, *held, "--lr", 1e-9]
    one = train_py(*words, "--save_path", tmp_path / "one")
    two = two_processes("train.py", *words, "--batch_size", 2, "--save_path", tmp_path / "two")
    assert one.status == 0 and two.returncode == 0, two.stderr
    rows = [[line for line in out.splitlines() if line.startswith("epoch 1 ")] for out in (one.out, two.stdout)]
    assert len(rows[0]) == 1 and len(rows[1]) == 1


def test_a_binary_checkpoint_starts_a_run_with_classes(train_py, words, tmp_path):
    images, masks = write_pairs(tmp_path / "binary")
    binary = ["--train_image_path", images, "--train_mask_path", masks, *SMALL, "--batch_size", 2, "--epoch", 1]
    assert train_py(*binary, "--save_path", tmp_path / "first").status == 0
    first = tmp_path / "first/SAM2-UNet-1.pth"
    ended = train_py(*words, "--init_from", first, "--epoch", 1, "--save_path", tmp_path / "run")
    assert ended.status == 0, ended.err
    assert "are new, from foreground and background to 3 classes" in ended.out
    back = train_py(*binary, "--init_from", tmp_path / "run/SAM2-UNet-1.pth", "--save_path", tmp_path / "back")
    assert back.status == 0 and "are new, from 3 classes to foreground and background" in back.out, back.err


def test_models_for_prompts_refuse_classes(train_py, words, tmp_path):
    ended = train_py(*words, "--model", "sam_med2d", "--save_path", tmp_path / "run")
    assert ended.is_refusal("SAM-Med2D has no use for --classes"), ended.err
