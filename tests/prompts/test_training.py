"""SAM-Med2D in training: the released updates, and train.py with the features of the other models."""

import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sam2unet
from sam2unet.data.pairs import Pair
from sam2unet.families.build import build_sam_med2d
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.losses import prompt_losses
from sam2unet.models.sam_med2d import resize_logits, select_best
from sam2unet.prompts.clicks import Points
from sam2unet.prompts.dataset import PromptTensors
from sam2unet.prompts.framing import Framing
from sam2unet.prompts.lists import ImageMasks, read_test_list, write_test_list, write_train_list
from sam2unet.prompts.modes import BOX
from sam2unet.prompts.scores import PromptTestOptions, answer_all, compute_means
from sam2unet.prompts.step import prompt_step
from sam2unet.recipe import Recipe
from sam2unet.training.prepare import choose_trained
from sam2unet.training.speed import checkpoint_trunks_
from sam2unet.training.trainer import build_optimizer
from tests.conftest import ROOT, save, tiny_sam_med2d
from tests.training.waiting import wait_for_batch

FAMILY = FAMILIES["sam_med2d"]
RECIPE = Recipe.read(model="sam_med2d")


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "sammed2d_procedures.npz")


def test_three_updates_are_the_released_ones(golden, fill, sam_med2d_b):
    """A box, points with the answer before, that answer alone; Adam in between; as the step calls the model."""
    model, before = copy.deepcopy(sam_med2d_b), sam_med2d_b.state_dict()
    choose_trained(FAMILY, model, RECIPE, [])
    images, labels = fill.fill_input((2, 3, 256, 256), 20), fill.fill_mask((4, 1, 256, 256), 20)
    boxes, points, point_labels = (
        torch.from_numpy(golden[f"train.{name}"]) for name in ("boxes", "points", "point_labels")
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RECIPE.lr, weight_decay=RECIPE.weight_decay)

    found = model({"image": images, "boxes": boxes})
    check_pass("first", found, labels, model, optimizer, golden)
    embedding = found["image_embeddings"]
    for name, more in (("points", {"point_coords": points, "point_labels": point_labels}), ("mask_only", {})):
        low = select_best(found["low_res_logits"], found["iou_predictions"])[0].detach().sigmoid()
        found = model({"image_embeddings": embedding, "mask_inputs": low} | more)
        check_pass(name, found, labels, model, optimizer, golden)
    after = model.state_dict()
    moved = {name for name, t in after.items() if not torch.equal(t, before[name])}
    assert moved == set(golden["train.moved_keys"].tolist())
    for name in (key.removeprefix("train.delta.") for key in golden if key.startswith("train.delta.")):
        np.testing.assert_allclose(after[name] - before[name], golden[f"train.delta.{name}"], rtol=0, atol=2e-6)


def check_pass(name, found, labels, model, optimizer, golden):
    low, quality = select_best(found["low_res_logits"], found["iou_predictions"])
    np.testing.assert_allclose(low.detach()[..., ::4, ::4], golden[f"train.{name}.lowres_s4"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(quality.detach(), golden[f"train.{name}.iou"], rtol=0, atol=2e-5)
    loss = sum(prompt_losses(resize_logits(low, 256), labels, quality).values())
    assert loss.item() == pytest.approx(float(golden[f"train.{name}.loss"]), rel=1e-5)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if f"train.{name}.with_grad" in golden:
        with_grad = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert with_grad == set(golden[f"train.{name}.with_grad"].tolist())
        for key in golden:
            if key.startswith(start := f"train.{name}.gradnorm."):
                norm = model.get_parameter(key.removeprefix(start)).grad.double().norm().item()
                assert norm == pytest.approx(float(golden[key]), rel=1e-3, abs=1e-7)
    optimizer.step()


# train.py, at a small size, from a file of zeros but for the decoder


@pytest.fixture(scope="module")
def sam_file(fill, tmp_path_factory) -> Path:
    """SAM's layout: positions for images of 1024, and no adapters."""
    with torch.device("meta"):
        model = build_sam_med2d(NetworkShape("micro", size=1024, encoder_adapter=False), {})[0]
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    decoder = {name: torch.empty(shape) for name, shape in shapes.items() if not name.startswith("image_encoder.")}
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("sam") / "sam_micro.pth"
    weights = fill.fill_state_dict(decoder, 0)
    for name in weights:  # so that answers begin as foreground everywhere
        if name.endswith(("output_upscaling.3.bias", "layers.2.bias")):
            weights[name] += 0.5
    torch.save(zeros | weights, path)
    return path


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> Path:
    """Five images with two masks each, to train on and to test with."""
    folder = tmp_path_factory.mktemp("lists")
    rng = np.random.default_rng(0)
    items = []
    for number in range(5):
        save(image := folder / f"images/i{number}.png", rng.integers(0, 256, (70, 60, 3), dtype=np.uint8))
        masks = [folder / f"masks/i{number}_{k}.png" for k in range(2)]
        for k, path in enumerate(masks):
            mask = np.zeros((70, 60), np.uint8)
            mask[5 + 30 * k : 25 + 30 * k, 8 + 2 * number : 40] = 255
            save(path, mask)
        items.append(ImageMasks(image, tuple(masks)))
    write_train_list(folder, items)
    write_test_list(folder, [Pair(item.image, mask) for item in items for mask in item.masks])
    return folder


FLAGS = "--model sam_med2d --encoder_adapter False --image_size 64 --epochs 2 --save trainable "
FLAGS += "--workers 1 --device cpu"

FEW = ["--iter_point", 4]  # steps for a batch


@pytest.fixture(scope="module")
def flags(sam_file, lists):
    return [*FLAGS.split(), "--sam_checkpoint", sam_file, "--data_path", lists]


@pytest.fixture(scope="module")
def whole(script, flags, lists, tmp_path_factory):
    """A run with validation, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    result = script("train.py", *flags, *FEW, "--val_data_path", lists, "--save_path", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_train_py_trains_validates_and_leaves_what_test_py_reads(whole, sam_file, lists):
    folder, out = whole
    assert "weights: sam_micro.pth, SAM micro, no adapters" in out
    assert "data: 5 images with 10 masks at 64x64, batch 2, on cpu" in out
    lines = out.splitlines()
    titles = next(i for i, line in enumerate(lines) if line.startswith("validation"))
    assert lines[titles].split() == ["validation", *"box Dice box IoU 1 pt Dice 1 pt IoU".split()]
    first = lines[titles + 1].split()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["step"] for line in epochs] == [15, 30]  # three batches of five updates
    assert epochs[0]["losses"].keys() == {"total", "focal", "dice", "iou"}
    assert epochs[1]["losses"]["total"] < epochs[0]["losses"]["total"]
    scores = [line for line in lines if line["kind"] == "validation"]
    keys = ("box Dice", "box IoU", "1 pt Dice", "1 pt IoU")
    assert first == ["epoch", "1", *(f"{scores[0][key]:.4f}" for key in keys)]
    best_one = sam2unet.load_model(folder / "best.safetensors", "cpu", sam_checkpoint=sam_file)
    pairs = read_test_list(lists)
    means = compute_means(list(answer_all(best_one, pairs, [BOX], Framing(64), PromptTestOptions(seed=RECIPE.seed))))
    assert len(scores) == 2 and 0 < scores[0]["box Dice"] == means[BOX]["Dice"]
    assert (folder / "validation/epoch-002.png").is_file() and (folder / "best.safetensors").is_file()
    model = sam2unet.load_model(folder / "SAM-Med2D-2.safetensors", "cpu", sam_checkpoint=sam_file)
    assert model.side == 64 and model.image_encoder.blocks[0].Adapter is None
    with pytest.raises(sam2unet.UserError, match="give --sam_checkpoint FILE"):
        sam2unet.load_model(folder / "SAM-Med2D-2.safetensors")


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(whole, start, flags, lists, tmp_path):
    words = ["train.py", *flags, *FEW, "--val_data_path", lists, "--save_minutes", 0]
    words += ["--save_path", tmp_path / "run", "--resume", "auto"]
    started = start(*words)
    wait_for_batch(started, tmp_path / "run")
    os.killpg(started.pid, signal.SIGKILL)
    started.finish()
    done = start(*words).finish()
    assert done.returncode == 0 and "resumed at epoch" in done.stdout, done.stderr
    for name in ("SAM-Med2D-2.safetensors", "best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole[0] / name).read_bytes()


def test_two_processes_take_steps_together(two_processes, flags, tmp_path):
    """Of other gradients in every pass; each sees its own part of a batch, and both end with the same weights."""
    check = tmp_path / "check.py"
    check.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import runpy, torch.distributed as dist, sam2unet.training.trainer as t\n"
        "step = t.Trainer.take_step\n"
        "def alike(self):\n"
        "    step(self)\n"
        "    own = sum(p.detach().double().sum().item() for p in self.trained.values())\n"
        "    both = [None, None]; dist.all_gather_object(both, own); assert both[0] == both[1], both\n"
        f"    print(end='.', file=open({str(tmp_path / 'steps')!r} + str(dist.get_rank()), 'a'))\n"
        "t.Trainer.take_step = alike\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    words = [*flags, "--epochs", 1, "--iter_point", 2, "--workers", 0, "--amp", "bf16", "--save_path", tmp_path / "run"]
    done = two_processes(check, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("data: 5 images") == 1 and done.stdout.count("saved") == 1
    steps = [len((tmp_path / f"steps{rank}").read_text()) for rank in (0, 1)]
    assert steps == [6, 6]  # three steps for each of the two batches that have an image for each process


@pytest.mark.parametrize(
    "more, words",
    [
        (["--loss", "weighted"], "SAM-Med2D has no use for --loss"),
        (["--train_image_path", "x", "--train_mask_path", "y"], "SAM-Med2D takes lists, not folders"),
        (["--cache", "ram"], "--cache keeps resized pairs"),
        (["--size", "72"], "size 72 is not a multiple of 32; give 64 or 96"),
        (["--hiera_path", "x.pt"], "SAM-Med2D takes no --hiera_path; it takes --sam_checkpoint"),
        (["--point_list", "0"], "point_list is 0; it must be from 1 to 10000"),
        (["--multimask", "no"], "'no' is not True or False"),
        (["--best_metric", "S"], "no metric named S for --best_metric; there are box Dice"),
        (["--val_fraction", "0.95"], "val_fraction 0.95 of 5 leaves no image for training"),
        (["--model", "sam2unet"], "SAM2-UNet takes no --data_path; give --train_image_path"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(more, words, train_py, flags, tmp_path):
    ended = train_py(*flags, "--save_path", tmp_path / "run", *more)
    assert ended.is_refusal(words), ended
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def small():
    return tiny_sam_med2d().double()


def batch_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)
    labels = (torch.rand(4, 1, 64, 64, generator=generator) > 0.7).double()
    boxes = torch.tensor([[[4.0, 5, 40, 30]]]).repeat(4, 1, 1)
    points = Points(torch.full((4, 1, 2), 20.0), torch.ones(4, 1, dtype=torch.int64))
    return PromptTensors(images, labels, boxes, points, *(torch.Generator().manual_seed(seed) for _ in range(2)))


def test_nine_updates_of_which_one_reaches_the_encoder(small):
    reached = []
    for losses in prompt_step(small, batch_of(), RECIPE):
        small.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        reached.append({name.split(".")[0] for name, p in small.named_parameters() if p.grad is not None})
    assert reached == [{"image_encoder", "prompt_encoder", "mask_decoder"}] + 8 * [{"mask_decoder"}]
    assert len(list(prompt_step(small, batch_of(), Recipe.read(model="sam_med2d", iter_point=3)))) == 4


def test_mended_forms_change_what_they_name(small):
    def losses(**changes):
        return [sum(step.values()).item() for step in prompt_step(small, batch_of(), replace(RECIPE, **changes))]

    with torch.no_grad():
        released = losses()
        assert losses() == released
        logits = losses(mask_prompt="logits")
        assert logits[0] == released[0] and logits[1] != released[1]
        assert losses(multimask=False)[0] != released[0]
    for train_points in (False, True):
        choose_trained(FAMILY, small, replace(RECIPE, train_points=train_points), [])
        points = small.prompt_encoder.point_embeddings
        assert [p.weight.requires_grad for p in points] == [train_points, train_points, True, True]
        assert small.prompt_encoder.not_a_point_embed.weight.requires_grad == train_points


def test_checkpointing_computes_the_same(small):
    def gradients():
        small.zero_grad(set_to_none=True)
        sum(next(prompt_step(small, batch_of(), RECIPE)).values()).backward()
        return {name: p.grad.clone() for name, p in small.named_parameters() if p.grad is not None}

    plain = gradients()
    checkpoint_trunks_(small)
    try:
        again = gradients()
    finally:
        small.image_encoder.checkpointing = False
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


def test_the_step_schedule_is_the_released_one():
    recipe = Recipe.read(model="sam_med2d", lr_scheduler="step")
    optimizer, schedule = build_optimizer([torch.nn.Parameter(torch.zeros(1))], recipe)
    rates = []
    for _ in range(recipe.epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(5 * [1e-4] + 5 * [5e-5] + 5 * [2.5e-5])


def test_the_recipe_file_is_the_released_recipe():
    assert Recipe.read(ROOT / "configs/sam_med2d.yaml") == RECIPE
