"""Scores sets of maps over a pool of processes. Of each image its numbers are kept, nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..data.check import refuse_constant
from ..data.pairs import list_images, pair_names
from ..data.reading import FOREGROUND, WAY_OUT
from ..errors import UserError, shortlist, warn
from .aggregate import mean_table
from .pixel_scores import reuse_freed_memory
from .results import MethodResult
from .score_pair import ImageScore, ScoreJob, ScoreOptions, score_job


@dataclass(frozen=True)
class Entry:
    """One method's maps for one data set; `photographs` are for the report."""

    dataset: str
    method: str
    predictions: Path
    masks: Path
    photographs: Path | None = None


def score_entries(
    entries: Sequence[Entry], how: ScoreOptions, missing: str = "error", workers: int | None = None
) -> list[MethodResult]:
    """The scores of every entry, in order. UserError for what does not fit: names at once, contents once all are read.

    Args:
        missing: what a mask without prediction is: an `error`, a black map (`zero`), or left out (`skip`).
        workers: processes; None or 0 for one per core.
    """
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}; it must be 0 or above")
    results = [match_predictions(entry, missing) for entry in entries]
    jobs = [ScoreJob(p, m, how) for result in results for p, m in zip(result.predictions, result.masks, strict=True)]
    with pool_map(workers or os.cpu_count() or 1) as run:
        scored = tqdm(run(score_job, jobs), total=len(jobs), unit="img", disable=None)
        remaining = iter(scored)
        for result in results:
            collect(result, remaining, how)
    return results


@contextmanager
def pool_map(workers: int) -> Iterator[Callable]:
    """`map` over processes, or in this one if `workers` is 1; what has not begun is dropped on an error."""
    if workers == 1:
        yield map
        return
    cv2.setNumThreads(1)  # ends OpenCV's threads; a process forked while they run waits for them for ever
    pool = ProcessPoolExecutor(workers, initializer=prepare_worker)
    try:
        yield lambda function, jobs: pool.map(function, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    cv2.setNumThreads(1)  # the cores are the processes'
    reuse_freed_memory()


def match_predictions(entry: Entry, missing: str) -> MethodResult:
    """Which files belong together, by stem, before any is opened."""
    if entry.predictions.resolve() == entry.masks.resolve():
        raise UserError(f"--pred_path and --gt_path are the same folder: {entry.masks}")
    masks, predictions = list_images(entry.masks), list_images(entry.predictions)
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
    return MethodResult(
        dataset=entry.dataset,
        method=entry.method,
        images=list(masks),
        predictions=[predictions.get(stem) for stem in masks],
        masks=list(masks.values()),
        photographs=[photographs.get(stem) for stem in masks],
        per_image={},
        curves={},
    )


def collect(result: MethodResult, scored: Iterator[ImageScore], how: ScoreOptions) -> None:
    """Fill in `result` from the next of `scored`; UserError if any had a problem, warnings for what is peculiar."""
    notes = fill(result, scored)
    if how.mask_threshold is not None:
        empty, full = (set(notes.pop(name, ())) for name in ("empty", "full"))
        masks = zip(result.images, result.masks, strict=True)
        refuse_constant({mask: (image in full, image not in empty) for image, mask in masks}, how.mask_threshold)
    for note, images in notes.items():
        warn_of(note, images, result)
    warn_of_undefined(result)


def fill(result: MethodResult, scored: Iterator[ImageScore]) -> dict[str, list[str]]:
    """Put the next of `scored` into `result`, in order; of each its curves are added up and forgotten.

    Returns:
        what was noted, and of which images.

    Raises:
        UserError: any had a problem.
    """
    rows, sums, problems, notes = [], {}, {}, {}
    for image, mask in zip(result.images, result.masks, strict=True):
        one = next(scored)
        rows.append(one.numbers)
        if one.problem:
            problems.setdefault(one.problem, []).append((mask.name, one.detail))
        for note in one.notes:
            notes.setdefault(note, []).append(image)
        for name, curve in one.curves.items():
            sums[name] = sums.get(name, 0) + curve
    refuse_problems(problems, result)
    result.per_image = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    result.curves = {name: total / len(rows) for name, total in sums.items()}
    result.table = mean_table(result.per_image, result.curves)
    return notes


def warn_of_undefined(result: MethodResult) -> None:
    for key, values in result.per_image.items():
        if undefined := [result.images[i] for i in np.flatnonzero(np.isnan(values))]:
            count = f"{len(undefined)} images ({shortlist(undefined)})"
            warn(f"{label(result)}: {key} is not defined for {count}; its mean leaves them out")


def label(result: MethodResult) -> str:
    return f"{result.dataset} {result.method}".strip()


def refuse_problems(problems: dict[str, list[tuple[str, str]]], result: MethodResult) -> None:
    folder = result.masks[0].parent
    if found := problems.get("unreadable"):
        raise UserError(found[0][1] + (f" ({len(found) - 1} more have an error too)" if len(found) > 1 else ""))
    if found := problems.get("coding"):
        names = shortlist([name for name, _ in found])
        raise UserError(
            f"{len(found)} of {len(result.masks)} masks are not 0/255: {names} ({found[0][1]}; in {folder}); {WAY_OUT}"
        )
    if found := problems.get("size"):
        raise UserError(
            f"{len(found)} predictions have another size than their mask: "
            f"{shortlist([d for _, d in found])}; predict with "
            "--test_gt_path, which gives each map its mask's size, or score with --resize (bilinear)"
        )


def warn_of(note: str, images: list[str], result: MethodResult) -> None:
    count, names = len(images), shortlist(images)
    if note == "binary" and count < len(result.images):
        return  # a few maps may well have two greys; a whole folder of them is no accident
    words = {
        "binary": f"all {count} predictions are binary; soft maps score otherwise in most columns",
        "faint": f"{count} predictions hold two greys, none above {FOREGROUND}, as if written as 0/1: {names}; they "
        "are stretched before scoring, but should be 0/255",
        "resized": f"{count} predictions were resized to their mask's size, bilinear: {names}",
        "soft": f"{count} masks hold greys between 0 and 255; above {FOREGROUND} is foreground: {names}",
        "jpeg": f"{count} masks are JPEGs with grey fringes; above {FOREGROUND} is foreground: {names}; use PNG",
    }
    warn(f"{label(result)}: {words[note]}")
