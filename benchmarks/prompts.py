"""SAM-Med2D's encoder, clicks and training: the released way and ours, on the same images.

Encoder: milliseconds for one framed image. Click: milliseconds from a point to the mask in the size of the image, which
is encoded before. Both ways take turns in one process, and the median counts. Training: images per second with reading,
nine updates for each batch of 2 images with 5 masks. Each row of each round runs in a process of its own, which takes
--steps batches after a first one that is not timed, and the fastest round counts. Weights are random unless
--sam_checkpoint is given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
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
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer

MODEL = "sam_med2d"
ROWS = {  # of training: None for the released way, or our precision and options
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
    model = build_prompt_model(args).to(device)
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    versions = harness.describe_versions(("torch", "numpy", "opencv-python-headless"))
    print(
        f"{harness.name_device(device)}{threads}; {versions}\nSAM-Med2D vit_b at {args.image_size}x{args.image_size}\n"
    )
    works = ("encoder", list_encoders(model, items[0]), 10), ("click", list_clicks(model, items[0]), 40)
    for title, ways, count in works:
        print(harness.format_speeds(f"{title}, ms", time_in_turns(ways, count, device), 1e3), end="\n\n", flush=True)
    del model, works, ways
    measure = partial(measure_prompt_training, args)
    best = harness.measure_in_turns(args.rows, args.rounds, measure)
    print(harness.format_speeds("training, images/s", best))


def build_prompt_model(args: argparse.Namespace) -> SAMMed2D:
    set_seed(args.seed)
    weight_paths = {"sam_checkpoint": args.sam_checkpoint} if args.sam_checkpoint else {}
    return start_model(MODEL, NetworkShape(size=args.image_size), weight_paths)[0]


def time_in_turns(ways: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> harness.Best:
    """Returns the rate of each way, from the median of its times. The ways take turns, as the rows of a round do."""
    seconds: dict[str, list[float]] = {row: [] for row in ways}
    for number in range(rounds + 1):
        for row, work in ways.items():
            harness.wait(device)
            start = time.perf_counter()
            work()
            harness.wait(device)
            if number:
                seconds[row].append(time.perf_counter() - start)
    return {row: {"rate": 1 / statistics.median(values)} for row, values in seconds.items()}


def list_encoders(model: SAMMed2D, item: ImageMasks) -> dict[str, Callable[[], object]]:
    square, frame = Framing(model.side).image(item.image)
    image = normalise_square(square[None], [frame]).to(next(model.parameters()).device)

    def encode(order: Callable[[], object], amp: str) -> None:
        with torch.inference_mode(), order(), autocast(image.device, amp):
            model.image_encoder(image)

    return {
        "released": partial(encode, partial(released.released_order, model), "off"),
        "ours": partial(encode, nullcontext, "off"),
        "ours+bf16": partial(encode, nullcontext, "bf16"),
    }


def list_clicks(model: SAMMed2D, item: ImageMasks) -> dict[str, Callable[[], object]]:
    photo = read_image(item.image)
    prompter = Prompter(model).set_image(photo)
    point = torch.tensor([[photo.width / 2, photo.height / 2]])
    square = prompter.frame.to_square(point)[None].to(prompter.embedding.device)
    labels = torch.ones(1, 1, device=square.device)

    def answer_as_released() -> None:
        with torch.inference_mode(), released.released_order(model):
            released.answer_click(model, prompter.embedding, square, labels, (photo.height, photo.width))

    return {"released": answer_as_released, "ours": lambda: prompter.predict(point, [1]).masks}


def measure_prompt_training(args: argparse.Namespace, row: str) -> harness.Measurement:
    device = pick_device(args.device)
    items, model = read_train_list(args.data_path), build_prompt_model(args).to(device)
    recipe = Recipe.read(model=MODEL, size=args.image_size, seed=args.seed)
    if ROWS[row] is None:
        updates = take_released_batches(model, items, recipe, device)
    else:
        updates = take_our_batches(model, items, recipe, device, *ROWS[row])
    seconds, _ = harness.time_updates(updates, 1, args.steps, device)
    return {"rate": args.steps * min(recipe.batch_size, len(items)) / seconds}


def take_released_batches(
    model: SAMMed2D, items: list[ImageMasks], recipe: Recipe, device: torch.device
) -> Iterator[object]:
    """Reads batches and trains on them in the released way."""
    rng = np.random.default_rng(recipe.seed)
    optimizer = released.build_released_adam(model, recipe.lr)
    while True:
        indices = rng.permutation(len(items))[: recipe.batch_size]
        parts = [released.read_item(items[i], recipe.size, recipe.mask_num, rng) for i in indices]
        batch = tuple(torch.cat(values).to(device) for values in zip(*parts, strict=True))
        with released.released_order(model):
            yield released.train_on_batch(model, optimizer, batch, recipe.iter_point, rng)


def take_our_batches(
    model: SAMMed2D, items: list[ImageMasks], recipe: Recipe, device: torch.device, amp: str, speed: Speed
) -> Iterator[object]:
    """Reads batches and trains on them as train.py does."""
    if device.type == "cpu":
        tune_malloc()  # as train.py does
    trainer = Trainer(find_family(MODEL), prompt_step, model, replace(recipe, amp=amp), speed, device, Processes())
    folder = PromptFolder(items, Framing(recipe.size), recipe.mask_num)
    batches = PromptBatches(len(items), recipe.batch_size, recipe.seed)
    while True:
        draws = next(iter(batches))
        batches.start(batches.epoch + 1)
        yield trainer.update([folder.__getitems__(draws).on(device)], [1.0])
