"""Scores one map against one mask, from files to numbers. This runs in worker processes, so results are small."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy import ndarray
from PIL import Image

from ..classes import Classes
from ..data.images.masks import FOREGROUND, MaskCoding, read_grey, read_mask
from ..data.volumes.open import is_volume
from ..data.volumes.slices import Slice, Source, measure_pixel
from ..errors import UserError
from ..recipe import MaskRule
from .aggregate import to_curves, to_numbers
from .columns import METRICS
from .pixels.calibration import score_calibration
from .pixels.image_scores import ImageScores, score_image
from .pixels.library import count_corrections, score_by_library
from .pixels.medical_scores import SurfaceOptions, note_empty, score_medical
from .pixels.mirror_scores import MirrorScores, score_mirror
from .score_volume import find_foreground, read_volume_pair, use_spacing


@dataclass(frozen=True)
class ScoreOptions:
    """How maps are scored."""

    mask_threshold: MaskRule = None  # which mask values are foreground, or the classes; None for 0/255 masks
    resize: bool = False  # resize a map to the size of its mask, bilinear. If False, another size is a problem.
    library: bool = False  # use only py-sod-metrics
    plain: bool = True  # compute all metrics that belong to no other group
    mirror: bool = False  # compute the metrics of the mirror papers
    effort: bool = False  # compute the human correction effort. It takes longer than all other metrics together.
    calibration: bool = False  # compute how well maps are probabilities
    medical: SurfaceOptions | None = None  # compute Dice, IoU and distances between surfaces

    @classmethod
    def choose(
        cls, columns: Iterable[str], plain: bool = False, surfaces: SurfaceOptions | None = None, **options: Any
    ) -> "ScoreOptions":
        """Returns options that compute the groups of metrics that `columns` need.

        `plain` adds what the report and the plots show: the groups `plain` and `calibration`.
        """
        groups = {METRICS[key].group for key in columns}
        options["calibration"] = plain or "calibration" in groups
        options["medical"] = (surfaces or SurfaceOptions()) if "medical" in groups else None
        return cls(plain=plain or "plain" in groups, mirror="mirror" in groups, effort="effort" in groups, **options)


class ScoreJob(NamedTuple):
    prediction: Source | None  # None if it is missing: it is scored as a black map
    mask: Source
    how: ScoreOptions


class ImageScore(NamedTuple):
    """The scores of a pair."""

    numbers: dict[str, Any]  # float, or an array
    curves: dict[str, ndarray]  # what is added over the pairs, by name, for example curves (256,)
    notes: tuple[str, ...] = ()  # names of unusual properties, see `score_folders.warn_about`
    # problem and detail: why the pair has no scores; empty if it has scores
    problem: str = ""
    detail: Any = ""  # a text for most problems


def score_job(job: ScoreJob) -> ImageScore:
    """Reads the files of a pair and scores it. A file that cannot be scored is a `problem`, not an exception."""
    if is_volume(job.mask):
        return score_volume(job)
    try:
        if isinstance(job.mask, Slice):
            how = replace(job.how, medical=use_spacing(job.how.medical, measure_pixel(job.mask), job.mask))
            job = job._replace(how=how)
        mask = np.asarray(read_mask(job.mask, job.how.mask_threshold))
    except MaskCoding as e:
        return ImageScore({}, {}, problem="coding", detail=e.found)
    except UserError as e:
        return ImageScore({}, {}, problem="unreadable", detail=str(e))
    notes = note_constant(mask) if job.how.mask_threshold is not None else ()
    if job.prediction is None:
        return score_arrays(np.zeros_like(mask), mask, job.how, notes)
    try:
        prediction = np.asarray(read_grey(job.prediction))
    except UserError as e:
        return ImageScore({}, {}, problem="unreadable", detail=str(e))
    notes += note_unusual(prediction, mask, job.mask)
    if prediction.shape != mask.shape:
        if not job.how.resize:
            return ImageScore({}, {}, problem="size", detail=describe_sizes(job.prediction.name, prediction, mask))
        prediction = cv2.resize(prediction, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        notes += ("resized",)
    return score_arrays(prediction, mask, job.how, notes)


def score_volume(job: ScoreJob) -> ImageScore:
    """Scores a volume in 3D. A file that cannot be scored is a `problem`."""
    how = job.how
    try:
        if how.medical is None or how.plain or how.mirror or how.effort:
            raise UserError(
                f"{job.mask} is a volume, which needs --protocol medical or surface, without --report and --plots; "
                "or give --slices"
            )
        prediction, mask = read_volume_pair(job.prediction, job.mask)
        surfaces = use_spacing(how.medical, mask.spacing, job.mask)
        assert surfaces is not None and not isinstance(how.mask_threshold, Classes)
        truth = find_foreground(mask, how.mask_threshold, job.mask)
        predicted = np.zeros_like(truth)
        if prediction and job.prediction:
            predicted = find_foreground(prediction, how.mask_threshold, job.prediction)
        return ImageScore(score_medical(predicted, truth, surfaces), {}, note_empty(predicted, truth))
    except MaskCoding as e:
        return ImageScore({}, {}, problem="coding", detail=e.found)
    except UserError as e:
        return ImageScore({}, {}, problem="unreadable", detail=str(e))


def describe_sizes(name: str, prediction: ndarray, mask: ndarray) -> str:
    sizes = f"{prediction.shape[1]}x{prediction.shape[0]}, mask {mask.shape[1]}x{mask.shape[0]}"
    return f"{name} ({sizes})"


def score_arrays(prediction: ndarray, mask: ndarray, how: ScoreOptions, notes: tuple[str, ...]) -> ImageScore:
    """Scores a map and a mask, both (H, W) uint8."""
    numbers: dict[str, float] = {}
    curves: dict[str, ndarray] = {}
    scores: list[ImageScores | MirrorScores] = []
    if how.plain:
        scores.append(score_by_library(prediction, mask) if how.library else score_image(prediction, mask))
    if how.mirror:
        scores.append(score_mirror(prediction, mask))
    for group in scores:
        numbers |= to_numbers(group)
        curves |= to_curves(group)
    if how.calibration:
        calibration, counts = score_calibration(prediction, mask)
        numbers |= calibration
        curves |= counts
    if how.effort:
        numbers["dichotomous_HCE"] = count_corrections(prediction, mask)
    if how.medical:
        masks = prediction > FOREGROUND, mask > FOREGROUND
        numbers |= score_medical(*masks, how.medical)
        notes += note_empty(*masks)
    return ImageScore(numbers, curves, notes)


def note_constant(mask: ndarray) -> tuple[str, ...]:
    """Notes whether a mask of 0 and 255 is `empty` or `full`."""
    return ("empty",) * (not mask.any()) or ("full",) * bool(mask.all())


def note_unusual(prediction: ndarray, mask: ndarray, mask_path: Source) -> tuple[str, ...]:
    """Notes properties that can be scored but that the user should know."""
    notes = []
    levels = Image.fromarray(prediction).histogram()
    present = [level for level, count in enumerate(levels) if count]
    if len(present) == 2:
        notes.append("faint" if present[1] <= FOREGROUND else "binary")
    middle = Image.fromarray(mask).histogram()[1:255]
    if any(middle):
        notes.append("jpeg" if mask_path.suffix.lower() in (".jpg", ".jpeg") else "soft")
    return tuple(notes)
