"""The benchmark of training, for models that take images and for models that take prompts."""

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models, released
from benchmarks.harness import Numbers, measure_rows, time_call
from sam2unet.atomic import write_atomic
from sam2unet.data.batches import Batches
from sam2unet.families.table import find_family
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import pick_device, tune_malloc
from sam2unet.runtime.processes import Processes
from sam2unet.scoring.tables.plots import COLOURS, STYLE
from sam2unet.task import RunData, Task
from sam2unet.training.loop import read_peak_memory
from sam2unet.training.prepare import TASKS
from sam2unet.training.readers import make_loader
from sam2unet.training.speed import Speed, choose_speed
from sam2unet.training.trainer import Trainer

SWITCHES = ("compile", "channels_last", "fused", "grad_checkpointing")
OPTIONS = ("bf16", "fp16", "ram", *SWITCHES)
ROWS = ("released", "ours", "ours+grad_checkpointing", "fast", "fast+grad_checkpointing")
LAST, WINDOW = 50, 15  # losses whose mean is compared; losses in a running mean of the picture
Updates = Iterator[Tensor]  # takes the optimizer steps of a batch and yields its first loss


def run(args: argparse.Namespace) -> None:
    """Images trained on per second, peak memory and share of the device's peak: the released way and ours, same images.

    Not timed: imports, the model, filling a cache (a run does this once), and warm-up updates, which include compiling
    and use up the batches that were read ahead. Timed: reading by worker processes or from the cache, flips,
    normalising, the update, the check of the loss. The trunk is frozen. An update of SAM-Med2D has nine optimizer
    steps. --save_path also keeps a picture of the losses. All rows use the same weights, images, order and flips.
    """
    models.complete_flags(args)
    task, count = make_task(args, make_recipe(args)), count_flops if args.model != "sam_med2d" else None
    args.batch_size = task.recipe.batch_size
    work = f"{len(task.pairs)} pairs, {args.steps} updates"
    args.machine = args.alone.run(models.inspect_model, args, work, count)
    table = f"training of {args.machine.title}, batch {args.batch_size}"
    curves = {
        row: numbers
        for row, numbers in measure_rows(args, "train", table, measure_training).items()
        if "losses" in numbers
    }
    if args.save_path and len(curves) > 1:
        means = [numbers["last_loss"] for numbers in curves.values()]
        change = float(np.ptp(means) / np.min(means))  # NaN stays NaN
        numbers = {"ok": change < 0.1, "result": f"{change:.2%} (10%)"}
        args.results.add("check", f"{table}: means of the last {LAST} losses", "difference", numbers)
        args.alone.run(
            draw_losses, args.save_path / "losses.png", {row: numbers["losses"] for row, numbers in curves.items()}
        )


def make_recipe(args: argparse.Namespace, row: str = "") -> Recipe:
    flags = {"size": args.size, "batch_size": args.batch_size}
    flags = {name: value for name, value in flags.items() if value is not None}
    return Recipe.read(model=args.model, amp=models.choose_precision(row), **flags)


def make_task(args: argparse.Namespace, recipe: Recipe) -> Task:
    family = find_family(args.model)
    return TASKS[family.task](family, recipe, RunData(args.train_image_path, args.train_mask_path, args.data_path))


def count_flops(way: str, model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Returns the floating-point operations of a forward pass, and of a forward and a backward pass.

    What checkpointing computes a second time is not counted.
    """
    with FlopCounterMode(display=False) as counter:
        losses = next(mask_step(model.train(), (image, image[:, :1]), Recipe()))
        forward = counter.get_total_flops()
        sum(losses.values()).backward()
    return forward, counter.get_total_flops()


def measure_training(args: argparse.Namespace, row: str) -> Numbers:
    device = pick_device(args.device)
    warm_up = {"cpu": 2, "cuda": 20}[device.type] if args.warm_up is None else args.warm_up
    with tempfile.TemporaryDirectory() as folder:
        count = warm_up + (1 + args.profile) * args.steps
        updates, precision = start_updates(args, row, device, Path(folder), count)

        def take(count: int) -> list[Tensor]:
            return list(itertools.islice(updates, count))

        with closing(updates):  # ends the workers
            start, losses = read_peak_memory(device) / 1024, take(warm_up)
            seconds, timed = time_call(lambda: take(args.steps), device)
            peak = read_peak_memory(device) / 1024
            if args.profile:
                with profile() as profiler:
                    time_call(lambda: take(args.steps), device)
                order = f"self_{device.type}_time_total"
                print(
                    row, profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=80), sep="\n"
                )
    losses, rate = [loss.item() for loss in losses + timed], args.batch_size * args.steps / seconds
    numbers = {"rate": rate, "precision": precision, "share": models.find_share(args, row, rate, precision)}
    numbers |= {"start_gib": start, "peak_gib": peak, "losses": losses}
    return numbers | {"first_loss": losses[0], "last_loss": float(np.mean(losses[-LAST:]))}


def start_updates(
    args: argparse.Namespace, row: str, device: torch.device, folder: Path, count: int
) -> tuple[Updates, str]:
    """Returns the next `count` updates, and their number type."""
    words, family, recipe = row.split("+"), find_family(args.model), make_recipe(args, row)
    model, task = models.build_model(args).to(device).train(), make_task(args, recipe)
    # Each worker reads two batches ahead. With as many more batches the workers are busy to the end, as in a long run.
    draws = draw_batches(task.batches(Processes()), recipe.batch_size, count + 2 * args.workers)
    if row == "released":
        dataset, step = released.open_task(task)
        loader = DataLoader(dataset, batch_sampler=draws, num_workers=args.workers, collate_fn=dataset.collate)
        return released.take_updates(model, step, recipe, device, loader), "fp32"
    speed = Speed(**{name: name in words for name in SWITCHES}, cache="ram" if "ram" in words else "off")
    if "fast" in words:
        pairs = len(task.pairs) if task.has_cache else None
        recipe, speed = choose_speed(device, recipe, speed, pairs, folder, copies=1)
    loader = make_loader(task.dataset(speed.cache, folder, Processes()), draws, args.workers, device)
    trainer = Trainer(family, task.step, model, recipe, speed, device, Processes())
    return take_updates(trainer, loader), recipe.amp.replace("off", "fp32")


def take_updates(trainer: Trainer, batches: DataLoader) -> Updates:
    if trainer.device.type == "cpu":
        tune_malloc()  # as train.py does
    for batch in batches:
        (losses,), *_ = trainer.update([batch.on(trainer.device)], [1.0])
        yield losses["total"]


def draw_batches(batches: Batches, batch_size: int, count: int) -> list[list]:
    """Returns `count` full batches of the draws of `batches`, from one epoch after another."""
    draws = []
    while len(draws) < count * batch_size:
        draws += itertools.chain.from_iterable(batches)
        batches.start(batches.epoch + 1)
    return [draws[begin : begin + batch_size] for begin in range(0, count * batch_size, batch_size)]


def draw_losses(path: Path, curves: dict[str, list[float]]) -> None:
    """Draws losses and their running means."""
    import matplotlib.figure
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]), write_atomic(path) as file:
        figure = matplotlib.figure.Figure(figsize=(6.8, 3.6), layout="constrained")
        axes = figure.subplots()
        # Each curve is thinner than the one before, so that curves that lie on each other are all visible.
        for (row, losses), colour, width in zip(curves.items(), COLOURS, (5, 2.5, 1), strict=False):
            kernel = np.ones(min(WINDOW, len(losses)))
            means = np.convolve(losses, kernel, "same") / np.convolve(np.ones(len(losses)), kernel, "same")
            axes.plot(losses, color=colour, linewidth=width / 3, alpha=0.3)
            axes.plot(means, color=colour, linewidth=width, label=row)
        axes.set(xlabel="update", ylabel="loss, sum of the outputs")
        axes.legend(title=f"running means of {WINDOW}")
        figure.savefig(file, format="png", metadata={"Software": None})
