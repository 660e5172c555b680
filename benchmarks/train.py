"""Images trained on per second, peak memory and share of the device's peak: the released way and ours, same images.

Each row of each round runs in a process of its own. The fastest of --rounds counts. The rounds take turns, so that a
busy moment does not slow down one row alone. Not timed: imports, the model, filling a cache (a run does this once), and
warm-up updates (2 on a CPU; 20 on a GPU, which include compiling and use up the batches that were read ahead). Timed:
reading by worker processes or from the cache, flips, normalising, the update, the check of the loss. The trunk is
frozen.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness
from benchmarks.harness import Measurement
from benchmarks.released.masks import ReleasedFolder, build_released_adamw, take_released_step, use_released_order_
from sam2unet.data.batches import Batches, Draw
from sam2unet.data.pairs import Pair, match
from sam2unet.errors import UserError
from sam2unet.families.load import start_model
from sam2unet.families.table import Family, find_family
from sam2unet.masks.cache import open_cache
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import pick_device, set_seed, tune_malloc
from sam2unet.runtime.processes import Processes
from sam2unet.training.loop import read_peak_memory
from sam2unet.training.run import make_loader
from sam2unet.training.speed import Speed, choose_speed
from sam2unet.training.trainer import Trainer
from sam2unet.weights.weight_files import read_weight_flags

ROWS = ("released", "ours", "ours+grad_checkpointing", "fast", "fast+grad_checkpointing")
OPTIONS = ("bf16", "fp16", "compile", "channels_last", "fused", "grad_checkpointing", "ram")
TITLES = ("batch", "row", "images/s", "ratio", "peak GiB", "of released", "GiB at start", "of device's peak", "loss 1")
SUMMARY = "{rate:.3f} images/s, {peak_gib:.2f} GiB  {choice}"
WARM_UP = {"cpu": 2, "cuda": 20}


def add_flags(p: argparse.ArgumentParser) -> None:
    add_training_flags(p)
    p.add_argument("--batch_size", type=int, nargs="+", metavar="N", help="one table each; default: the released size")
    p.add_argument("--steps", type=int, default=20, help="timed updates; default: 20")
    harness.add_row_flags(p, ROWS, OPTIONS)


def add_training_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--train_image_path", type=Path, required=True)
    p.add_argument("--train_mask_path", type=Path, required=True)
    harness.add_model_flags(p, " to start from; default: random weights, which are frozen too")
    p.add_argument("--workers", type=int, help="processes that read images; default: one per core, at most 8")
    p.add_argument("--seed", type=int, default=1024, help="for weights, order and flips; default: 1024")


def run(args: argparse.Namespace) -> None:
    harness.check_rows(args.rows, OPTIONS)
    batch_sizes = args.batch_size or [Recipe.read(model=args.model).batch_size]
    if min(args.steps, args.rounds, *batch_sizes) < 1:
        raise UserError("batch_size, steps and rounds must be above 0")
    machine = harness.run_alone(inspect_training, args)
    work = f"{args.steps} updates, best of {args.rounds} rounds"
    print(harness.describe_work(machine, work, "per image, forward and in training"), flush=True)
    for batch_size in batch_sizes:
        measure = partial(measure_training, args, batch_size)
        best = harness.measure_in_turns(args.rows, args.rounds, measure, SUMMARY)
        print(f"\n{format_training(best, batch_size, machine)}", flush=True)


def inspect_training(args: argparse.Namespace) -> Measurement:
    pairs = match(args.train_image_path, args.train_mask_path)
    model, _ = start_model(args.model, harness.read_shape(args), read_weight_flags(args))
    machine = harness.describe_machine(args, model, count_training_flops, ("torch", "torchvision", "pillow"))
    return machine | {"work": f"{machine['work']}, {len(pairs)} pairs, workers {harness.count_workers(args)}"}


def count_training_flops(way: str, family: Family, model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Returns the floating-point operations of a forward pass, and of a forward and a backward pass.

    These are matrix products and convolutions. What checkpointing computes a second time is not counted. Both ways run
    the same step.
    """
    with FlopCounterMode(display=False) as counter:
        losses = next(mask_step(model.train(), (image, image[:, :1]), Recipe()))
        forward = counter.get_total_flops()
        sum(losses.values()).backward()
    return forward, counter.get_total_flops()


def measure_training(args: argparse.Namespace, batch_size: int, row: str) -> Measurement:
    device, workers = pick_device(args.device), harness.count_workers(args)
    pairs = match(args.train_image_path, args.train_mask_path)
    recipe = Recipe.read(model=args.model, size=harness.read_side(args), batch_size=batch_size, seed=args.seed)
    set_seed(args.seed)
    model = start_model(args.model, harness.read_shape(args), read_weight_flags(args))[0].to(device).train()
    warm_up = WARM_UP[device.type]
    # Each worker reads two batches ahead. With as many more batches the workers are busy to the end, as in a long run.
    draws = draw_batches(len(pairs), batch_size, args.seed, warm_up + args.steps + 2 * workers)
    with tempfile.TemporaryDirectory() as folder:
        choice = ""
        if row == "released":
            updates = take_released_updates(model, pairs, recipe, draws, device, workers)
        else:
            recipe, speed, choice = choose_training(row, recipe, device, len(pairs), Path(folder))
            cache = open_cache(speed.cache, pairs, recipe.size, None, Path(folder))
            loader = make_loader(MaskFolder(pairs, recipe.size, cache=cache), draws, workers, device)
            family = find_family(args.model)
            updates = take_our_updates(Trainer(family, mask_step, model, recipe, speed, device, Processes()), loader)
            if device.type == "cpu":
                tune_malloc()  # as train.py does
        start_gib = read_peak_memory(device) / 1024
        seconds, losses = harness.time_updates(updates, warm_up, args.steps, device)
        peak_gib = read_peak_memory(device) / 1024
        updates.close()  # ends the workers
    return {
        "rate": batch_size * args.steps / seconds,
        "start_gib": start_gib,
        "peak_gib": peak_gib,
        "losses": [loss.item() for loss in losses],
        "kind": "fp32" if recipe.amp == "off" else recipe.amp,
        "choice": choice,
    }


def draw_batches(length: int, batch_size: int, seed: int, count: int) -> list[list[Draw]]:
    """Returns `count` full batches, from one epoch after another."""
    single, draws = Batches(length, 1, seed), []
    while len(draws) < count * batch_size:
        draws += [draw for (draw,) in single]
        single.start(single.epoch + 1)
    return [draws[begin : begin + batch_size] for begin in range(0, count * batch_size, batch_size)]


def take_released_updates(
    model: nn.Module, pairs: Sequence[Pair], recipe: Recipe, draws: list[list[Draw]], device: torch.device, workers: int
) -> Iterator[Tensor]:
    """Trains in the released way. Yields the loss of each update."""
    optimizer = build_released_adamw(use_released_order_(model), recipe.lr, recipe.weight_decay)
    folder = ReleasedFolder(pairs, recipe.size)
    for images, masks in DataLoader(folder, batch_sampler=draws, num_workers=workers):
        yield take_released_step(model, optimizer, images.to(device), masks.to(device))


def take_our_updates(trainer: Trainer, loader: DataLoader) -> Iterator[Tensor]:
    """Trains as train.py does. Yields the loss of each update."""
    for batch in loader:
        ((losses,),) = trainer.update([batch.on(trainer.device)], [1.0])
        yield losses["total"]


def choose_training(
    row: str, recipe: Recipe, device: torch.device, pairs: int, folder: Path
) -> tuple[Recipe, Speed, str]:
    """Returns the recipe and the options that train.py would use, and the line that --fast prints about its choice."""
    way, *options = row.split("+")
    speed = Speed(**{name: True for name in options if name in vars(Speed())})
    speed = replace(speed, cache="ram") if "ram" in options else speed
    for kind in {"bf16", "fp16"} & set(options):
        recipe = replace(recipe, amp=kind)
    if way != "fast":
        return recipe, speed, ""
    with redirect_stdout(io.StringIO()) as text:
        recipe, speed = choose_speed(device, recipe, speed, pairs, folder, copies=1)
    return recipe, speed, text.getvalue().strip()


def format_training(best: harness.Best, batch_size: int, machine: Measurement) -> str:
    def make_cells(row: str) -> list[str]:
        numbers = best[row]
        return [
            harness.format_number(numbers["rate"], "#.3g"),
            harness.format_ratio(best, row),
            f"{numbers['peak_gib']:.2f}",
            harness.format_ratio(best, row, "peak_gib"),
            f"{numbers['start_gib']:.2f}",
            harness.format_peak_share(machine, row, numbers["rate"], numbers["kind"]),
            f"{numbers['losses'][0]:.5f}",
        ]

    return harness.format_table(TITLES, best, make_cells, str(batch_size))
