"""One map and one mask, from files to scores. Runs in worker processes, so results are small and plain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from ..data.reading import FOREGROUND, MaskCoding, open_image, read_mask, to_8_bit
from ..errors import UserError
from ..recipe import ForegroundRule
from .aggregate import curves, mean_numbers
from .pixel_scores import image_scores, mirror_scores
from .pysod import correction_effort, library_scores


@dataclass(frozen=True)
class ScoreOptions:
    """How maps are scored.

    Attributes:
        mask_threshold: which mask values are foreground; None for 0/255 masks.
        resize: bring a map of another size to its mask's, bilinear; else that is a problem.
        library: score by py-sod-metrics alone.
        plain, mirror, effort: which groups of metrics to compute: all but the next two's, the mirror set's, and the
            human correction effort, which takes longer than all others together.
    """

    mask_threshold: ForegroundRule = None
    resize: bool = False
    library: bool = False
    plain: bool = True
    mirror: bool = False
    effort: bool = False


class ScoreJob(NamedTuple):
    prediction: Path | None  # None: missing, and scored as a black map
    mask: Path
    how: ScoreOptions


class ImageScore(NamedTuple):
    """A pair's scores; `problem` and `detail` in words instead where it has none."""

    numbers: dict[str, float]
    curves: dict[str, ndarray]
    notes: tuple[str, ...] = ()
    problem: str = ""
    detail: str = ""


def score_job(job: ScoreJob) -> ImageScore:
    try:
        mask = np.asarray(read_mask(job.mask, job.how.mask_threshold))
    except MaskCoding as e:
        return ImageScore({}, {}, problem="coding", detail=e.found)
    except UserError as e:
        return ImageScore({}, {}, problem="unreadable", detail=str(e))
    notes = constant_notes(mask) if job.how.mask_threshold is not None else ()
    if job.prediction is None:
        return score_arrays(np.zeros_like(mask), mask, job.how, notes)
    try:
        prediction = read_prediction(job.prediction)
    except UserError as e:
        return ImageScore({}, {}, problem="unreadable", detail=str(e))
    notes += peculiarities(prediction, mask, job.mask)
    if prediction.shape != mask.shape:
        sizes = f"{prediction.shape[1]}x{prediction.shape[0]}, mask {mask.shape[1]}x{mask.shape[0]}"
        if not job.how.resize:
            return ImageScore({}, {}, problem="size", detail=f"{job.prediction.name} ({sizes})")
        prediction = cv2.resize(prediction, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        notes += ("resized",)
    return score_arrays(prediction, mask, job.how, notes)


def score_arrays(prediction: ndarray, mask: ndarray, how: ScoreOptions, notes: tuple[str, ...]) -> ImageScore:
    """Two uint8 (H, W)."""
    found: dict[str, float] = {}
    lines: dict[str, ndarray] = {}
    scores = []
    if how.plain:
        scores.append(library_scores(prediction, mask) if how.library else image_scores(prediction, mask))
    if how.mirror:
        scores.append(mirror_scores(prediction, mask))
    for each in scores:
        found |= mean_numbers(each)
        lines |= curves(each)
    if how.effort:
        found["dichotomous_HCE"] = correction_effort(prediction, mask)
    return ImageScore(found, lines, notes)


def read_prediction(path: Path) -> ndarray:
    """8-bit grey (H, W)."""
    with open_image(path) as image:
        return np.asarray(to_8_bit(image, path).convert("L"))


def constant_notes(mask: ndarray) -> tuple[str, ...]:
    """Whether a mask of 0 and 255 is `empty` or `full`."""
    return ("empty",) * (not mask.any()) or ("full",) * bool(mask.all())


def peculiarities(prediction: ndarray, mask: ndarray, mask_path: Path) -> tuple[str, ...]:
    """What a user should hear of although it can be scored."""
    notes = []
    levels = Image.fromarray(prediction).histogram()
    present = [level for level, count in enumerate(levels) if count]
    if len(present) == 2:
        notes.append("faint" if present[1] <= FOREGROUND else "binary")
    middle = Image.fromarray(mask).histogram()[1:255]
    if any(middle):
        notes.append("jpeg" if mask_path.suffix.lower() in (".jpg", ".jpeg") else "soft")
    return tuple(notes)
