"""SAM-Med2D's encoder, clicks and training: the released way and ours, on the same images, taking turns.

Encoder: one framed image, milliseconds. Click: from a point to the mask in the image's own size, the image encoded
before. Both in one process, the median of many. Training: images per second with reading, nine updates for each batch
of 2 images with 5 masks; each row of each round is a process of its own that takes --steps batches after a first one
that is not counted, and the fastest round counts. Weights are random unless --sam_checkpoint is given.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.released import prompts as released
from sam2unet.data.reading import read_image
from sam2unet.errors import UserError
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
from sam2unet.runtime.versions import read_cpu_name, versions
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer

MODEL = "sam_med2d"
ROWS = {  # of training: the released way, or our recipe's precision and options
    "released": None,
    "ours": ("off", Speed()),
    "ours+fused": ("off", Speed(fused=True)),
    "ours+bf16+fused": ("bf16", Speed(fused=True)),
}


def add_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data_path", type=Path, required=True, help="folder with image2label_train.json")
    p.add_argument("--sam_checkpoint", type=Path, metavar="FILE", help="of SAM or SAM-Med2D; default: random weights")
    p.add_argument("--image_size", type=int, default=256)
    p.add_argument("--rounds", type=int, default=3, help="of training; default: 3")
    p.add_argument("--steps", type=int, default=3, help="batches inside the clock; default: 3")
    p.add_argument("--rows", nargs="+", default=list(ROWS), metavar="ROW", help=f"of training: {' '.join(ROWS)}")
    p.add_argument("--device", help="default: a GPU if there is one")
    p.add_argument("--seed", type=int, default=1024)


def run(args: argparse.Namespace) -> None:
    if unknown := [row for row in args.rows if row not in ROWS]:
        raise UserError(f"no row {unknown[0]}; there are {', '.join(ROWS)}")
    if min(args.rounds, args.steps) < 1:
        raise UserError("rounds and steps must be above 0")
    device = pick_device(args.device)
    items = read_train_list(args.data_path)
    model = model_of(args).to(device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{read_cpu_name()}, {torch.get_num_threads()} threads"
    packages = ", ".join(map(" ".join, versions(("torch", "numpy", "opencv-python-headless")).items()))
    print(f"{name}; {packages}; {datetime.date.today().isoformat()}")
    print(f"SAM-Med2D vit_b at {args.image_size}x{args.image_size}\n")
    print(table("encoder, ms", timed(encoders(model, items[0], args), 10, device), 1e3), flush=True)
    print(table("click, ms", timed(clicks(model, items[0]), 40, device), 1e3), flush=True)
    del model
    print(table("training, images/s", trained(args), 1, faster_is_more=True))


def model_of(args: argparse.Namespace) -> SAMMed2D:
    set_seed(args.seed)
    weight_paths = {"sam_checkpoint": args.sam_checkpoint} if args.sam_checkpoint else {}
    return start_model(MODEL, NetworkShape(size=args.image_size), weight_paths)[0]


def timed(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a busy moment does not hit one alone."""
    found: dict[str, list[float]] = {row: [] for row in ways}
    for number in range(rounds + 1):
        for row, way in ways.items():
            wait(device)
            start = time.perf_counter()
            way()
            wait(device)
            if number:
                found[row].append(time.perf_counter() - start)
    return {row: statistics.median(seconds) for row, seconds in found.items()}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def encoders(model: SAMMed2D, item: ImageMasks, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    square, frame = Framing(args.image_size).image(item.image)
    image = normalise_square(square[None], [frame]).to(next(model.parameters()).device)

    def way(how: object, amp: str = "off") -> Callable[[], object]:
        def call() -> None:
            with torch.inference_mode(), how(), autocast(image.device, amp):
                model.image_encoder(image)

        return call

    return {
        "released": way(lambda: released.in_released_order(model)),
        "ours": way(nullcontext),
        "ours+bf16": way(nullcontext, "bf16"),
    }


def clicks(model: SAMMed2D, item: ImageMasks) -> dict[str, Callable[[], object]]:
    photo = read_image(item.image)
    prompter = Prompter(model).set_image(photo)
    point = torch.tensor([[photo.width / 2, photo.height / 2]])
    square = prompter.frame.to_square(point)[None].to(prompter.embedding.device)
    labels = torch.ones(1, 1, device=square.device)

    def as_released() -> None:
        with torch.inference_mode(), released.in_released_order(model):
            released.answer(model, prompter.embedding, square, labels, (photo.height, photo.width))

    return {"released": as_released, "ours": lambda: prompter.predict(point, [1]).masks}


def trained(args: argparse.Namespace) -> dict[str, float]:
    """Images per second of each row."""
    best: dict[str, float] = {}
    for number in range(args.rounds):
        for row in args.rows:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                rate = alone.submit(images_per_second, args, row).result()
            print(f"round {number + 1}, {row}: {rate:.3f} images/s", file=sys.stderr)
            best[row] = max(rate, best.get(row, 0))
    return best


def images_per_second(args: argparse.Namespace, row: str) -> float:
    device = pick_device(args.device)
    items, model = read_train_list(args.data_path), model_of(args).to(device)
    recipe = Recipe.read(model=MODEL, size=args.image_size, seed=args.seed)
    take = (
        released_batches(model, items, recipe) if ROWS[row] is None else our_batches(model, items, recipe, *ROWS[row])
    )
    take()
    wait(device)
    start = time.perf_counter()
    for _ in range(args.steps):
        take()
    wait(device)
    return args.steps * min(recipe.batch_size, len(items)) / (time.perf_counter() - start)


def released_batches(model: SAMMed2D, items: list[ImageMasks], recipe: Recipe) -> Callable[[], None]:
    rng = np.random.default_rng(recipe.seed)
    optimizer = released.optimizer_of_everything(model, recipe.lr)
    device = model.mask_decoder.iou_token.weight.device

    def take() -> None:
        chosen = rng.permutation(len(items))[: recipe.batch_size]
        parts = [released.read(items[i], recipe.size, recipe.mask_num, rng) for i in chosen]
        batch = tuple(torch.cat(values).to(device) for values in zip(*parts, strict=True))
        with released.in_released_order(model):
            released.update(model, optimizer, batch, recipe.iter_point, rng)

    return take


def our_batches(model: SAMMed2D, items: list[ImageMasks], recipe: Recipe, amp: str, speed: Speed) -> Callable[[], None]:
    device = model.mask_decoder.iou_token.weight.device
    if device.type == "cpu":
        tune_malloc()  # as train.py does
    trainer = Trainer(find_family(MODEL), prompt_step, model, replace(recipe, amp=amp), speed, device, Processes())
    folder = PromptFolder(items, Framing(recipe.size), recipe.mask_num)
    batches = PromptBatches(len(items), recipe.batch_size, recipe.seed)

    def take() -> None:
        draws = next(iter(batches))
        batches.start(batches.epoch + 1)
        trainer.update([folder.__getitems__(draws).on(device)], [1.0])

    return take


def table(title: str, found: dict[str, float], unit: float, faster_is_more: bool = False) -> str:
    """Markdown. Ratios are how many times as fast as the row `released`."""
    lines = [f"| row | {title} | ratio |", "| --- | ---: | ---: |"]
    for row, value in found.items():
        first = found.get("released")
        ratio = "" if first is None else f"{value / first if faster_is_more else first / value:.2f}"
        lines.append(f"| {row} | {value * unit:#.3g} | {ratio} |")
    return "\n".join(lines) + "\n"
