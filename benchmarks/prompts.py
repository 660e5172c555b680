"""SAM-Med2D's encoder, clicks and training: the released way and ours, on the same images.

Encoder: milliseconds for one framed image. Click: milliseconds from a point to the mask in the size of the image, which
is encoded before. Of 20 times, the median counts. Training: images per second with reading, nine updates for each batch
of 2 images with 5 masks, --steps batches after a first one that is not timed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from benchmarks import harness
from benchmarks.harness import Measurement
from benchmarks.released import prompts as released
from benchmarks.train import draw_batches, take_our_updates
from sam2unet.data.reading import read_image
from sam2unet.families.table import find_family
from sam2unet.prompts.dataset import PromptBatches, PromptFolder
from sam2unet.prompts.framing import Framing, normalise_square
from sam2unet.prompts.lists import read_train_list
from sam2unet.prompts.prompter import Prompter
from sam2unet.prompts.step import prompt_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import autocast, pick_device
from sam2unet.runtime.processes import Processes
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer

ROWS = ("released", "ours", "ours+fused", "ours+bf16+fused")


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data_path", type=Path, required=True, help="folder with image2label_train.json")
    p.add_argument("--steps", type=int, default=3, help="batches inside the clock; default: 3")
    harness.add_model_flags(p, "prompts", ROWS, ("bf16", "fp16", "fused"))


def run(args: argparse.Namespace) -> Iterator[str]:
    harness.check_flags(args)
    yield f"{harness.describe_versions()}\nSAM-Med2D at {args.size}"
    for title, rows, measure, name in (
        ("encoder, ms", ("released", "ours", "ours+bf16"), partial(measure_part, "encoder"), "ms"),
        ("click, ms", ("released", "ours"), partial(measure_part, "click"), "ms"),
        ("training, images/s", args.rows, measure_prompt_training, "rate"),
    ):
        args.rows, columns = rows, {title: (name, "#.3g"), "ratio": ("rate", "ratio")}
        yield harness.measure_rows(args, f"SAM-Med2D: {title}", measure, columns)[0]


def measure_part(part: str, args: argparse.Namespace, row: str) -> Measurement:
    """Measures the `encoder` or a `click`."""
    device, path = pick_device(args.device), read_train_list(args.data_path)[0].image
    model, photo = harness.build_model(args).to(device), read_image(path)
    square, frame = Framing(model.side).image(path)
    image, prompter = normalise_square(square[None], [frame]).to(device), Prompter(model).set_image(photo)
    point, labels = torch.tensor([[photo.width / 2, photo.height / 2]]), torch.ones(1, 1, device=device)
    coords, size = frame.to_square(point)[None].to(device), (photo.height, photo.width)
    works = {
        "encoder": lambda: model.image_encoder(image),
        "click": lambda: prompter.predict(point, [1]).masks,
        "released click": lambda: released.answer_click(model, prompter.embedding, (coords, labels), size),
    }
    work = works.get(f"{row} {part}", works[part])
    order = released.released_order(model) if row == "released" else nullcontext()
    with torch.inference_mode(), order, autocast(device, harness.choose_precision(row, "off")):
        work()  # the warm-up
        seconds = statistics.median(harness.time_calls(work, device))
    return {"ms": 1e3 * seconds, "rate": 1 / seconds}


def measure_prompt_training(args: argparse.Namespace, row: str) -> Measurement:
    device, items = pick_device(args.device), read_train_list(args.data_path)
    model, amp = harness.build_model(args).to(device), harness.choose_precision(row, "off")
    recipe = Recipe.read(model=args.model, size=args.size, seed=args.seed, amp=amp)
    batches = draw_batches(PromptBatches(len(items), 1, args.seed), recipe.batch_size, 1 + args.steps)
    if row == "released":
        updates = released.take_updates(model, items, recipe, batches, device)
    else:
        speed, folder = Speed(fused="fused" in row), PromptFolder(items, Framing(recipe.size), recipe.mask_num)
        trainer = Trainer(find_family(args.model), prompt_step, model, recipe, speed, device, Processes())
        updates = take_our_updates(trainer, map(folder.__getitems__, batches))
    next(updates)
    seconds, _ = harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)
    return {"rate": args.steps * recipe.batch_size / seconds}
