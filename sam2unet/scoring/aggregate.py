"""The scores of one method on one data set, and how scores of images become the numbers of the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.volumes.slices import Source
from .columns import METRICS
from .pixels.calibration import measure_ece
from .pixels.histograms import f_measure
from .pixels.image_scores import ImageScores
from .pixels.mirror_scores import MirrorScores

CURVES = ("E", "F", "F1", "IoU", "Dice", "BER", "precision", "recall")
# These metrics are not means over images. They come from curves that are averaged over images first.
CURVE_METRICS = {  # and the curves that they need
    "E_max": ("E",),
    "F_max": ("F",),
    "F1_max": ("F1",),
    "F_max_dataset": ("precision", "recall"),
    "mirror_F_max": ("mirror_precision", "mirror_recall"),
    "ECE": ("level_pixels", "level_foreground"),
}


@dataclass
class MethodResult:
    """The scores of one method on one data set. All lists and arrays are in the order of `images`."""

    dataset: str
    method: str
    images: Sequence[str]  # names of the mask files without extension
    predictions: Sequence[Source | None] = ()  # the map files; None where one is missing
    masks: Sequence[Source] = ()  # the mask files
    photographs: Sequence[Source | None] = ()  # for the gallery; None where there is none
    # metric key of `columns.METRICS` -> (N,) float64; NaN where the metric is not defined
    per_image: dict[str, np.ndarray] = field(default_factory=dict)
    # name (E, F, F1, IoU, Dice, BER, precision, recall) -> (256,), means over images. Entry i belongs to the
    # threshold "stretched 8-bit map >= 255 - i". The names level_pixels and level_foreground: see `pixels.calibration`.
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    table: dict[str, float] = field(default_factory=dict)  # metric key -> the number of the table, full precision
    image_curves: dict[str, np.ndarray] = field(default_factory=dict)  # (N, 256); only if a function asks for them


def name_folders(datasets: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Returns a name for the method of each folder: the last part of its path that is not the name of the data set.

    Parts at the end that all folders of a data set have in common are left out: `a/maps` and `b/maps` are a and b.
    """
    names, pairs = [], [(d, folder.absolute().parts[::-1]) for d, folder in zip(datasets, folders, strict=True)]
    for dataset, parts in pairs:
        group, same = {other for name, other in pairs if name == dataset}, 0
        while len(group) > 1 and len({other[same : same + 1] for other in group}) == 1:
            same += 1
        names.append(next((part for part in parts[same:] if part != dataset), parts[0]))
    return names


def to_numbers(scores: ImageScores | MirrorScores) -> dict[str, float]:
    """Returns the values of one image for all metrics of `METRICS` that are means over images."""
    if isinstance(scores, MirrorScores):
        return {f"mirror_{name}": getattr(scores, name) for name in ("IoU", "MAE", "BER", "accuracy")}
    curve_means = {
        f"{name}_mean": float(getattr(scores, f"{name}_curve").mean()) for name in ("E", "F", "F1", "IoU", "Dice")
    }
    names = ("S", "Fw", "MAE", "E_adaptive", "F_adaptive", "F1_adaptive", "IoU_05", "Dice_05")
    renamed = {"BER": scores.BER_05, "precision": scores.precision_05, "recall": scores.recall_05}
    return {name: getattr(scores, name) for name in names} | curve_means | renamed


def to_curves(scores: ImageScores | MirrorScores) -> dict[str, np.ndarray]:
    """Returns the curves of one image by name, (256,) each."""
    if isinstance(scores, MirrorScores):
        return {"mirror_precision": scores.precision_curve, "mirror_recall": scores.recall_curve}
    return {name: getattr(scores, f"{name}_curve") for name in CURVES}


def average_scores(per_image: Mapping[str, np.ndarray], mean_curves: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the numbers of the table in the order of `METRICS`, from (N,) scores of images and (256,) mean curves.

    A mean leaves out the images where the metric is not defined, NaN. A maximum is that of a mean curve.
    """
    numbers = {key: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for key, v in per_image.items()}
    for name in ("E", "F", "F1"):
        if name in mean_curves:
            numbers[f"{name}_max"] = float(mean_curves[name].max())
    for key, prefix in (("F_max_dataset", ""), ("mirror_F_max", "mirror_")):
        if f"{prefix}precision" in mean_curves:
            f = f_measure(mean_curves[f"{prefix}precision"], mean_curves[f"{prefix}recall"], 0.3)
            numbers[key] = float(f.max())
    if "level_pixels" in mean_curves:
        numbers["ECE"] = measure_ece(mean_curves["level_pixels"], mean_curves["level_foreground"])
    return {key: numbers[key] for key in METRICS if key in numbers}
