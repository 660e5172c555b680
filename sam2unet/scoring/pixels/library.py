"""The scores of one map, computed only by py-sod-metrics. Used for `--backend pysodmetrics` and `--verify`.

py-sod-metrics defines the scores. The functions import it when they first need it, because the import takes a second.
"""

import warnings
from typing import Any

import numpy as np

from .image_scores import ImageScores


def score_by_library(prediction: np.ndarray, mask: np.ndarray) -> ImageScores:
    """Does the same as `image_scores.score_image`. Map and mask are (H, W) uint8."""
    import py_sod_metrics as library

    thresholds = dict(with_dynamic=True, with_adaptive=True, with_binary=True)
    handlers = {
        "F": library.FmeasureHandler(**thresholds, beta=0.3),
        "F1": library.FmeasureHandler(**thresholds, beta=1),
        "IoU": library.IOUHandler(**thresholds),
        "Dice": library.DICEHandler(**thresholds),
        "BER": library.BERHandler(**thresholds),
        "precision": library.PrecisionHandler(**thresholds),
        "recall": library.RecallHandler(**thresholds),
    }
    s, e, fw, mae = library.Smeasure(), library.Emeasure(), library.WeightedFmeasure(), library.MAE()
    cuts = library.FmeasureV2(metric_handlers=handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # S is not defined: numpy warns of the mean of an empty array
        for measure in (s, e, fw, mae, cuts):
            measure.step(prediction, mask)
    alignment, thresholded = e.get_results()["em"], cuts.get_results()
    numbers = {f"{name}_adaptive": float(thresholded[name]["adaptive"]) for name in ("F", "F1")}
    binary = ("IoU", "Dice", "BER", "precision", "recall")
    numbers |= {f"{name}_05": float(thresholded[name]["binary"]) for name in binary}
    fields: dict[str, Any] = numbers | {f"{name}_curve": thresholded[name]["dynamic"] for name in handlers}
    return ImageScores(
        S=float(s.sms[0]),
        Fw=float(fw.get_results()["wfm"]),
        MAE=float(mae.get_results()["mae"]),
        E_adaptive=float(alignment["adp"]),
        E_curve=alignment["curve"],
        **fields,
    )


def count_corrections(prediction: np.ndarray, mask: np.ndarray) -> float:
    """Returns the human correction effort: the clicks that correct the map. It has no upper limit.

    Source: Qin et al., ECCV 2022, section 4.
    """
    import py_sod_metrics as library

    measure = library.HumanCorrectionEffortMeasure()
    measure.step(prediction, mask)
    return float(measure.get_results()["hce"])
