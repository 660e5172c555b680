"""The released table, computed by py-sod-metrics, which defines the numbers."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from py_sod_metrics import (
    MAE,
    DICEHandler,
    Emeasure,
    FmeasureHandler,
    FmeasureV2,
    IOUHandler,
    Smeasure,
    WeightedFmeasure,
)


class Column(NamedTuple):
    title: str
    legend: str


COLUMNS = {
    "Dice_mean": Column("mDice", "Dice at each of 256 thresholds, mean over thresholds and images; higher is better"),
    "IoU_mean": Column("mIoU", "intersection over union, likewise; higher is better"),
    "S": Column("S", "structure measure: likeness of objects and of regions, half each; higher is better"),
    "Fw": Column("wF", "weighted F-measure: errors count by where they are; higher is better"),
    "F_adaptive": Column("adpF", "F-measure (beta² 0.3) at twice the map's mean as threshold; higher is better"),
    "E_mean": Column("mE", "enhanced-alignment measure, mean over 256 thresholds; higher is better"),
    "MAE": Column("MAE", "mean absolute difference between map and mask, in [0, 1]; lower is better"),
}


class Scores:
    """Adds up pairs of map and mask. Foreground is mask > 128; each map is stretched to its full range first."""

    def __init__(self) -> None:
        self.thresholded = FmeasureV2(
            metric_handlers={
                "f": FmeasureHandler(with_dynamic=False, with_adaptive=True, beta=0.3),
                "iou": IOUHandler(with_dynamic=True, with_adaptive=False),
                "dice": DICEHandler(with_dynamic=True, with_adaptive=False),
            }
        )
        self.structure, self.alignment, self.weighted, self.error = Smeasure(), Emeasure(), WeightedFmeasure(), MAE()

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> None:
        """Two 8-bit grey arrays (H, W)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing, which `undefined` reports
            for measure in (self.thresholded, self.structure, self.alignment, self.weighted, self.error):
                measure.step(prediction, mask)

    def undefined(self) -> list[int]:
        """Which pairs, by order of adding, have no S: the library divides by zero at a centroid in the last row."""
        return np.flatnonzero(np.isnan(self.structure.sms)).tolist()

    def table(self) -> dict[str, float]:
        """Means over the pairs by the keys of `COLUMNS`, full precision; S over those where it is a number."""
        thresholded = self.thresholded.get_results()
        return {
            "Dice_mean": float(thresholded["dice"]["dynamic"].mean()),
            "IoU_mean": float(thresholded["iou"]["dynamic"].mean()),
            "S": float(np.mean([s for s in self.structure.sms if not np.isnan(s)] or np.nan)),
            "Fw": float(self.weighted.get_results()["wfm"]),
            "F_adaptive": float(thresholded["f"]["adaptive"]),
            "E_mean": float(self.alignment.get_results()["em"]["curve"].mean()),
            "MAE": float(self.error.get_results()["mae"]),
        }
