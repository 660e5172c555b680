"""What the loop over epochs writes and says: mean losses, warnings, and what helps if the memory is too small."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

import sam2unet
from sam2unet.data.batches import Batches
from sam2unet.data.pairs import match
from sam2unet.families.table import find_family
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.training.loop import CheckpointWriter, Loop, warn_slow_average
from sam2unet.training.metrics_log import MetricsLog
from sam2unet.training.numbered_files import NumberedFiles
from sam2unet.training.readers import make_loader
from sam2unet.training.run import explain_training_memory
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer
from tests.conftest import write_pairs


def test_a_metric_for_the_best_epoch_without_validation_is_warned_of(train_py, tmp_path):
    images, masks = write_pairs(tmp_path)
    words = ["--train_image_path", images, "--train_mask_path", masks, "--encoder", "micro", "--size", 64]
    ended = train_py(*words, "--save_path", tmp_path / "run", "--best_metric", "MAE", "--save", "trainable")
    assert ended.err[0] == "warning: there are no validation images, so --best_metric has no effect"
    assert ended.status == 2 and "--save trainable leaves out" in ended.err[1]


def test_the_mean_loss_of_an_epoch_is_over_the_images_that_were_read(tmp_path):
    pairs, recipe, cpu = match(*write_pairs(tmp_path)), Recipe(size=64, batch_size=4), torch.device("cpu")
    pairs[1].image.unlink()
    dataset, batches = MaskFolder(pairs, 64, skip_bad=True), Batches(4, 4, seed=0)
    model = sam2unet.create_model("sam2unet", encoder="micro").train()
    trainer = Trainer(find_family("sam2unet"), mask_step, deepcopy(model), recipe, Speed(), cpu, Processes())
    writer = CheckpointWriter(tmp_path, 10, [], {}, Path, NumberedFiles(tmp_path, None))
    loop = Loop(
        trainer, batches, make_loader(dataset, batches, 0, cpu), writer, None, MetricsLog(tmp_path), Processes()
    )
    loop.train_epoch()
    (losses,) = mask_step(model, dataset.__getitems__(next(iter(Batches(4, 4, seed=0)))).on(cpu), recipe)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "epoch"] and len(losses) == 3
    assert all(line["losses"]["main"] == pytest.approx(losses["main"].item(), rel=1e-6) for line in lines)


def test_the_remedies_for_too_little_memory_are_those_that_are_left():
    def explain(recipe, speed=Speed()):  # noqa: B008
        return str(explain_training_memory(torch.OutOfMemoryError("x"), recipe, speed, torch.device("cpu")))

    line = explain(Recipe(batch_size=5, accumulate=3))
    assert "--batch_size 2 --accumulate 6 (12 images per step; BatchNorm sees 2)" in line and "--amp bf16" in line
    assert "checkpointing" in line and "checkpointing" not in explain(Recipe(), Speed(grad_checkpointing=True))
    line = explain(Recipe(model="sam2unext", batch_size=1, amp="bf16"))
    assert "--batch_size" not in line and "--amp" not in line and line.endswith("a smaller --size (another result)")
    assert explain_training_memory(RuntimeError("x"), Recipe(), Speed(), torch.device("cpu")) is None


@pytest.mark.parametrize("steps", [1, 12, 200, 2000])
def test_the_decay_in_the_warning_about_a_slow_average_is_fast_enough(steps, capsys):
    warn_slow_average(0.9999, steps)
    line = capsys.readouterr().err
    assert f"still {0.9999**steps:.0%} those of the start" in line
    warn_slow_average(float(line.split()[-1]), steps + 1)
    assert capsys.readouterr().err == ""
