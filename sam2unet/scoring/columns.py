"""What the numbers are called, what they mean, and which of them each task's papers report."""

from __future__ import annotations

import math
from typing import NamedTuple


class Metric(NamedTuple):
    title: str
    legend: str
    higher: bool = True  # is better


# Keys are those of results.json. "mean" and "max" are over 256 thresholds of the curve's mean over images.
METRICS = {
    "S": Metric("S", "structure measure, alpha 0.5: likeness of objects and of regions, half each"),
    "E_adaptive": Metric("adpE", "enhanced-alignment measure, cut at twice the map's mean"),
    "E_mean": Metric("mE", "enhanced-alignment measure, mean over 256 thresholds"),
    "E_max": Metric("maxE", "enhanced-alignment measure, best threshold of the data set's mean curve"),
    "F_adaptive": Metric("adpF", "F-measure (beta² 0.3), cut at twice the map's mean"),
    "F_mean": Metric("mF", "F-measure (beta² 0.3), mean over 256 thresholds"),
    "F_max": Metric("maxF", "F-measure (beta² 0.3), best threshold of the mean of the images' curves"),
    "F_max_dataset": Metric("dsF", "F-measure (beta² 0.3) of the images' mean precision and recall, best threshold"),
    "F1_adaptive": Metric("adpF1", "F-measure (beta² 1), cut at twice the map's mean"),
    "F1_mean": Metric("mF1", "F-measure (beta² 1), mean over 256 thresholds"),
    "F1_max": Metric("maxF1", "F-measure (beta² 1), best threshold of the mean of the images' curves"),
    "Fw": Metric("wF", "weighted F-measure, beta² 1: errors count by where they are"),
    "MAE": Metric("MAE", "mean absolute difference between map and mask, in [0, 1]", higher=False),
    "IoU_mean": Metric("mIoU", "intersection over union, mean over 256 thresholds"),
    "IoU_05": Metric("IoU.5", "intersection over union, cut at 0.5"),
    "Dice_mean": Metric("mDice", "Dice, mean over 256 thresholds"),
    "Dice_05": Metric("Dice.5", "Dice, cut at 0.5"),
    "BER": Metric("BER", "balanced error rate, cut at 0.5: mean of the two classes' error rates", higher=False),
    "precision": Metric("P", "precision, cut at 0.5"),
    "recall": Metric("R", "recall, cut at 0.5"),
    "dichotomous_HCE": Metric("HCE", "human correction effort: clicks to mend the map cut at 0.5", higher=False),
    "mirror_IoU": Metric("IoU", "mirror: intersection over union at grey 127.5 of the map as stored"),
    "mirror_F_max": Metric("maxF", "mirror: F-measure (beta² 0.3) of mean precision and recall, best threshold"),
    "mirror_MAE": Metric("MAE", "mirror: mean absolute difference, the map stretched", higher=False),
    "mirror_BER": Metric("BER", "mirror: balanced error rate at grey 127.5", higher=False),
    "mirror_accuracy": Metric("acc", "mirror: share of the foreground found at grey 127.5"),
}

RELEASED = ("Dice_mean", "IoU_mean", "S", "Fw", "F_adaptive", "E_mean", "MAE")
# The columns of each task's papers; `all` is everything that needs no protocol of its own.
PROTOCOLS = {
    "released": RELEASED,
    "camouflaged": ("S", "F_adaptive", "E_mean", "MAE"),
    "salient": ("S", "E_mean", "MAE"),
    "marine": ("IoU_mean", "S", "Fw", "E_mean", "MAE"),
    "polyp": ("Dice_mean", "IoU_mean"),
    "mirror": ("mirror_IoU", "mirror_F_max", "mirror_MAE", "mirror_BER", "mirror_accuracy"),
    "dichotomous": ("S", "Fw", "E_mean", "MAE", "dichotomous_HCE"),
    "remote_sensing": ("S", "F_mean", "F_max", "E_mean", "MAE"),
    "all": tuple(key for key in METRICS if not key.startswith(("mirror_", "dichotomous_"))),
}


def is_better(metric: Metric, new: float, old: float | None) -> bool:
    """Whether `new` is the best so far; a value that is not defined never is."""
    if math.isnan(new) or old is None or math.isnan(old):
        return not math.isnan(new)
    return new > old if metric.higher else new < old
