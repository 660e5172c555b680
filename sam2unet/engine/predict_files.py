"""Maps for folders of images: files are read ahead and written behind while the model works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.check import warn_of_turned
from ..data.inputs import Input, find_inputs
from ..data.reading import opened, read_image, upright_size
from ..errors import SomeFailed, UserError, some, warn
from ..files import make_folder
from .maps import Predictor, stretched
from .opening import Way, open_predictor
from .outputs import Outputs, write_outputs
from .predict import batched, grey_levels
from .processes import Processes
from .runtime import ahead, default_workers, pick_device


@dataclass(frozen=True)
class Files:
    """
    Attributes:
        source: what `find_inputs` takes.
        masks: folder whose masks give the maps' sizes, instead of the images.
        skip_existing: leave out images whose map is there already.
        on_bad_image: `stop`, or `skip` and go on.
    """

    source: Path
    target: Path
    masks: Path | None = None
    recursive: bool = False
    skip_existing: bool = False
    on_bad_image: str = "stop"


@dataclass(frozen=True)
class Job:
    item: Input
    size: tuple[int, int] | None  # (height, width) of the map; None: the image's


@dataclass(frozen=True)
class Read:
    job: Job
    small: list[Tensor]
    size: tuple[int, int]
    turned: bool


def run(
    checkpoint: Path,
    files: Files,
    way: Way,
    outputs: Outputs,
    minmax: bool = True,
    batch_size: int = 1,
    workers: int | None = None,
    device: str | None = None,
    hiera_path: Path | None = None,
) -> None:
    """A PNG per image, named after it, of its mask's size where there are masks and else of its own.

    Under torchrun each process takes its share of the images. UserError where it cannot work, SomeFailed where images
    were left out.
    """
    check(batch_size, workers, outputs)
    processes = Processes.of_environment()
    target = pick_device(device, processes.local_rank)
    jobs = jobs_of(files)
    jobs = jobs[processes.rank :: processes.world]
    predictor = open_predictor(checkpoint, target, hiera_path, way)
    if files.skip_existing:
        jobs = [job for job in jobs if not (files.target / f"{job.item.name}.png").is_file()]
    make_folder(files.target)

    share = f"process {processes.rank + 1} of {processes.world}: " if processes.world > 1 else ""
    sides = " and ".join(f"{side}x{side}" for side in predictor.sides)
    print(f"{share}{len(jobs)} images at {sides} on {target}", flush=True)
    start, bad, turned = time.perf_counter(), [], []
    threads = default_workers() if workers is None else max(1, workers)
    with (
        ThreadPoolExecutor(threads) as readers,
        ThreadPoolExecutor(threads) as writers,
        tqdm(total=len(jobs), unit="img", disable=None if processes.first else True) as bar,
    ):
        found = ahead(readers, reading(predictor), jobs, 2 * batch_size + threads)
        good = sorted_out(found, files.on_bad_image, bad, turned)
        greys = predicted(predictor, good, batch_size, minmax, outputs)
        for _ in ahead(writers, lambda made: write_outputs(files.target, *made), greys, 2 * threads):
            bar.update()
    if turned:
        warn_of_turned(turned)
    seconds = time.perf_counter() - start
    done = len(jobs) - len(bad)
    print(f"{share}{done} maps in {files.target}, {seconds:.1f} s, {done / seconds:.2f} images/s")
    if bad:
        raise SomeFailed(f"{len(bad)} of {len(jobs)} images were left out: {some(bad, limit=20)}")


def check(batch_size: int, workers: int | None, outputs: Outputs) -> None:
    if outputs.threshold is not None and not 0 <= outputs.threshold <= 1:
        raise UserError(f"threshold is {outputs.threshold}; it must be from 0 to 1")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be above 0")
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}; it must be 0 or above")


def jobs_of(files: Files) -> list[Job]:
    """Every image with the size that its map gets. UserError if maps would overwrite or join the inputs."""
    for folder in filter(None, (files.source, files.masks)):
        if files.target.resolve() == folder.resolve():
            raise UserError(
                f"--save_path {files.target} is a folder of inputs, which maps would overwrite; give another"
            )
        if files.recursive and folder.resolve() in files.target.resolve().parents:
            raise UserError(f"--save_path {files.target} is inside {folder}; the next run would take maps for images")
    inputs = find_inputs(files.source, files.recursive)
    if files.masks is None:
        return [Job(item, None) for item in inputs]
    masks = {item.name: item.path for item in find_inputs(files.masks, files.recursive)}
    if lonely := [item.path.name for item in inputs if item.name not in masks]:
        raise UserError(
            f"{len(lonely)} of {len(inputs)} images have no mask: {some(lonely)} (masks looked for in {files.masks}; "
            "a mask has its image's name, whatever the extension)"
        )
    if spare := sorted(set(masks) - {item.name for item in inputs}):
        warn(f"{len(spare)} masks in {files.masks} have no image in {files.source} and are left out: {some(spare)}")
    return [Job(item, size_of(masks[item.name])) for item in inputs]


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an upright file."""
    with opened(path) as image:
        return upright_size(image)[::-1]


def reading(predictor: Predictor):
    """A function that reads a job's image; what cannot be read comes back as its error."""

    def read(job: Job) -> Read | UserError:
        try:
            photo = read_image(job.item.path)
            with opened(job.item.path) as image:
                turned = image.size != photo.size
        except UserError as e:
            return e
        return Read(job, predictor.small(photo), job.size or (photo.height, photo.width), turned)

    return read


def sorted_out(
    found: Iterator[Read | UserError], on_bad_image: str, bad: list[str], turned: list[str]
) -> Iterator[Read]:
    """What could be read; fills in the names of the others and of what was turned."""
    for one in found:
        if isinstance(one, UserError):
            if on_bad_image == "stop":
                raise UserError(f"{one} (--on_bad_image skip goes on without it)")
            warn(f"left out: {one}")
            bad.append(str(one))
            continue
        if one.turned:
            turned.append(one.job.item.path.name)
        yield one


def predicted(
    predictor: Predictor, found: Iterator[Read], batch_size: int, minmax: bool, outputs: Outputs
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and grey map, uint8 (height, width), of each image."""
    for batch in batched(found, batch_size):
        maps = predictor.maps([one.small for one in batch], [one.size for one in batch])
        for one, probability in zip(batch, maps, strict=True):
            if minmax:
                probability = stretched(probability)
            if outputs.threshold is not None:
                probability = (probability > outputs.threshold).to(torch.float32)
            yield one.job.item.name, grey_levels(probability)
