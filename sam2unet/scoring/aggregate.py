"""From the scores of images to the numbers of the table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .columns import METRICS
from .pixel_scores import ImageScores, MirrorScores, mirror_f

CURVES = ("E", "F", "F1", "IoU", "Dice", "BER", "precision", "recall")
MIRROR_CURVES = ("mirror_precision", "mirror_recall")
# Not means over images: made of curves that are averaged over images first.
OF_CURVES = ("E_max", "F_max", "F1_max", "F_max_dataset", "mirror_F_max")


def mean_numbers(scores: ImageScores | MirrorScores) -> dict[str, float]:
    """One image's value for every metric of `METRICS` that is a mean over images."""
    if isinstance(scores, MirrorScores):
        return {f"mirror_{name}": getattr(scores, name) for name in ("IoU", "MAE", "BER", "accuracy")}
    means = {f"{name}_mean": float(getattr(scores, f"{name}_curve").mean()) for name in ("E", "F", "F1", "IoU", "Dice")}
    same = ("S", "Fw", "MAE", "E_adaptive", "F_adaptive", "F1_adaptive", "IoU_05", "Dice_05")
    cuts = {"BER": scores.BER_05, "precision": scores.precision_05, "recall": scores.recall_05}
    return {name: getattr(scores, name) for name in same} | means | cuts


def curves(scores: ImageScores | MirrorScores) -> dict[str, np.ndarray]:
    """One image's curves by name, (256,) each."""
    if isinstance(scores, MirrorScores):
        return {"mirror_precision": scores.precision_curve, "mirror_recall": scores.recall_curve}
    return {name: getattr(scores, f"{name}_curve") for name in CURVES}


def mean_table(per_image: Mapping[str, np.ndarray], mean_curves: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The table's numbers in the order of `METRICS`: means over the images where a metric is defined, and maxima.

    Args:
        per_image: by metric key, (N,), NaN where it is not defined.
        mean_curves: by name, (256,).
    """
    found = {key: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for key, v in per_image.items()}
    for name in ("E", "F", "F1"):
        if name in mean_curves:
            found[f"{name}_max"] = float(mean_curves[name].max())
    if "precision" in mean_curves:
        precision, recall = mean_curves["precision"], mean_curves["recall"]
        weighted = 0.3 * precision + recall
        f = np.divide(1.3 * precision * recall, weighted, out=np.zeros(256), where=weighted > 0)
        found["F_max_dataset"] = float(f.max())
    if "mirror_precision" in mean_curves:
        found["mirror_F_max"] = mirror_f(mean_curves["mirror_precision"], mean_curves["mirror_recall"])
    return {key: found[key] for key in METRICS if key in found}
