"""Scores folders of maps on several processes. Only the numbers of each image are kept."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from ..classes import Classes
from ..data.check import refuse_constant
from ..data.pairs import list_images, pair_names
from ..data.reading import FOREGROUND, WAY_OUT
from ..data.slices import list_slice_pairs, list_slices
from ..data.volumes import is_volume
from ..errors import UserError, shortlist, warn
from ..slice_view import SliceView
from .aggregate import MethodResult, average_scores
from .columns import METRICS
from .pixels.histograms import reuse_freed_memory
from .pixels.medical_scores import SurfaceOptions
from .score_pair import ImageScore, ScoreJob, ScoreOptions, score_job

T = TypeVar("T")
WORST = "have the score 0, and as distance the diagonal of the image"
EMPTY_RULES = {  # value of --empty_masks -> what happens if both are empty, and if one is
    "worst": ("are left out", WORST),
    "skip": ("are left out", "are left out"),
    "perfect": ("have perfect scores", WORST),
}
BOUNDS = {"Fw": 1e-5}  # of `verify`; if several foreground pixels are equally near, the library may use any of them
BOUND = 1e-6  # of the other scores


@dataclass(frozen=True)
class Entry:
    """The maps of one method for one data set. `photographs` are for the report."""

    dataset: str
    method: str
    predictions: Path
    masks: Path
    photographs: Path | None = None
    slices: SliceView | None = None  # score each slice of a volume by itself. None: score volumes in 3D.


def score_entries(
    entries: Sequence[Entry], how: ScoreOptions, missing: str = "error", workers: int | None = None
) -> list[MethodResult]:
    """Returns the scores of each entry, in order. `workers` is the number of processes; None or 0: one for each core.

    A mask without prediction is an error, or counts as a black map (`zero`), or is left out (`skip`). Raises UserError
    if names do not match, before the first file is opened, or if files cannot be scored.
    """
    results = [match_predictions(entry, missing) for entry in entries]
    with score_pairs(score_job, results, how, workers) as scores:
        for result in results:
            add_scores_(result, scores, how)
    return results


@contextmanager
def score_pairs(
    score: Callable[[ScoreJob], T], results: Sequence[MethodResult], how: ScoreOptions, workers: int | None
) -> Iterator[Iterator[T]]:
    """Gives an iterator over the scores of all pairs of all `results`, in order."""
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}; it must be 0 or more")
    jobs = [ScoreJob(p, m, how) for result in results for p, m in zip(result.predictions, result.masks, strict=True)]
    with pool_map(workers or os.cpu_count() or 1) as run:
        yield iter(tqdm(run(score, jobs), total=len(jobs), unit="img", disable=None))


@contextmanager
def pool_map(workers: int) -> Iterator[Callable]:
    """Gives a `map` that uses several processes, or this process if `workers` is 1. An error cancels waiting jobs."""
    if workers == 1:
        yield map
        return
    cv2.setNumThreads(1)  # ends OpenCV's threads; a process that is forked while they run would wait for them forever
    pool = ProcessPoolExecutor(workers, initializer=prepare_worker)
    try:
        yield lambda function, jobs: pool.map(function, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends the pool
    cv2.setNumThreads(1)  # each process uses one core
    reuse_freed_memory()


def match_predictions(entry: Entry, missing: str) -> MethodResult:
    """Which files belong together, by stem, before any is opened."""
    if entry.predictions.resolve() == entry.masks.resolve():
        raise UserError(f"--pred_path and --gt_path are the same folder: {entry.masks}")
    masks, predictions = (list_images(folder, volumes=True) for folder in (entry.masks, entry.predictions))
    photographs = list_images(entry.photographs) if entry.photographs else {}
    _, spare, lonely = pair_names(predictions, masks)
    if lonely:
        text = f"{len(lonely)} of {len(masks)} masks have no prediction: {shortlist(lonely)}"
        if missing == "error":
            where = f"predictions looked for in {entry.predictions}"
            raise UserError(f"{text} ({where}; --missing zero or skip goes on without)")
        warn(f"{text}; {'scored as black maps' if missing == 'zero' else 'left out'}")
        if missing == "skip":
            masks = {stem: path for stem, path in masks.items() if stem in predictions}
    if not masks:
        raise UserError(f"no prediction in {entry.predictions} has the name of a mask in {entry.masks}")
    if spare:
        warn(f"{len(spare)} predictions have no mask in {entry.masks} and are left out: {shortlist(spare)}")
    files = [predictions.get(stem) for stem in masks], list(masks.values()), [photographs.get(stem) for stem in masks]
    rows = list(zip(masks, *files, strict=True))
    if entry.slices:
        rows = [part for row in rows for part in cut_row(row, entry.slices)]
    names, maps, truths, pictures = map(list, zip(*rows, strict=True))
    return MethodResult(entry.dataset, entry.method, names, maps, truths, pictures)


def cut_row(row: tuple[str, Path | None, Path, Path | None], view: SliceView) -> list[tuple]:
    """Returns a name, map, mask and photograph for each slice of a volume; for images the row itself."""
    _, prediction, mask, _ = row
    if not is_volume(mask):
        return [row]
    if prediction is None:
        return [(part.stem, None, part, None) for part in list_slices(mask, view)]
    return [(part.stem, map_, part, None) for map_, part in list_slice_pairs(prediction, mask, view)]


def add_scores_(result: MethodResult, scores: Iterator[ImageScore], how: ScoreOptions) -> None:
    """Adds the next `scores` to `result` and warns about unusual files. UserError for masks that are all constant."""
    notes = fill_(result, scores)
    if how.mask_threshold is not None and not isinstance(how.mask_threshold, Classes):
        empty, full = (set(notes.pop(name, ())) for name in ("empty", "full"))
        masks = zip(result.images, result.masks, strict=True)
        refuse_constant({mask: (image in full, image not in empty) for image, mask in masks}, how.mask_threshold)
    for note, images in notes.items():
        warn_about(note, images, result, how.medical)
    warn_undefined(result)


def fill_(result: MethodResult, scores: Iterator[ImageScore]) -> dict[str, list[str]]:
    """Puts the next `scores` into `result`, in order. Returns the names of images by note."""
    rows = []
    sums: dict[str, np.ndarray] = {}
    problems: dict[str, list[tuple[str, str]]] = {}
    notes: dict[str, list[str]] = {}
    for image, mask in zip(result.images, result.masks, strict=True):
        score = next(scores)
        rows.append(score.numbers)
        if score.problem:
            problems.setdefault(score.problem, []).append((mask.name, score.detail))
        for note in score.notes:
            notes.setdefault(note, []).append(image)
        for name, curve in score.curves.items():
            sums[name] = sums.get(name, 0) + curve  # summed at once, to save memory
    refuse_problems(problems, result)
    result.per_image = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    result.curves = {name: total / len(rows) for name, total in sums.items()}
    result.table = average_scores(result.per_image, result.curves)
    return notes


def warn_undefined(result: MethodResult) -> None:
    for key, values in result.per_image.items():
        if key in METRICS and METRICS[key].group == "medical":
            continue  # the notes on empty masks say it once for all columns
        if undefined := [result.images[i] for i in np.flatnonzero(np.isnan(values))]:
            count = f"{len(undefined)} images ({shortlist(undefined)})"
            warn(f"{label(result)}: {key} is not defined for {count}; its mean leaves them out")


def label(result: MethodResult) -> str:
    return f"{result.dataset} {result.method}".strip()


def refuse_problems(problems: dict[str, list[tuple[str, str]]], result: MethodResult) -> None:
    folder = result.masks[0].parent
    if files := problems.get("unreadable"):
        raise UserError(files[0][1] + (f" ({len(files) - 1} more files have an error)" if len(files) > 1 else ""))
    if files := problems.get("coding"):
        names = shortlist([name for name, _ in files])
        raise UserError(
            f"{len(files)} of {len(result.masks)} masks are not 0/255: {names} ({files[0][1]}; in {folder}); {WAY_OUT}"
        )
    if files := problems.get("size"):
        raise UserError(
            f"{len(files)} predictions have another size than their mask: {shortlist([d for _, d in files])}; "
            "predict with --test_gt_path, which gives each map the size of its mask, or score with --resize"
        )


def warn_about(note: str, images: list[str], result: MethodResult, medical: SurfaceOptions | None) -> None:
    count, names = len(images), shortlist(images)
    if note == "binary" and count < len(result.images):
        return  # a few maps may have two grey levels by chance; a whole folder may not
    rule = EMPTY_RULES[medical.empty_masks if medical else "worst"]
    texts = {
        "both empty": f"{count} masks are empty, and so are their maps: {names}; these pairs {rule[0]}",
        "one empty": f"either the mask or the map is empty in {count} pairs: {names}; these pairs {rule[1]}",
        "binary": f"all {count} predictions are binary; soft maps have other scores in most columns",
        "faint": f"{count} predictions have two grey levels, none above {FOREGROUND}, as if they were written as 0/1: "
        f"{names}; they are stretched before scoring, but should be 0/255",
        "resized": f"{count} predictions were resized to the size of their mask, bilinear: {names}",
        "soft": f"{count} masks have grey values between 0 and 255; above {FOREGROUND} is foreground: {names}",
        "jpeg": f"{count} masks are JPEGs with grey edges; above {FOREGROUND} is foreground: {names}; use PNG",
    }
    warn(f"{label(result)}: {texts[note]}")


def verify(results: Sequence[MethodResult], how: ScoreOptions, count: int) -> str:
    """Scores `count` pairs again with py-sod-metrics. Returns the largest difference. UserError if it is large."""
    pairs = [(result, i) for result in results for i in range(len(result.images))]
    sample = np.random.default_rng(0).permutation(len(pairs))[:count]
    library = replace(how, library=True)
    largest, where = 0.0, ""
    for result, i in (pairs[j] for j in sample):
        theirs = score_job(ScoreJob(result.predictions[i], result.masks[i], library)).numbers
        for key, value in theirs.items():
            ours = result.per_image[key][i]
            gap = 0.0 if np.isnan(value) and np.isnan(ours) else abs(ours - value)
            if not gap <= BOUNDS.get(key, BOUND):
                raise UserError(
                    f"{key} of {result.masks[i].name} is {ours!r}, but py-sod-metrics computes {value!r}; "
                    "report this pair, and score with --backend pysodmetrics"
                )
            if gap > largest:
                largest, where = gap, f" ({key} of {result.masks[i].name})"
    return f"verified {len(sample)} pairs with py-sod-metrics: largest difference {largest:.1e}{where}"
