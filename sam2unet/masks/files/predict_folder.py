"""Predicts maps for folders of images. Threads read and write files while the model works."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ...atomic import create_folder
from ...errors import SomeFailed, UserError, print_line, print_lines, shortlist, warn
from ...families.load import Checkpoint
from ...families.settings import find_recipe
from ...limits import check_numbers
from ...recipe import Recipe
from ...runtime.cpu import describe_fast_linear, use_fast_linear
from ...runtime.device import explain_map_memory, pick_device
from ...runtime.parallel import default_workers, prefetch
from ...runtime.processes import Processes
from ...runtime.shards import Shard
from ...runtime.signals import Signals
from ...slice_view import DEFAULT_VIEW, SliceView
from ...weights.weight_files import NO_FILES, WeightPaths
from ..prediction.open import choose_fast_options, open_predictors
from ..prediction.options import PredictOptions
from ..prediction.predictor import Photo, Predictor
from ..prediction.probability import measure_entropy, to_uint8
from .find_inputs import is_video
from .inputs import Input, is_slice
from .jobs import MapJobs, PredictFiles, check_targets, find_jobs, leave_out_written
from .outputs import Files, PredictOutputs, to_map_pixels, write_outputs
from .photo_reader import LARGE, PredictNotes, allow_large_images, drop_unreadable, make_reader
from .targets import MapArchive, MapFolder
from .video import choose_video_paths, predict_video
from .volume_maps import VolumeMaps


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

    Under torchrun and with `files.shard`, each process takes its share of the images. Raises UserError if the
    prediction cannot run, SomeFailed if images were left out, and Stopped if a signal ended the prediction.
    """
    check_numbers({"batch_size": batch_size, "workers": workers})
    processes = Processes.from_environment()
    target = pick_device(device, processes.local_rank)
    options, batch_size = choose_fast_options(target, options, batch_size) if fast else (options, batch_size or 1)
    memory = explain_map_memory(target, batch_size)

    def start_predictor() -> Predictor:
        with explain_map_memory(target, batch_size):
            predictor = open_predictors(checkpoints, target, weight_paths, options)
        check_grey_flags(predictor, outputs, minmax)
        return predictor

    if is_video(files.source) and files.source.is_file():
        if processes.first:  # one process predicts the whole video
            with memory:
                run_video(start_predictor, files, outputs, minmax, batch_size)
        return
    first = checkpoints[0]
    seed = Recipe.seed if isinstance(first, Path) else find_recipe(first, size=options.size).seed
    everything = find_jobs(files, find_view(first, options.size, files.view), seed)
    share, label = choose_share(files.shard, processes)
    jobs = everything.share(share)
    if files.masks is not None:
        jobs.refuse_missing_slices(files.masks)
    place = MapArchive(files.target, share, files.skip_existing) if files.archive else MapFolder(files.target)
    check_targets(everything, jobs, files, outputs, place)
    predictor = start_predictor()
    jobs = leave_out_written(jobs, files, outputs, place, label)
    if not len(jobs):
        return
    print_lines(f"{label}{len(jobs)} images {describe_predictor(predictor)}")
    start = time.perf_counter()
    is_tiled = options.tile is not None
    with hold_folder(files.target, is_shared=share.count > 1), memory, allow_large_images(is_tiled):
        notes = write_maps(predictor, jobs, files, outputs, minmax, batch_size, workers, processes.first, place)
    done = len(jobs) - len(notes.bad)
    notes.report(label, bool(predictor.others), done)
    seconds = time.perf_counter() - start
    print_line(f"{label}{done} maps in {files.target}, {seconds:.1f} s, {done / seconds:.2f} images/s")
    if notes.bad:
        raise SomeFailed(f"{len(notes.bad)} of {len(jobs)} images were left out: {shortlist(notes.bad, limit=20)}")


def run_video(
    start_predictor: Callable[[], Predictor],
    files: PredictFiles,
    outputs: PredictOutputs,
    minmax: bool,
    batch_size: int,
) -> None:
    """Writes the maps of a video. Raises UserError for flags of images, and for a file of the user in the way."""
    if files.masks is not None:
        raise UserError("--test_gt_path is for images; a video's maps have its frames' size")
    if files.archive or files.shard.count > 1:
        raise UserError("--archive and --shard are for images; the maps of a video are one file; leave them out")
    paths = choose_video_paths(files.source, files.target, outputs)
    if files.skip_existing and all(path.is_file() for path in paths.values()):
        print_line(f"the maps of {files.source} are already in {files.target}")
        return
    predictor = start_predictor()
    with hold_folder(files.target):
        predict_video(predictor, files.source, paths, outputs, minmax, batch_size)


@contextmanager
def hold_folder(folder: Path, is_shared: bool = False) -> Iterator[None]:
    """Makes the folder of the maps. A signal stops the prediction inside at once."""
    with Signals() as signals, signals.stop_now(), create_folder(folder, "maps", is_shared):
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
    jobs: MapJobs,
    files: PredictFiles,
    outputs: PredictOutputs,
    minmax: bool = True,
    batch_size: int = 1,
    workers: int | None = None,
    show: bool = True,
    place: MapFolder | MapArchive | None = None,
) -> PredictNotes:
    """Reads, predicts and writes all `jobs`. With `stop`, raises UserError after the maps before a bad image.

    `place` is where the maps go. None: files in `files.target`.
    """
    notes, volumes, place = PredictNotes(), VolumeMaps(predictor.classes), place or MapFolder(files.target)
    threads = default_workers() if workers is None else max(1, workers)
    with (
        place,  # it ends after the threads that write
        ThreadPoolExecutor(threads) as readers,
        ThreadPoolExecutor(threads) as writers,
        tqdm(total=len(jobs), unit="img", disable=None if show else True) as bar,
    ):
        photos = prefetch(readers, make_reader(predictor, volumes), jobs, 2 * batch_size + threads)
        maps = predictor.predict(drop_unreadable(photos, files.on_bad_image, notes), batch_size)
        maps = note_objectless(maps, notes)
        predicted: Iterator[PredictedMap]
        predicted = (to_predicted_map(photo, probability, minmax, outputs) for photo, probability in maps)
        if outputs.uncertainty:
            predicted = note_doubts(predicted, bool(predictor.others), notes)

        def make_files(map_: PredictedMap) -> Files:
            item, pixels, probability, uncertainty, _ = map_
            files_of_map = files.target, item.name, pixels, outputs, item.path
            content: dict[Path, bytes | memoryview] = {}
            write = place.write if isinstance(place, MapFolder) else content.update
            write_outputs(*files_of_map, probability, predictor.classes, uncertainty, volumes, write)
            return content

        def weigh(map_: PredictedMap) -> int:
            size = map_.pixels.size if map_.probability is None else map_.probability.size
            return 2 * threads if max(map_.pixels.size, size) > LARGE else 1

        try:
            for content in prefetch(writers, make_files, predicted, 2 * threads, weigh):
                if isinstance(place, MapArchive):  # in the order of the images
                    place.write(content)
                bar.update()
        finally:
            # After an error the script reads no more images, but it writes the maps that are ready.
            readers.shutdown(cancel_futures=True)
    if notes.stopped_by is not None:
        raise notes.stopped_by
    for path in sorted(volumes.broken):
        warn(f"{path}: its map is not written, because slices of it cannot be read")
    return notes


def find_view(model_file: Path | Checkpoint, size: int | None, flags: Mapping[str, Any]) -> SliceView:
    """Returns how slices become images: as in the training, unless flags say otherwise. `size` is that of --size."""
    trained = DEFAULT_VIEW if isinstance(model_file, Path) else find_recipe(model_file, size=size).slice_view
    return replace(trained, **{name: value for name, value in flags.items() if value is not None})


def choose_share(shard: Shard, processes: Processes) -> tuple[Shard, str]:
    """Returns the share of this process, and the beginning of its lines."""
    label = f"process {processes.rank + 1} of {processes.world}: " if processes.world > 1 else ""
    label = f"share {shard}: {label}" if shard.count > 1 else label
    return Shard(shard.number + shard.count * processes.rank, shard.count * processes.world), label


def to_predicted_map(photo: Photo, probability: Tensor, minmax: bool, outputs: PredictOutputs) -> PredictedMap:
    kept = None if outputs.probability is None else probability.cpu().numpy()
    doubt = None
    if outputs.uncertainty:
        doubt = to_uint8(measure_entropy(probability, 0 if probability.ndim == 3 else None))
    # The labels of a volume are probabilities above a half, so its slices are never stretched.
    pixels = to_map_pixels(probability, minmax and not is_slice(photo.source.item.path), outputs)
    return PredictedMap(photo.source.item, pixels, kept, doubt, photo.disagreement)


def note_objectless(maps: Iterable[tuple[Photo, Tensor]], notes: PredictNotes) -> Iterator[tuple[Photo, Tensor]]:
    """Notes the images whose probabilities of the foreground are all at most 0.5. Slices of volumes do not count."""
    for photo, probability in maps:
        path = photo.source.item.path
        if probability.ndim == 2 and not is_slice(path) and probability.max() <= 0.5:
            notes.objectless.append(path.name)
        yield photo, probability


def note_doubts(maps: Iterable[PredictedMap], several: bool, notes: PredictNotes) -> Iterator[PredictedMap]:
    """Notes for each map how much the models disagree, or for one model the mean uncertainty, both in [0, 1]."""
    for map_ in maps:
        assert map_.uncertainty is not None
        doubt = map_.disagreement if several else float(map_.uncertainty.mean()) / 255
        notes.add_doubt(doubt, map_.item.path.name)
        yield map_
