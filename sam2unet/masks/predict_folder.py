"""Predicts maps for folders of images. Threads read and write files while the model works."""

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..atomic import create_folder, refuse_unmarked
from ..data.pairs import pair_all
from ..data.reading import open_image, upright_size
from ..data.slices import Slice, Source
from ..errors import SomeFailed, UserError, print_line, print_lines, shortlist
from ..families.load import Checkpoint
from ..families.settings import find_recipe
from ..limits import check_numbers
from ..runtime.cpu import describe_fast_linear, use_fast_linear
from ..runtime.device import explain_map_memory, pick_device
from ..runtime.parallel import default_workers, prefetch
from ..runtime.processes import Processes
from ..runtime.signals import Signals
from ..slice_view import DEFAULT_VIEW, SliceView
from ..weights.weight_files import NO_FILES, WeightPaths
from .inputs import Input, find_inputs, is_video
from .open import choose_fast_options, open_predictors
from .outputs import PredictOutputs, to_map_pixels, write_outputs
from .photo_reader import LARGE, MapJob, PredictNotes, drop_unreadable, make_reader
from .predictor import Photo, PredictOptions, Predictor
from .probability import measure_entropy, to_uint8
from .video import predict_video
from .volume_maps import VolumeMaps


@dataclass(frozen=True)
class PredictFiles:
    """The files that a prediction reads and writes."""

    source: Path  # a video, or what `find_inputs` takes
    target: Path  # folder of the maps
    masks: Path | None = None  # folder of masks; each map gets the size of its mask. None: the size of its image.
    recursive: bool = False
    skip_existing: bool = False  # leave out images that have a map
    on_bad_image: str = "stop"  # `stop` at an unreadable image, or `skip` it
    view: Mapping[str, Any] = field(default_factory=dict)  # fields of `SliceView` that the recipe does not decide


class PredictedMap(NamedTuple):
    item: Input
    pixels: np.ndarray
    probability: np.ndarray | None
    uncertainty: np.ndarray | None  # uint8, 255 where all classes are equally probable
    disagreement: float  # of several models


def run(
    checkpoints: Sequence[Path | Checkpoint],
    files: PredictFiles,
    options: PredictOptions,
    outputs: PredictOutputs,
    minmax: bool = True,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    weight_paths: WeightPaths = NO_FILES,
    fast: bool = False,
) -> None:
    """Writes one PNG per image, with the stem of the image; or one video of maps for a video.

    The probabilities of several checkpoints are averaged.

    Under torchrun, each process takes its share of the images. Raises UserError if the prediction cannot run,
    SomeFailed if images were left out, and Stopped if a signal ended the prediction.
    """
    check_numbers({"batch_size": batch_size, "workers": workers})
    processes = Processes.from_environment()
    target = pick_device(device, processes.local_rank)
    options, batch_size = choose_fast_options(target, options, batch_size) if fast else (options, batch_size or 1)
    memory = explain_map_memory(target, batch_size)

    def start_predictor() -> Predictor:
        predictor = open_predictors(checkpoints, target, weight_paths, options)
        check_grey_flags(predictor, outputs, minmax)
        return predictor

    if is_video(files.source) and files.source.is_file():
        if files.masks is not None:
            raise UserError("--test_gt_path is for images; a video's maps have its frames' size")
        if processes.first:  # one process predicts the whole video
            predictor = start_predictor()
            with hold_folder(files.target), memory:
                predict_video(predictor, files.source, files.target, outputs, minmax, batch_size)
        return
    jobs = find_jobs(files, find_view(checkpoints[0], options.size, files.view))
    check_targets(jobs, files, outputs)
    predictor = start_predictor()
    share = f"process {processes.rank + 1} of {processes.world}: " if processes.world > 1 else ""
    jobs = leave_out_written(share_jobs(jobs, processes), files, outputs, share)
    if not jobs:
        return
    print_lines(f"{share}{len(jobs)} images {describe_predictor(predictor)}")
    start = time.perf_counter()
    with hold_folder(files.target), memory:
        notes = write_maps(predictor, jobs, files, outputs, minmax, batch_size, workers, show=processes.first)
    done = len(jobs) - len(notes.bad)
    notes.report(share, bool(predictor.others), done)
    seconds = time.perf_counter() - start
    print_line(f"{share}{done} maps in {files.target}, {seconds:.1f} s, {done / seconds:.2f} images/s")
    if notes.bad:
        raise SomeFailed(f"{len(notes.bad)} of {len(jobs)} images were left out: {shortlist(notes.bad, limit=20)}")


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Makes the folder of the maps. A signal stops the prediction inside at once."""
    with Signals() as signals, signals.stop_now(), create_folder(folder, "maps"):
        yield


def describe_predictor(predictor: Predictor) -> str:
    """Returns the input sides and the device, and a second line if another library computes linear layers."""
    sides = " and ".join(f"{side}x{side}" for side in predictor.sides)
    linear = f"\n{describe_fast_linear()}" if predictor.linear_layers is use_fast_linear else ""
    return f"at {sides} on {predictor.device}{linear}"


def check_grey_flags(predictor: Predictor, outputs: PredictOutputs, minmax: bool) -> None:
    """Raises UserError if a model with classes gets flags that change grey levels."""
    flags = {"--threshold": outputs.threshold is not None, "--no_minmax": not minmax}
    if predictor.classes and any(flags.values()):
        raise UserError(
            f"this model has {len(predictor.classes.items)} classes, and its maps have no grey levels; leave out "
            f"{' and '.join(flag for flag, is_on in flags.items() if is_on)}; --save_prob writes the probabilities"
        )


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
    """Reads, predicts and writes all `jobs`. With `stop`, raises UserError after the maps before a bad image."""
    notes, volumes = PredictNotes(), VolumeMaps(predictor.classes)
    threads = default_workers() if workers is None else max(1, workers)
    with (
        ThreadPoolExecutor(threads) as readers,
        ThreadPoolExecutor(threads) as writers,
        tqdm(total=len(jobs), unit="img", disable=None if show else True) as bar,
    ):
        photos = prefetch(readers, make_reader(predictor), jobs, 2 * batch_size + threads)
        maps = predictor.predict(drop_unreadable(photos, files.on_bad_image, notes), batch_size)
        maps = note_objectless(maps, notes)
        predicted: Iterator[PredictedMap]
        predicted = (to_predicted_map(photo, probability, minmax, outputs) for photo, probability in maps)
        if outputs.uncertainty:
            predicted = note_doubts(predicted, bool(predictor.others), notes)

        def write(map_: PredictedMap) -> None:
            item, pixels, probability, uncertainty, _ = map_
            files_of_map = files.target, item.name, pixels, outputs, item.path
            write_outputs(*files_of_map, probability, predictor.classes, uncertainty, volumes)

        def weigh(map_: PredictedMap) -> int:
            size = map_.pixels.size if map_.probability is None else map_.probability.size
            return 2 * threads if max(map_.pixels.size, size) > LARGE else 1

        try:
            for _ in prefetch(writers, write, predicted, 2 * threads, weigh):
                bar.update()
        finally:
            # After an error the script reads no more images, but it writes the maps that are ready.
            readers.shutdown(cancel_futures=True)
    if notes.stopped_by is not None:
        raise notes.stopped_by
    notes.bad += volumes.describe_unfinished()
    return notes


def find_view(model_file: Path | Checkpoint, size: int | None, flags: Mapping[str, Any]) -> SliceView:
    """Returns how slices become images: as in the training, unless flags say otherwise. `size` is that of --size."""
    trained = DEFAULT_VIEW if isinstance(model_file, Path) else find_recipe(model_file, size=size).slice_view
    return replace(trained, **{name: value for name, value in flags.items() if value is not None})


def share_jobs(jobs: list[MapJob], processes: Processes) -> list[MapJob]:
    """Returns the jobs of this process. All slices of a volume go to one process, which writes the volume."""
    files = {path: i for i, path in enumerate(dict.fromkeys(os.fspath(job.item.path) for job in jobs))}
    return [job for job in jobs if files[os.fspath(job.item.path)] % processes.world == processes.rank]


def find_jobs(files: PredictFiles, view: SliceView = DEFAULT_VIEW) -> list[MapJob]:
    """Returns every image with the size of its map. UserError if the maps would be written among the inputs."""
    for folder in filter(None, (files.source, files.masks)):
        if files.target.resolve() == folder.resolve():
            raise UserError(
                f"--save_path {files.target} is a folder of inputs, and maps would overwrite them; give another"
            )
        if files.recursive and folder.resolve() in files.target.resolve().parents:
            raise UserError(f"--save_path {files.target} is inside {folder}; the next run would read the maps")
    inputs = find_inputs(files.source, files.recursive, view)
    if files.masks is None:
        return [MapJob(item, None) for item in inputs]
    both = (inputs, find_inputs(files.masks, files.recursive, view))
    images, masks = ({item.name: item.path for item in items} for items in both)
    pairs = pair_all(images, masks, files.source, files.masks)
    sizes = (None if isinstance(pair.mask, Slice) else read_size(pair.mask) for pair in pairs)
    return [MapJob(item, size) for item, size in zip(inputs, sizes, strict=True)]


def check_targets(jobs: list[MapJob], files: PredictFiles, outputs: PredictOutputs) -> None:
    """Raises UserError if a file would be written among the inputs, or a picture among the maps."""
    input_folders = {folder.resolve() for folder in (*{job.item.path.parent for job in jobs}, files.masks) if folder}
    maps: set[Path] = set()
    others: set[Path] = set()
    for job in jobs:
        paths = outputs.paths(files.target, job.item.name, job.item.path)
        maps.add(paths.pop("map").parent)
        others.update(path.parent for path in paths.values())
    if mixed := [folder for folder in sorted(maps | others) if folder.resolve() in input_folders]:
        raise UserError(f"{mixed[0]}, which --save_path {files.target} writes to, is a folder of inputs; give another")
    if shared := sorted(maps & others):
        raise UserError(f"{shared[0]} would hold maps and other pictures; rename that folder of {files.source}")
    unfinished = [job for job in jobs if not (files.skip_existing and is_written(job, files, outputs))]
    new = (outputs.paths(files.target, job.item.name, job.item.path).values() for job in unfinished)
    refuse_unmarked(files.target, itertools.chain.from_iterable(new))


def leave_out_written(jobs: list[MapJob], files: PredictFiles, outputs: PredictOutputs, share: str) -> list[MapJob]:
    """Returns the jobs without map, and prints how many have one. Without `--skip_existing` returns all jobs."""
    if not files.skip_existing:
        return jobs
    missing = [job for job in jobs if not is_written(job, files, outputs)]
    count = f"{len(jobs) - len(missing)} of {len(jobs)}" if missing else f"all {len(jobs)}"
    print_line(f"{share}{count} maps are already in {files.target}")
    return missing


def is_written(job: MapJob, files: PredictFiles, outputs: PredictOutputs) -> bool:
    return all(map(Path.is_file, outputs.paths(files.target, job.item.name, job.item.path).values()))


def read_size(path: Source) -> tuple[int, int]:
    """Returns (height, width) of an image file, after its EXIF rotation."""
    with open_image(path) as image:
        return upright_size(image)[::-1]


def to_predicted_map(photo: Photo, probability: Tensor, minmax: bool, outputs: PredictOutputs) -> PredictedMap:
    kept = None if outputs.probability is None else probability.cpu().numpy()
    doubt = None
    if outputs.uncertainty:
        doubt = to_uint8(measure_entropy(probability, 0 if probability.ndim == 3 else None))
    # The labels of a volume are probabilities above a half, so its slices are never stretched.
    pixels = to_map_pixels(probability, minmax and not isinstance(photo.source.item.path, Slice), outputs)
    return PredictedMap(photo.source.item, pixels, kept, doubt, photo.disagreement)


def note_objectless(maps: Iterable[tuple[Photo, Tensor]], notes: PredictNotes) -> Iterator[tuple[Photo, Tensor]]:
    """Notes the images whose probabilities of the foreground are all at most 0.5. Slices of volumes do not count."""
    for photo, probability in maps:
        path = photo.source.item.path
        if probability.ndim == 2 and isinstance(path, Path) and probability.max() <= 0.5:
            notes.objectless.append(path.name)
        yield photo, probability


def note_doubts(maps: Iterable[PredictedMap], several: bool, notes: PredictNotes) -> Iterator[PredictedMap]:
    """Notes for each map how much the models disagree, or for one model the mean uncertainty, both in [0, 1]."""
    for map_ in maps:
        assert map_.uncertainty is not None
        doubt = map_.disagreement if several else float(map_.uncertainty.mean()) / 255
        notes.doubts.append((doubt, map_.item.path.name))
        yield map_
