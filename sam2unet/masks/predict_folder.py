"""Maps for folders of images: files are read ahead and written behind while the model works."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..atomic import create_folder, refuse_unmarked
from ..data.check import warn_rotated
from ..data.reading import open_image, read_image, upright_size
from ..errors import SomeFailed, UserError, print_line, shortlist, warn
from ..families.load import Checkpoint
from ..limits import check_numbers
from ..runtime.device import explain_map_memory, pick_device
from ..runtime.parallel import batched, default_workers, prefetch
from ..runtime.processes import Processes
from ..runtime.signals import Signals
from ..weights.weight_files import NO_FILES, WeightPaths
from .inputs import Input, find_inputs, is_video
from .open import choose_fast_options, open_predictor
from .outputs import PredictOutputs, to_grey_map, write_outputs
from .predictor import PredictOptions, Predictor
from .video import predict_video

LARGE = 50_000_000  # pixels; only one image with more is read at a time, and one written


@dataclass(frozen=True)
class PredictFiles:
    """
    Attributes:
        source: what `find_inputs` takes, or one video.
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
class MapJob:
    item: Input
    size: tuple[int, int] | None  # (height, width) of the map; None: the image's


@dataclass(frozen=True)
class ReadPhoto:
    job: MapJob
    small: list[Tensor]
    size: tuple[int, int]
    turned: bool
    several: bool  # frames or pages, of which this is the first


class PredictedMap(NamedTuple):
    item: Input
    grey: np.ndarray
    probability: np.ndarray | None


@dataclass
class PredictNotes:
    """What to tell at the end: images left out and why, and the names of those that were turned or have frames."""

    bad: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)
    stopped_by: UserError | None = None


def run(
    checkpoint: Path | Checkpoint,
    files: PredictFiles,
    way: PredictOptions,
    outputs: PredictOutputs,
    minmax: bool = True,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    weight_paths: WeightPaths = NO_FILES,
    fast: bool = False,
) -> None:
    """A PNG per image, named after it, of its mask's size where there are masks and else of its own; or a video's maps.

    Under torchrun each process takes its share of the images. UserError where it cannot work, SomeFailed where images
    were left out, Stopped on a signal.
    """
    check_numbers({"batch_size": batch_size, "workers": workers})
    processes = Processes.from_environment()
    target = pick_device(device, processes.local_rank)
    way, batch_size = choose_fast_options(target, way, batch_size) if fast else (way, batch_size or 1)
    memory = explain_map_memory(target, batch_size)
    if is_video(files.source) and files.source.is_file():
        if files.masks is not None:
            raise UserError("--test_gt_path is for images; a video's maps have its frames' size")
        if not processes.first:
            return  # a video is not shared out
        predictor = open_predictor(checkpoint, target, weight_paths, way)
        with Signals() as signals, signals.stop_now(), memory, create_folder(files.target, "maps"):
            predict_video(predictor, files.source, files.target, outputs, minmax, batch_size)
        return
    jobs = find_jobs(files)
    check_targets(jobs, files, outputs)
    jobs = jobs[processes.rank :: processes.world]
    predictor = open_predictor(checkpoint, target, weight_paths, way)
    share = f"process {processes.rank + 1} of {processes.world}: " if processes.world > 1 else ""
    if files.skip_existing:
        count = len(jobs)
        jobs = [job for job in jobs if not is_written(job, files, outputs)]
        if not jobs:
            print_line(f"{share}all {count} maps are in {files.target} already")
            return
        print_line(f"{share}{count - len(jobs)} of {count} maps are in {files.target} already")
    sides = " and ".join(f"{side}x{side}" for side in predictor.sides)
    print_line(f"{share}{len(jobs)} images at {sides} on {predictor.device}")
    start = time.perf_counter()
    with Signals() as signals, signals.stop_now(), memory, create_folder(files.target, "maps"):
        notes = write_maps(predictor, jobs, files, outputs, minmax, batch_size, workers, show=processes.first)
    if notes.turned:
        warn_rotated(notes.turned)
    if notes.several:
        warn(
            f"of {len(notes.several)} images with several frames or pages the first is taken: "
            f"{shortlist(notes.several)}"
        )
    seconds = time.perf_counter() - start
    done = len(jobs) - len(notes.bad)
    print_line(f"{share}{done} maps in {files.target}, {seconds:.1f} s, {done / seconds:.2f} images/s")
    if notes.bad:
        raise SomeFailed(f"{len(notes.bad)} of {len(jobs)} images were left out: {shortlist(notes.bad, limit=20)}")


def write_maps(
    predictor: Predictor,
    jobs: list[MapJob],
    files: PredictFiles,
    outputs: PredictOutputs,
    minmax: bool = True,
    batch_size: int = 1,
    workers: int | None = None,
    show: bool = True,
) -> PredictNotes:
    """Read, predict and write all `jobs`. UserError at a bad image, if so wished, after the maps before it."""
    notes = PredictNotes()
    threads = default_workers() if workers is None else max(1, workers)
    with (
        ThreadPoolExecutor(threads) as readers,
        ThreadPoolExecutor(threads) as writers,
        tqdm(total=len(jobs), unit="img", disable=None if show else True) as bar,
    ):
        found = prefetch(readers, make_reader(predictor), jobs, 2 * batch_size + threads)
        good = drop_unreadable(found, files.on_bad_image, notes)
        greys = predict_batches(predictor, good, batch_size, minmax, outputs)

        def write(done: PredictedMap) -> None:
            write_outputs(files.target, done.item.name, done.grey, outputs, done.item.path, done.probability)

        try:
            for _ in prefetch(
                writers, write, greys, 2 * threads, lambda done: 2 * threads if done.grey.size > LARGE else 1
            ):
                bar.update()
        finally:
            readers.shutdown(
                cancel_futures=True
            )  # after an error nothing more is read; maps that are there are written
    if notes.stopped_by is not None:
        raise notes.stopped_by
    return notes


def find_jobs(files: PredictFiles) -> list[MapJob]:
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
        return [MapJob(item, None) for item in inputs]
    masks = {item.name: item.path for item in find_inputs(files.masks, files.recursive)}
    if lonely := [item.path.name for item in inputs if item.name not in masks]:
        raise UserError(
            f"{len(lonely)} of {len(inputs)} images have no mask: {shortlist(lonely)} "
            f"(masks looked for in {files.masks}; "
            "a mask has its image's name, whatever the extension)"
        )
    if spare := sorted(set(masks) - {item.name for item in inputs}):
        warn(
            f"{len(spare)} masks in {files.masks} have no image in {files.source} and are left out: {shortlist(spare)}"
        )
    return [MapJob(item, read_size(masks[item.name])) for item in inputs]


def check_targets(jobs: list[MapJob], files: PredictFiles, outputs: PredictOutputs) -> None:
    """UserError where something would be written among what is read, or pictures among maps."""
    read = {folder.resolve() for folder in {job.item.path.parent for job in jobs} | {files.masks} - {None}}
    maps, others = set(), set()
    for job in jobs:
        paths = outputs.paths(files.target, job.item.name)
        maps.add(paths.pop("map").parent)
        others.update(path.parent for path in paths.values())
    if joined := [folder for folder in sorted(maps | others) if folder.resolve() in read]:
        raise UserError(f"{joined[0]}, which --save_path {files.target} writes to, is a folder of inputs; give another")
    if shared := sorted(maps & others):
        raise UserError(f"{shared[0]} would hold maps and other pictures; rename that folder of {files.source}")
    unfinished = [job for job in jobs if not (files.skip_existing and is_written(job, files, outputs))]
    paths = (outputs.paths(files.target, job.item.name).values() for job in unfinished)
    refuse_unmarked(files.target, itertools.chain.from_iterable(paths))


def is_written(job: MapJob, files: PredictFiles, outputs: PredictOutputs) -> bool:
    return all(map(Path.is_file, outputs.paths(files.target, job.item.name).values()))


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright file."""
    with open_image(path) as image:
        return upright_size(image)[::-1]


def make_reader(predictor: Predictor):
    """A function that reads a job's image; what cannot be read comes back as its error."""
    alone = threading.Lock()

    def read(job: MapJob) -> ReadPhoto | UserError:
        path = job.item.path
        try:
            with open_image(path) as image:
                width, height = image.size
                # A camera's MPO has previews beside the photograph.
                several = image.format != "MPO" and getattr(image, "is_animated", False)
            with alone if width * height > LARGE else nullcontext():
                photo = read_image(path)
                own = photo.height, photo.width
                if predictor.tile is not None and job.size not in (None, own):
                    raise UserError(
                        f"{path} is {own[1]}x{own[0]}, its mask {job.size[1]}x{job.size[0]}; --tile needs them alike"
                    )
                return ReadPhoto(job, predictor.small(photo), job.size or own, own != (height, width), several)
        except UserError as e:
            return e

    return read


def drop_unreadable(
    found: Iterator[ReadPhoto | UserError], on_bad_image: str, notes: PredictNotes
) -> Iterator[ReadPhoto]:
    """What could be read, as far as `on_bad_image` lets it go on."""
    for one in found:
        if isinstance(one, UserError):
            if on_bad_image == "stop":
                # Raised after what was read before it has been predicted and written.
                notes.stopped_by = UserError(f"{one} (--on_bad_image skip goes on without it)")
                return
            warn(f"left out: {one}")
            notes.bad.append(str(one))
            continue
        if one.turned:
            notes.turned.append(one.job.item.path.name)
        if one.several:
            notes.several.append(one.job.item.path.name)
        yield one


def predict_batches(
    predictor: Predictor, found: Iterator[ReadPhoto], batch_size: int, minmax: bool, outputs: PredictOutputs
) -> Iterator[PredictedMap]:
    for batch in batched(found, batch_size):
        paths = [one.job.item.path for one in batch]
        maps = predictor.maps([one.small for one in batch], [one.size for one in batch], batch_size, paths)
        for one, probability in zip(batch, maps, strict=True):
            kept = None if outputs.probability is None else probability.cpu().numpy()
            yield PredictedMap(one.job.item, to_grey_map(probability, minmax, outputs), kept)
