"""One row of `benchmark.py train`, a process of its own: its argument is a Job, its last line says what was found."""

from __future__ import annotations

import datetime
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.released import masks as released
from benchmarks.train import Job
from sam2unet.data.batches import Batches, Draw
from sam2unet.data.pairs import Pair, match
from sam2unet.errors import UserError
from sam2unet.families.load import start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import Family, check_size, find_family
from sam2unet.masks.cache import open_cache
from sam2unet.masks.dataset import MaskFolder
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.device import pick_device, set_seed, tune_malloc
from sam2unet.runtime.parallel import default_workers
from sam2unet.runtime.processes import Processes
from sam2unet.runtime.versions import read_cpu_name, versions
from sam2unet.training.loop import read_peak_memory
from sam2unet.training.run import make_loader
from sam2unet.training.speed import Speed, choose_speed
from sam2unet.training.trainer import Trainer

WARM_UP = {"cpu": 2, "cuda": 20}
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# FLOP/s without sparsity, from the data sheets. fp32 is that of matrices in PyTorch's default, without TF32.
PEAKS = dict.fromkeys(("NVIDIA H200", "NVIDIA H100 80GB HBM3"), {"fp32": 67e12, "bf16": 989e12})


def machine(job: Job) -> dict[str, object]:
    """What the rows have in common. UserError for what no row could work with."""
    device = pick_device(job.device)
    family, size = find_family(job.model), size_of(job)
    check_size(family, size)
    if workers_of(job) < 0:
        raise UserError(f"workers is {job.workers}; it must be 0 or above")
    pairs = match(Path(job.train_image_path), Path(job.train_mask_path))
    model, _ = start_model(job.model, NetworkShape(**job.sizes), paths(job.weight_paths))
    name_of_model = family.describe(family.find_shape(model.state_dict()))
    model = model.to("meta")
    flops = {"ours": arithmetic(family, model, size)}
    flops = {"released": arithmetic(family, released.in_released_order(model), size)} | flops
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else read_cpu_name()
    return {
        "device": name if on_gpu else f"{name}, {torch.get_num_threads()} threads",
        "versions": versions(("torch", "torchvision", "pillow")),
        "date": datetime.date.today().isoformat(),
        "model": name_of_model,
        "size": size,
        "pairs": len(pairs),
        "workers": workers_of(job),
        "flops": flops,
        "peaks": PEAKS.get(name) or {kind: measured_peak(device, dtype) for kind, dtype in KINDS.items()},
        "peaks_from": "data sheet" if name in PEAKS else "the fastest of some products and convolutions",
    }


def workers_of(job: Job) -> int:
    return default_workers() if job.workers is None else job.workers


def size_of(job: Job) -> int:
    return Recipe.read(model=job.model, size=job.size).size


def paths(weight_paths: dict[str, str]) -> dict[str, Path]:
    return {flag: Path(path) for flag, path in weight_paths.items()}


def arithmetic(family: Family, model: nn.Module, size: int) -> tuple[int, int]:
    """Floating-point operations per image of a model without memory: forward, and forward and backward.

    Matrix products and convolutions; what checkpointing computes again is not counted.
    """
    batch = torch.empty(1, 3, size, size, device="meta"), torch.empty(1, 1, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        losses = next(mask_step(model.train(), batch, Recipe()))
        forward = counter.get_total_flops()
        sum(losses.values()).backward()
    return forward, counter.get_total_flops()


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the faster of a matrix product and a convolution, which on CPUs come from different libraries."""
    side, width = (8192, 1024) if device.type == "cuda" else (1024, 128)
    a, b, images, weight = (
        torch.randn(shape, device=device).to(dtype)
        for shape in ((side, side), (side, side), (1, width, 130, 130), (width, width, 3, 3))
    )
    works = {
        2 * side**3: lambda: a @ b,
        2 * 9 * width**2 * 128**2: lambda: F.conv2d(images, weight),
    }
    return max(flops / fastest(work, device) for flops, work in works.items())


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds."""
    seconds = []
    while len(seconds) < 20 and sum(seconds) < 2:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(job: Job) -> dict[str, object]:
    device, workers = pick_device(job.device), workers_of(job)
    pairs = match(Path(job.train_image_path), Path(job.train_mask_path))
    family = find_family(job.model)
    recipe = Recipe.read(model=job.model, size=job.size, batch_size=job.batch_size, seed=job.seed)
    set_seed(job.seed)
    model, _ = start_model(job.model, NetworkShape(**job.sizes), paths(job.weight_paths))
    model = model.to(device).train()
    warm_up = WARM_UP[device.type]
    # Workers read two batches ahead each: as many more, so that they are busy to the end, as in a long run.
    draws = first_draws(len(pairs), job.batch_size, job.seed, warm_up + job.steps + 2 * workers)
    with tempfile.TemporaryDirectory() as folder:
        if job.row == "released":
            chosen, updates = "", released_updates(model, pairs, recipe, draws, device, workers)
        else:
            recipe, speed, chosen = settings(job.row, recipe, device, len(pairs), Path(folder))
            cache = open_cache(speed.cache, pairs, recipe.size, None, Path(folder))
            loader = make_loader(MaskFolder(pairs, recipe.size, cache=cache), draws, workers, device)
            updates = our_updates(Trainer(family, mask_step, model, recipe, speed, device, Processes()), loader)
            if device.type == "cpu":
                tune_malloc()  # as train.py does
        start_mib = read_peak_memory(device)
        losses = [next(updates) for _ in range(warm_up)]
        wait(device)
        start = time.perf_counter()
        losses += [next(updates) for _ in range(job.steps)]
        wait(device)
        seconds = time.perf_counter() - start
        peak_mib = read_peak_memory(device)
        updates.close()  # which ends the workers
    return {
        "seconds": seconds,
        "steps": job.steps,
        "start_mib": start_mib,
        "peak_mib": peak_mib,
        "losses": [loss.item() for loss in losses],
        "kind": "fp32" if recipe.amp == "off" else recipe.amp,
        "chosen": chosen,
    }


def first_draws(length: int, batch_size: int, seed: int, count: int) -> list[list[Draw]]:
    """That many full batches, of epoch after epoch."""
    single, draws = Batches(length, 1, seed), []
    while len(draws) < count * batch_size:
        draws += [draw for (draw,) in single]
        single.start(single.epoch + 1)
    return [draws[begin : begin + batch_size] for begin in range(0, count * batch_size, batch_size)]


def released_updates(
    model: nn.Module,
    pairs: Sequence[Pair],
    recipe: Recipe,
    draws: list[list[Draw]],
    device: torch.device,
    workers: int,
) -> Iterator[Tensor]:
    """The loss of each update, in the released way."""
    optimizer = released.optimizer_of_everything(released.in_released_order(model), recipe.lr, recipe.weight_decay)
    folder = released.ReleasedFolder(pairs, recipe.size)
    for images, masks in DataLoader(folder, batch_sampler=draws, num_workers=workers):
        yield released.step(model, optimizer, images.to(device), masks.to(device))


def our_updates(trainer: Trainer, loader: DataLoader) -> Iterator[Tensor]:
    """The loss of each update, as train.py takes it."""
    for batch in loader:
        ((losses,),) = trainer.update([batch.on(trainer.device)], [1.0])
        yield losses["total"]


def settings(row: str, recipe: Recipe, device: torch.device, pairs: int, folder: Path) -> tuple[Recipe, Speed, str]:
    """What train.py would run with, and in words what --fast chose."""
    way, *options = row.split("+")
    speed = Speed(**{name: True for name in options if name in vars(Speed())})
    speed = replace(speed, cache="ram") if "ram" in options else speed
    for kind in {"bf16", "fp16"} & set(options):
        recipe = replace(recipe, amp=kind)
    if way != "fast":
        return recipe, speed, ""
    with redirect_stdout(io.StringIO()) as said:
        recipe, speed = choose_speed(device, recipe, speed, pairs, folder, copies=1)
    return recipe, speed, said.getvalue().strip()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    try:
        found = machine(job) if job.row == "machine" else measure(job)
    except UserError as e:
        found = {"error": str(e)}
    except RuntimeError as e:
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        found = {"failed": "out of memory"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
