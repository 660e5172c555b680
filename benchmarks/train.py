"""Images trained on per second, peak memory and share of the device's peak: the released way and ours, same images.

Each row of each round runs in a process of its own. The fastest round counts. The rounds take turns, so that a busy
moment does not slow down one row alone. Not timed: imports, the model, filling a cache (a run does this once), and
warm-up updates, which include compiling and use up the batches that were read ahead. Timed: reading by worker processes
or from the cache, flips, normalising, the update, the check of the loss. The trunk is frozen.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness
from benchmarks.harness import Measurement
from benchmarks.released.masks import ReleasedFolder, build_released_adamw, take_released_step, use_released_order_
from sam2unet.data.batches import Batches, Draw
from sam2unet.data.pairs import match
from sam2unet.families.table import find_family
from sam2unet.masks.cache import open_cache
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import pick_device, tune_malloc
from sam2unet.runtime.processes import Processes
from sam2unet.training.loop import read_peak_memory
from sam2unet.training.run import make_loader
from sam2unet.training.speed import Speed, choose_speed
from sam2unet.training.trainer import Trainer

ROWS = ("released", "ours", "ours+grad_checkpointing", "fast", "fast+grad_checkpointing")
OPTIONS = ("bf16", "fp16", "compile", "channels_last", "fused", "grad_checkpointing", "ram")
PACKAGES = ("torch", "torchvision", "pillow")
COLUMNS = {
    "images/s": ("rate", "#.3g"),
    "ratio": ("rate", "ratio"),
    "peak GiB": ("peak_gib", ".2f"),
    "of released": ("peak_gib", "ratio"),
    "GiB at start": ("start_gib", ".2f"),
    "of device's peak": ("rate", "share"),
    "loss 1": ("first_loss", ".5f"),
}
Updates = Iterator[Tensor]  # takes an optimizer step and yields its loss


def add_flags(p: argparse.ArgumentParser) -> None:
    add_training_flags(p)
    p.add_argument("--batch_size", type=int, nargs="+", metavar="N", help="one table each; default: the released size")
    p.add_argument("--steps", type=int, default=20, help="timed updates; default: 20")
    harness.add_row_flags(p, ROWS, OPTIONS)


def add_training_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--train_image_path", type=Path, required=True)
    p.add_argument("--train_mask_path", type=Path, required=True)
    harness.add_model_flags(p, " to start from; default: random weights, which are frozen too")
    p.add_argument("--warm_up", type=int, help="updates before the timed ones; default: 2 on a CPU, 20 on a GPU")
    p.add_argument("--seed", type=int, default=1024, help="for weights, order and flips; default: 1024")


def run(args: argparse.Namespace) -> Iterator[str]:
    harness.check_flags(args, OPTIONS)
    machine = args.alone.run(harness.inspect_model, args, count_training_flops, PACKAGES)
    pairs, workers = len(match(args.train_image_path, args.train_mask_path)), harness.count_workers(args)
    work = f"{pairs} pairs, workers {workers}, {args.steps} updates, best of {args.rounds} rounds"
    yield harness.describe_work(machine, work, "per image, forward and in training")
    for size in args.batch_size or [Recipe.read(model=args.model).batch_size]:
        args.batch_size = size
        table = f"training of {machine['work']}, batch {size}"
        yield "\n" + harness.measure_rows(args, table, measure_training, COLUMNS, machine, batch=str(size))


def count_training_flops(way: str, model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Returns the floating-point operations of a forward pass, and of a forward and a backward pass.

    These are matrix products and convolutions. What checkpointing computes a second time is not counted.
    """
    with FlopCounterMode(display=False) as counter:
        losses = next(mask_step(model.train(), (image, image[:, :1]), Recipe()))
        forward = counter.get_total_flops()
        sum(losses.values()).backward()
    return forward, counter.get_total_flops()


def measure_training(args: argparse.Namespace, row: str) -> Measurement:
    device = pick_device(args.device)
    warm_up = {"cpu": 2, "cuda": 20}[device.type] if args.warm_up is None else args.warm_up
    with tempfile.TemporaryDirectory() as folder:
        updates, kind, choice = start_updates(args, row, device, Path(folder), warm_up + args.steps)
        with closing(updates):  # ends the workers
            start = read_peak_memory(device) / 1024
            losses = [next(updates) for _ in range(warm_up)]
            seconds, timed = harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)
            peak = read_peak_memory(device) / 1024
    losses = [loss.item() for loss in losses + timed]
    numbers = {"rate": args.batch_size * args.steps / seconds, "start_gib": start, "peak_gib": peak}
    return numbers | {"first_loss": losses[0], "losses": losses, "kind": kind, "choice": choice}


def start_updates(
    args: argparse.Namespace, row: str, device: torch.device, folder: Path, count: int
) -> tuple[Updates, str, str]:
    """Returns the next `count` updates, their number type, and what --fast says about its choice."""
    pairs, workers = match(args.train_image_path, args.train_mask_path), harness.count_workers(args)
    recipe = Recipe.read(model=args.model, size=args.size, batch_size=args.batch_size, seed=args.seed)
    model = harness.build_model(args).to(device).train()
    # Each worker reads two batches ahead. With as many more batches the workers are busy to the end, as in a long run.
    draws = draw_batches(len(pairs), args.batch_size, args.seed, count + 2 * workers)
    if row == "released":
        loader = DataLoader(ReleasedFolder(pairs, recipe.size), batch_sampler=draws, num_workers=workers)
        return take_released_updates(model, recipe, device, loader), "fp32", ""
    recipe, speed, choice = choose_training(row, recipe, device, len(pairs), folder)
    if device.type == "cpu":
        tune_malloc()  # as train.py does
    cache = open_cache(speed.cache, pairs, recipe.size, None, folder)
    loader = make_loader(MaskFolder(pairs, recipe.size, cache=cache), draws, workers, device)
    trainer = Trainer(find_family(args.model), mask_step, model, recipe, speed, device, Processes())
    return take_our_updates(trainer, loader), recipe.amp.replace("off", "fp32"), choice


def draw_batches(length: int, batch_size: int, seed: int, count: int) -> list[list[Draw]]:
    """Returns `count` full batches, from one epoch after another."""
    single, draws = Batches(length, 1, seed), []
    while len(draws) < count * batch_size:
        draws += [draw for (draw,) in single]
        single.start(single.epoch + 1)
    return [draws[begin : begin + batch_size] for begin in range(0, count * batch_size, batch_size)]


def take_released_updates(model: nn.Module, recipe: Recipe, device: torch.device, loader: DataLoader) -> Updates:
    optimizer = build_released_adamw(use_released_order_(model), recipe.lr, recipe.weight_decay)
    for images, masks in loader:
        yield take_released_step(model, optimizer, images.to(device), masks.to(device))


def take_our_updates(trainer: Trainer, loader: DataLoader) -> Updates:
    for batch in loader:
        ((losses,),) = trainer.update([batch.on(trainer.device)], [1.0])
        yield losses["total"]


def choose_training(
    row: str, recipe: Recipe, device: torch.device, pairs: int, folder: Path
) -> tuple[Recipe, Speed, str]:
    """Returns the recipe and the options that train.py would use, and the line that --fast prints about its choice."""
    options = row.split("+")
    speed = Speed(**{name: name in options for name in vars(Speed()) if name != "cache"})
    speed = replace(speed, cache="ram") if "ram" in options else speed
    recipe = replace(recipe, amp=harness.choose_precision(row, recipe.amp))
    with redirect_stdout(io.StringIO()) as text:
        if "fast" in options:
            recipe, speed = choose_speed(device, recipe, speed, pairs, folder, copies=1)
    return recipe, speed, text.getvalue().strip()


def profile_training(args: argparse.Namespace, row: str) -> list[tuple[str, float]]:
    """Returns the operations of an update and their milliseconds, the longest first."""
    device = pick_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        updates, *_ = start_updates(args, row, device, Path(folder), 2 * args.steps)
        with closing(updates):
            harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)  # the warm-up
            with profile() as profiler:
                harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)
    # On a GPU only its kernels count: operations of the CPU and marked ranges would count the same time again.
    place = "CUDA" if device.type == "cuda" else "CPU"
    clock = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [
        e
        for e in profiler.key_averages()
        if e.device_type.name == place and not getattr(e, "is_user_annotation", False)
    ]
    return sorted(((e.key, getattr(e, clock) / 1e3 / args.steps) for e in events), key=lambda event: -event[1])
