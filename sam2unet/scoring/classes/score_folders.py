"""Scores folders of maps with several classes. Only the counts of each image are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from ...classes import IGNORED, Classes, UnknownValues
from ...data.images.masks import read_indices
from ...data.mask_values import describe_unknown_values
from ...data.volumes.open import is_volume
from ...data.volumes.slices import Slice, measure_pixel
from ...errors import UserError, shortlist, warn
from ..aggregate import MethodResult
from ..chunks import ChunkScores, gather_scores
from ..columns import Metric
from ..match import Entry, match_predictions
from ..parts import Parts
from ..pixels.medical_scores import SURFACE, SurfaceOptions, compare_surfaces
from ..score_folders import EMPTY_RULES, Problems, label, name_images, refuse_problems, score_pairs, score_share
from ..score_pair import ImageScore, ScoreJob, ScoreOptions, describe_sizes
from ..score_volume import find_indices, read_volume_pair, use_spacing
from .columns import define_class_columns
from .confusion import count_confusion, count_pixels, divide, score_classes, score_pixels


@dataclass(kw_only=True)
class ClassResult(MethodResult):
    """The scores of one method on one data set. `per_image` has accuracy, and IoU and Dice of each class.

    Attributes:
        counts: (N, 3, C) int64, the pixels of each class in both mask and map, in the mask, and in the map.
        confusion: (C, C) int64, the pixels of all images; rows are classes of the masks, columns those of the maps.
        surfaces: (N, 7, C) float64, the columns of `surface_scores` for each class. None if they were not computed.
    """

    classes: Classes
    counts: np.ndarray
    confusion: np.ndarray
    surfaces: np.ndarray | None = None

    def __post_init__(self) -> None:
        names = self.classes.names
        self.table = score_classes(self.counts, names, surfaces=self.surfaces)
        both, in_mask, _ = np.moveaxis(self.counts.sum(-1), -1, 0)
        self.per_image["accuracy"] = divide(both, in_mask)
        for key, values in zip(("IoU", "Dice"), score_pixels(self.counts), strict=True):
            self.per_image |= {f"{key}_{name}": column for name, column in zip(names, values.T, strict=True)}
        if self.surfaces is not None:
            for key, values in zip(SURFACE, np.moveaxis(self.surfaces, 1, 0), strict=True):
                self.per_image |= {f"{key}_{name}": column for name, column in zip(names, values.T, strict=True)}

    def define_columns(self) -> dict[str, Metric]:
        """Returns all columns that the result has, by key."""
        return define_class_columns(self.classes.names, self.surfaces is not None)


def score_class_folders(
    entries: Sequence[Entry],
    how: ScoreOptions,
    missing: str = "error",
    workers: int | None = None,
    parts: Parts | None = None,
) -> list[ClassResult]:
    """Returns the scores of each entry, in order. Arguments and errors are those of `score_entries`.

    `how.mask_threshold` has the classes. A missing prediction counts as a map of the first class if `missing` is
    `zero`. `how.medical` says how surfaces are compared; None to leave them out.
    """
    assert isinstance(how.mask_threshold, Classes)
    matches = [match_predictions(entry, missing) for entry in entries]
    if parts and parts.shard:
        score_share(count_pair, matches, how, workers, parts, partial(refuse_class_problems, how.mask_threshold))
        return []
    with score_pairs(count_pair, matches, how, workers, parts) as scores:
        results = [collect_counts(match, scores, how.mask_threshold) for match in matches]
    if how.medical:
        for result in results:
            warn_empty(result, how.medical.empty_masks)
    return results


def count_pair(job: ScoreJob) -> ImageScore:
    """Reads the files of a pair and counts. A file that cannot be scored is a `problem`, not an exception.

    The result has the numbers `counts` and `surfaces` of a `ClassResult`, and the confusion matrix as a curve.
    """
    classes, how = job.how.mask_threshold, job.how.medical
    assert isinstance(classes, Classes)
    try:
        if is_volume(job.mask):
            volume, truth = read_volume_pair(job.prediction, job.mask)
            mask = find_indices(truth, classes, job.mask)
            prediction = np.zeros_like(mask)
            if volume and job.prediction:
                prediction = find_indices(volume, classes, job.prediction)
            how = use_spacing(how, truth.spacing, job.mask)
            return count_arrays(prediction, mask, job, len(classes.items), how)
        if isinstance(job.mask, Slice):
            how = use_spacing(how, measure_pixel(job.mask), job.mask)
        mask = read_indices(job.mask, classes)
        prediction = np.zeros_like(mask) if job.prediction is None else read_indices(job.prediction, classes)
        if resized := prediction.shape != mask.shape:
            if not job.how.resize:
                name = (job.prediction or job.mask).name
                return ImageScore({}, {}, problem="size", detail=describe_sizes(name, prediction, mask))
            prediction = cv2.resize(prediction, mask.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return count_arrays(prediction, mask, job, len(classes.items), how, resized)
    except UnknownValues as e:
        return ImageScore({}, {}, problem="unknown", detail=(e.counts, e.path))
    except UserError as e:
        return ImageScore({}, {}, problem="unreadable", detail=str(e))


def count_arrays(
    prediction: np.ndarray,
    mask: np.ndarray,
    job: ScoreJob,
    count: int,
    how: SurfaceOptions | None,
    resized: bool = False,
) -> ImageScore:
    """Counts, and compares surfaces if `how` says how. The arrays are uint8 indices of images or of volumes."""
    row = mask.shape[-1]
    confusion = count_confusion(prediction.reshape(-1, row), mask.reshape(-1, row), count, job.prediction)
    numbers = {"counts": count_pixels(confusion)}
    if how:
        numbers["surfaces"] = measure_surfaces(prediction, mask, count, how)
    return ImageScore(numbers, {"confusion": confusion}, ("resized",) * resized)


def measure_surfaces(prediction: np.ndarray, mask: np.ndarray, count: int, how: SurfaceOptions) -> np.ndarray:
    """Returns the columns of `surface_scores` for each class, (7, C). Ignored pixels belong to no class."""
    known = mask != IGNORED
    scores = [compare_surfaces((prediction == c) & known, mask == c, how) for c in range(count)]
    return np.array([[score[key] for score in scores] for key in SURFACE])


def warn_empty(result: ClassResult, rule: str) -> None:
    """Says how often a class is in neither mask nor map, or in one of them, and what happens to such pairs."""
    present = (result.counts[:, 1:] > 0).sum(1)
    for count, what in ((0, "neither the mask nor the map"), (1, "only one of mask and map")):
        if pairs := int((present == count).sum()):
            warn(f"{label(result)}: a class is in {what} {pairs} times; for surfaces, these {EMPTY_RULES[rule][count]}")


def collect_counts(match: MethodResult, scores: Iterator[ChunkScores], classes: Classes) -> ClassResult:
    """Joins the next scores, one for each image of `match`. Warns about maps of another size and absent classes."""
    gathered = gather_scores(match, scores, partial(refuse_class_problems, classes))
    result = ClassResult(
        **vars(match),
        classes=classes,
        counts=gathered.values["counts"],
        confusion=gathered.sums["confusion"][0],
        surfaces=gathered.values.get("surfaces"),
    )
    if "resized" in gathered.notes:
        places = gathered.notes["resized"]
        count = f"{len(places)} predictions were resized to the size of their mask"
        warn(f"{label(result)}: {count}, nearest neighbour: {name_images(result, places)}")
    if absent := [name for name in classes.names if np.isnan(result.table[f"IoU_{name}"])]:
        warn(f"{label(result)}: no mask and no map has {shortlist(absent)}; such a class has no score")
    return result


def refuse_class_problems(classes: Classes, problems: Problems, result: MethodResult, checked: int) -> None:
    """Raises UserError. `checked` pairs have been read."""
    refuse_problems(problems, result, checked)
    bad = {path: UnknownValues(counts, path, classes) for _, (counts, path) in problems["unknown"]}
    folders = " and ".join(sorted({str(path.parent) for path in bad}))
    others = len(result.masks) - checked
    rest = f"; the other {others:,} pairs were not checked" if others else ""
    raise UserError(f"{len(bad)} files in {folders} {describe_unknown_values(bad, classes)}{rest}")
