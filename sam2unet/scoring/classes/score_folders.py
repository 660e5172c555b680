"""Scores folders of maps with several classes. Only the counts of each image are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ...classes import IGNORED, Classes, UnknownValues
from ...data.check import describe_unknown_values
from ...data.reading import read_indices
from ...data.slices import Slice, Source, measure_pixel
from ...data.volumes import is_volume
from ...errors import UserError, shortlist, warn
from ..aggregate import MethodResult
from ..columns import Metric
from ..pixels.medical_scores import SURFACE, SurfaceOptions, compare_surfaces
from ..score_folders import EMPTY_RULES, Entry, label, match_predictions, refuse_problems, score_pairs
from ..score_pair import ScoreJob, ScoreOptions, describe_sizes
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


class PairCounts(NamedTuple):
    """The confusion matrix of a pair; None if there is a problem, see `score_pair.ImageScore`."""

    confusion: np.ndarray | None
    surfaces: np.ndarray | None = None  # (7, C)
    resized: bool = False
    problem: str = ""
    detail: str = ""
    unknown: tuple[dict[int, int], Source] | None = None  # the first arguments of `UnknownValues`


def score_class_folders(
    entries: Sequence[Entry],
    classes: Classes,
    missing: str = "error",
    resize: bool = False,
    workers: int | None = None,
    surfaces: SurfaceOptions | None = None,
) -> list[ClassResult]:
    """Returns the scores of each entry, in order. Arguments and errors are those of `score_entries`.

    A missing prediction counts as a map of the first class if `missing` is `zero`. `surfaces` says how surfaces are
    compared; None to leave them out.
    """
    matches = [match_predictions(entry, missing) for entry in entries]
    with score_pairs(count_pair, matches, ScoreOptions(classes, resize, medical=surfaces), workers) as pairs:
        results = [collect_counts(match, pairs, classes) for match in matches]
    if surfaces:
        for result in results:
            warn_empty(result, surfaces.empty_masks)
    return results


def count_pair(job: ScoreJob) -> PairCounts:
    """Reads the files of a pair and counts. A file that cannot be scored is a `problem`, not an exception."""
    classes, how = job.how.mask_threshold, job.how.medical
    assert isinstance(classes, Classes)
    try:
        if is_volume(job.mask):
            volume, truth = read_volume_pair(job.prediction, job.mask)
            prediction = find_indices(volume, classes, job.prediction or job.mask)
            mask = find_indices(truth, classes, job.mask)
            how = use_spacing(how, truth.spacing, job.mask)
            return count_arrays(prediction, mask, job, len(classes.items), how)
        if isinstance(job.mask, Slice):
            how = use_spacing(how, measure_pixel(job.mask), job.mask)
        mask = read_indices(job.mask, classes)
        prediction = np.zeros_like(mask) if job.prediction is None else read_indices(job.prediction, classes)
        if resized := prediction.shape != mask.shape:
            if not job.how.resize:
                name = (job.prediction or job.mask).name
                return PairCounts(None, problem="size", detail=describe_sizes(name, prediction, mask))
            prediction = cv2.resize(prediction, mask.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return count_arrays(prediction, mask, job, len(classes.items), how, resized)
    except UnknownValues as e:
        return PairCounts(None, problem="unknown", unknown=(e.counts, e.path))
    except UserError as e:
        return PairCounts(None, problem="unreadable", detail=str(e))


def count_arrays(
    prediction: np.ndarray,
    mask: np.ndarray,
    job: ScoreJob,
    count: int,
    how: SurfaceOptions | None,
    resized: bool = False,
) -> PairCounts:
    """Counts, and compares surfaces if `how` says how. The arrays are uint8 indices of images or of volumes."""
    row = mask.shape[-1]
    confusion = count_confusion(prediction.reshape(-1, row), mask.reshape(-1, row), count, job.prediction)
    return PairCounts(confusion, measure_surfaces(prediction, mask, count, how) if how else None, resized)


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


def collect_counts(match: MethodResult, pairs: Iterator[PairCounts], classes: Classes) -> ClassResult:
    """Adds the next pairs up, one for each image of `match`. Warns about maps of another size and absent classes."""
    pixels: list[np.ndarray] = []
    surfaces: list[np.ndarray] = []
    resized: list[str] = []
    problems: dict[str, list[tuple[str, str]]] = {}
    bad: dict[Source, UnknownValues] = {}
    confusion = np.zeros((len(classes.items), len(classes.items)), np.int64)
    for image, mask in zip(match.images, match.masks, strict=True):
        pair = next(pairs)
        if pair.unknown:
            bad[pair.unknown[1]] = UnknownValues(*pair.unknown, classes)
        if pair.problem:
            problems.setdefault(pair.problem, []).append((mask.name, pair.detail))
        elif not problems and pair.confusion is not None:
            confusion += pair.confusion
            pixels.append(count_pixels(pair.confusion))
            surfaces += [] if pair.surfaces is None else [pair.surfaces]
        resized += [image] * pair.resized
    refuse_problems(problems, match)
    if bad:
        folders = " and ".join(sorted({str(path.parent) for path in bad}))
        raise UserError(f"{len(bad)} files in {folders} {describe_unknown_values(bad, classes)}")
    counts, stacked = np.stack(pixels), np.stack(surfaces) if surfaces else None
    result = ClassResult(**vars(match), classes=classes, counts=counts, confusion=confusion, surfaces=stacked)
    if resized:
        count = f"{len(resized)} predictions were resized to the size of their mask"
        warn(f"{label(result)}: {count}, nearest neighbour: {shortlist(resized)}")
    if absent := [name for name in classes.names if np.isnan(result.table[f"IoU_{name}"])]:
        warn(f"{label(result)}: no mask and no map has {shortlist(absent)}; such a class has no score")
    return result
