"""Images trained on per second, peak memory and share of the device's peak: the released way and ours, same images.

Not timed: imports, the model, filling a cache (a run does this once), and warm-up updates, which include compiling and
use up the batches that were read ahead. Timed: reading by worker processes or from the cache, flips, normalising, the
update, the check of the loss. The trunk is frozen.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness
from benchmarks.harness import Measurement
from benchmarks.released.masks import ReleasedFolder, take_released_updates
from sam2unet.atomic import claim_folder, write_atomic
from sam2unet.data.batches import Batches
from sam2unet.data.pairs import match
from sam2unet.families.table import find_family
from sam2unet.masks.cache import open_cache
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import pick_device, tune_malloc
from sam2unet.runtime.processes import Processes
from sam2unet.scoring.plots import COLOURS, STYLE
from sam2unet.training.loop import read_peak_memory
from sam2unet.training.run import make_loader
from sam2unet.training.speed import Speed, choose_speed
from sam2unet.training.trainer import Trainer

ROWS = ("released", "ours", "ours+grad_checkpointing", "fast", "fast+grad_checkpointing")
OPTIONS = ("bf16", "fp16", "compile", "channels_last", "fused", "grad_checkpointing", "ram")
COLUMNS = {
    "images/s": ("rate", "#.3g"),
    "ratio": ("rate", "ratio"),
    "peak GiB": ("peak_gib", ".2f"),
    "of released": ("peak_gib", "ratio"),
    "GiB at start": ("start_gib", ".2f"),
    "of device's peak": ("rate", "share"),
    "loss 1": ("first_loss", ".5f"),
}
LAST, WINDOW = 50, 15  # losses whose mean is compared; losses in a running mean of the picture
LOSS_COLUMNS = {"first loss": ("first_loss", ".5f"), f"mean of the last {LAST}": ("last_loss", ".4f")}
Updates = Iterator[Tensor]  # takes an optimizer step and yields its loss


def add_flags(p: argparse.ArgumentParser, rows: Sequence[str] = ROWS) -> None:
    p.add_argument("--train_image_path", type=Path, required=True)
    p.add_argument("--train_mask_path", type=Path, required=True)
    p.add_argument("--batch_size", type=int, help="default: the released size of the model")
    p.add_argument("--steps", type=int, default=20, help="timed updates; default: 20")
    p.add_argument("--warm_up", type=int, help="updates before the timed ones; default: 2 on a CPU, 20 on a GPU")
    harness.add_model_flags(p, "masks", rows, OPTIONS)


def add_loss_flags(p: argparse.ArgumentParser) -> None:
    add_flags(p, ("released", "ours", "fast"))
    p.add_argument("--save_path", type=Path, help="folder of the picture; default: no picture")
    p.set_defaults(warm_up=0, steps=200)


def run(args: argparse.Namespace) -> Iterator[str]:
    check_training_flags(args)
    pairs = len(match(args.train_image_path, args.train_mask_path))
    words = f"{pairs} pairs, {args.steps} updates", "per image, forward and in training"
    machine = args.alone.run(harness.inspect_model, args, *words, count_training_flops)
    yield machine["text"]
    table = f"training of {machine['title']}, batch {args.batch_size}"
    yield harness.measure_rows(args, table, measure_training, COLUMNS, machine)[0]


def run_losses(args: argparse.Namespace) -> Iterator[str]:
    """Losses of the first updates, and their picture: the released way and ours, from the same weights.

    All rows use the same images in the same order and the same flips, with a frozen trunk.
    """
    check_training_flags(args)
    table = f"losses of {describe_update(args)}"
    text, best = harness.measure_rows(args, table, measure_training, LOSS_COLUMNS)
    yield text
    curves = {row: numbers["losses"] for row, numbers in best.items() if isinstance(numbers, dict)}
    if len(curves) > 1:
        means = [best[row]["last_loss"] for row in curves]
        change = float(np.ptp(means) / np.min(means))  # NaN stays NaN
        args.record(table, "difference", {"ok": change < 0.1}, {f"mean of the last {LAST}": f"{change:.2%} (10%)"})
    if args.save_path and curves:
        claim_folder(args.save_path, harness.RESULTS)
        args.alone.run(draw_losses, args.save_path / "losses.png", curves)


def run_profile(args: argparse.Namespace) -> Iterator[str]:
    """Where the time of an update goes: the operations of each row and their milliseconds, the longest first."""
    check_training_flags(args)
    for row in args.rows:
        times = args.alone.run(profile_updates, args, row)
        table, total = f"one update of {describe_update(args)}, {row}", sum(ms for _, ms in times)
        for name, ms in times[:12]:
            args.record(
                table, name[:80].replace("|", " "), {"ms": ms}, {"ms": f"{ms:.2f}", "share": f"{ms / total:.1%}"}
            )
        yield f"{table}: {total:.1f} ms\n" + "\n".join(f"{ms:10.3f} ms  {name}" for name, ms in times[:60])


def check_training_flags(args: argparse.Namespace) -> None:
    harness.check_flags(args)
    args.batch_size = args.batch_size or Recipe.read(model=args.model).batch_size


def describe_update(args: argparse.Namespace) -> str:
    return f"{args.model} {args.encoder or ''} at {args.size}, batch {args.batch_size}"


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
        updates, kind = start_updates(args, row, device, Path(folder), warm_up + args.steps)
        with closing(updates):  # ends the workers
            start = read_peak_memory(device) / 1024
            losses = [next(updates) for _ in range(warm_up)]
            seconds, timed = harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)
            peak = read_peak_memory(device) / 1024
    losses = [loss.item() for loss in losses + timed]
    numbers = {"rate": args.batch_size * args.steps / seconds, "start_gib": start, "peak_gib": peak, "kind": kind}
    return numbers | {"first_loss": losses[0], "last_loss": float(np.mean(losses[-LAST:])), "losses": losses}


def start_updates(
    args: argparse.Namespace, row: str, device: torch.device, folder: Path, count: int
) -> tuple[Updates, str]:
    """Returns the next `count` updates, and their number type."""
    pairs, options = match(args.train_image_path, args.train_mask_path), row.split("+")
    recipe = Recipe.read(model=args.model, size=args.size, batch_size=args.batch_size, seed=args.seed)
    model = harness.build_model(args).to(device).train()
    # Each worker reads two batches ahead. With as many more batches the workers are busy to the end, as in a long run.
    draws = draw_batches(Batches(len(pairs), 1, args.seed), args.batch_size, count + 2 * args.workers)
    if row == "released":
        loader = DataLoader(ReleasedFolder(pairs, recipe.size), batch_sampler=draws, num_workers=args.workers)
        return take_released_updates(model, recipe, device, loader), "fp32"
    speed = Speed(**{name: name in options for name in vars(Speed()) if name != "cache"})
    speed = replace(speed, cache="ram") if "ram" in options else speed
    recipe = replace(recipe, amp=harness.choose_precision(row, recipe.amp))
    if "fast" in options:
        recipe, speed = choose_speed(device, recipe, speed, len(pairs), folder, copies=1)
    cache = open_cache(speed.cache, pairs, recipe.size, None, folder)
    loader = make_loader(MaskFolder(pairs, recipe.size, cache=cache), draws, args.workers, device)
    trainer = Trainer(find_family(args.model), mask_step, model, recipe, speed, device, Processes())
    return take_our_updates(trainer, loader), recipe.amp.replace("off", "fp32")


def draw_batches(single: Batches, batch_size: int, count: int) -> list[list]:
    """Returns `count` full batches of the draws of `single`, whose batches have one, from one epoch after another."""
    draws = []
    while len(draws) < count * batch_size:
        draws += [draw for (draw,) in single]
        single.start(single.epoch + 1)
    return [draws[begin : begin + batch_size] for begin in range(0, count * batch_size, batch_size)]


def take_our_updates(trainer: Trainer, batches: Iterable) -> Updates:
    if trainer.device.type == "cpu":
        tune_malloc()  # as train.py does
    for batch in batches:
        losses, *_ = trainer.update([batch.on(trainer.device)], [1.0])
        yield losses[0]["total"]


def profile_updates(args: argparse.Namespace, row: str) -> list[tuple[str, float]]:
    device = pick_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        updates, _ = start_updates(args, row, device, Path(folder), 2 * args.steps)
        with closing(updates):
            harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)  # the warm-up
            with profile() as profiler:
                harness.time_call(lambda: [next(updates) for _ in range(args.steps)], device)
    # On a GPU only its kernels count: operations of the CPU and marked ranges would count the same time again.
    place, clock = ("CUDA", "self_device") if device.type == "cuda" else ("CPU", "self_cpu")
    times = [
        (event.key, getattr(event, f"{clock}_time_total") / 1e3 / args.steps)
        for event in profiler.key_averages()
        if event.device_type.name == place and not getattr(event, "is_user_annotation", False)
    ]
    return sorted(times, key=lambda item: -item[1])


def draw_losses(path: Path, curves: dict[str, list[float]]) -> None:
    """Draws the losses and their running means above, and the differences of the means from the first curve below."""
    import matplotlib.figure
    import matplotlib.style

    kernel = np.ones(min(WINDOW, *map(len, curves.values())))
    means = {
        row: np.convolve(x, kernel, "same") / np.convolve(np.ones(len(x)), kernel, "same") for row, x in curves.items()
    }
    with matplotlib.style.context(["default", STYLE]), write_atomic(path) as file:
        figure = matplotlib.figure.Figure(figsize=(6.8, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        # Each curve is thinner than the one before, so that curves that lie on each other are all visible.
        for (row, losses), colour, width in zip(curves.items(), COLOURS, (5, 2.5, 1), strict=False):
            above.plot(losses, color=colour, linewidth=width / 3, alpha=0.3)
            above.plot(means[row], color=colour, linewidth=width, label=row)
            below.plot(means[row] - next(iter(means.values())), color=colour, linewidth=width / 2 + 0.5)
        above.set(ylabel="loss, sum of the outputs")
        below.set(xlabel="update", ylabel="minus the first", ylim=(-0.1, 0.1))
        above.legend(title=f"running means of {WINDOW}")
        figure.savefig(file, format="png", metadata={"Software": None})
