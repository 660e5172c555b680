"""SAM-Med2D's encoder, clicks and training: the released way and ours, on the same images.

Encoder: milliseconds for one framed image. Click: milliseconds from a point to the mask in the size of the image, which
is encoded before. Of 20 times, the median counts. Training: images per second with reading, nine updates for each batch
of 2 images with 5 masks, --steps batches after a first one that is not timed. Each row of each round runs in a process
of its own, and the fastest round counts. Weights are random unless --sam_checkpoint is given.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.harness import Measurement, choose_precision, time_call, time_calls
from benchmarks.released import prompts as released
from sam2unet.data.reading import read_image
from sam2unet.families.load import start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import find_family
from sam2unet.models.sam_med2d import SAMMed2D
from sam2unet.prompts.dataset import PromptBatches, PromptFolder
from sam2unet.prompts.framing import Framing, normalise_square
from sam2unet.prompts.lists import ImageMasks, read_train_list
from sam2unet.prompts.prompter import Prompter
from sam2unet.prompts.step import prompt_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import autocast, pick_device, set_seed, tune_malloc
from sam2unet.runtime.processes import Processes
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer

MODEL = "sam_med2d"
ROWS = ("released", "ours", "ours+fused", "ours+bf16+fused")
OPTIONS = ("bf16", "fp16", "fused")


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data_path", type=Path, required=True, help="folder with image2label_train.json")
    p.add_argument("--sam_checkpoint", type=Path, metavar="FILE", help="of SAM or SAM-Med2D; default: random weights")
    p.add_argument("--encoder", help="default: vit_b, or the size in the file")
    p.add_argument("--image_size", type=int, default=256)
    p.add_argument("--rounds", type=int, default=3, help="measurements of each row; default: 3")
    p.add_argument("--steps", type=int, default=3, help="batches inside the clock; default: 3")
    p.add_argument("--rows", nargs="+", default=ROWS, metavar="ROW", help=f"of training; default: {' '.join(ROWS)}")
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--seed", type=int, default=1024)


def run(args: argparse.Namespace) -> Iterator[str]:
    harness.check_flags(args, OPTIONS)
    yield f"{harness.describe_versions(('torch', 'numpy', 'opencv-python-headless'))}\nSAM-Med2D at {args.image_size}"
    for title, rows, measure, name in (
        ("encoder, ms", ("released", "ours", "ours+bf16"), partial(measure_part, "encoder"), "ms"),
        ("click, ms", ("released", "ours"), partial(measure_part, "click"), "ms"),
        ("training, images/s", args.rows, measure_prompt_training, "rate"),
    ):
        args.rows, columns = rows, {title: (name, "#.3g"), "ratio": ("rate", "ratio")}
        yield "\n" + harness.measure_rows(args, f"SAM-Med2D: {title}", measure, columns)


def build_prompt_model(args: argparse.Namespace) -> SAMMed2D:
    set_seed(args.seed)
    weight_paths = {"sam_checkpoint": args.sam_checkpoint} if args.sam_checkpoint else {}
    shape = NetworkShape(encoder=args.encoder, size=args.image_size)
    return start_model(MODEL, shape, weight_paths)[0].to(pick_device(args.device))


def measure_part(part: str, args: argparse.Namespace, row: str) -> Measurement:
    """Measures the `encoder` or a `click`."""
    model, path, amp = build_prompt_model(args), read_train_list(args.data_path)[0].image, choose_precision(row, "off")
    device, photo = next(model.parameters()).device, read_image(path)
    square, frame = Framing(model.side).image(path)
    image, prompter = normalise_square(square[None], [frame]).to(device), Prompter(model).set_image(photo)
    point, labels = torch.tensor([[photo.width / 2, photo.height / 2]]), torch.ones(1, 1, device=device)
    coords, size = frame.to_square(point)[None].to(device), (photo.height, photo.width)
    works = {
        "encoder": lambda: model.image_encoder(image),
        "click": lambda: prompter.predict(point, [1]).masks,
        "released click": lambda: released.answer_click(model, prompter.embedding, coords, labels, size),
    }
    work = works.get(f"{row} {part}", works[part])
    order = released.released_order(model) if row == "released" else nullcontext()
    with torch.inference_mode(), order, autocast(device, amp):
        work()  # the warm-up
        seconds = statistics.median(time_calls(work, device))
    return {"ms": 1e3 * seconds, "rate": 1 / seconds}


def measure_prompt_training(args: argparse.Namespace, row: str) -> Measurement:
    device, model, items = pick_device(args.device), build_prompt_model(args), read_train_list(args.data_path)
    recipe = Recipe.read(model=MODEL, size=args.image_size, seed=args.seed, amp=choose_precision(row, "off"))
    take_batches = (
        take_released_batches if row == "released" else partial(take_our_batches, Speed(fused="fused" in row))
    )
    updates = take_batches(model, items, recipe, device)
    next(updates)
    seconds, _ = time_call(lambda: [next(updates) for _ in range(args.steps)], device)
    return {"rate": args.steps * min(recipe.batch_size, len(items)) / seconds}


def take_released_batches(
    model: SAMMed2D, items: list[ImageMasks], recipe: Recipe, device: torch.device
) -> Iterator[object]:
    """Reads batches and trains on them in the released way."""
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    while True:
        indices = rng.permutation(len(items))[: recipe.batch_size]
        parts = [released.read_item(items[i], recipe.size, recipe.mask_num, rng) for i in indices]
        batch = tuple(torch.cat(values).to(device) for values in zip(*parts, strict=True))
        with released.released_order(model):
            yield released.train_on_batch(model, optimizer, batch, recipe.iter_point, rng)


def take_our_batches(
    speed: Speed, model: SAMMed2D, items: list[ImageMasks], recipe: Recipe, device: torch.device
) -> Iterator[object]:
    """Reads batches and trains on them as train.py does."""
    if device.type == "cpu":
        tune_malloc()  # as train.py does
    trainer = Trainer(find_family(MODEL), prompt_step, model, recipe, speed, device, Processes())
    folder = PromptFolder(items, Framing(recipe.size), recipe.mask_num)
    batches = PromptBatches(len(items), recipe.batch_size, recipe.seed)
    while True:
        draws = next(iter(batches))
        batches.start(batches.epoch + 1)
        yield trainer.update([folder.__getitems__(draws).on(device)], [1.0])
