"""The scores of one map by py-sod-metrics alone, which defines them: for `--backend pysodmetrics` and `--verify`.

The library is imported at its first use: that takes a second, which every script would pay at its start.
"""

from __future__ import annotations

import warnings

import numpy as np

from .pixel_scores import ImageScores


def library_scores(prediction: np.ndarray, mask: np.ndarray) -> ImageScores:
    """As `pixel_scores.image_scores`; map (H, W) uint8, mask (H, W) uint8 with the foreground above 128."""
    import py_sod_metrics as library

    ways = dict(with_dynamic=True, with_adaptive=True, with_binary=True)
    handlers = {
        "F": library.FmeasureHandler(**ways, beta=0.3),
        "F1": library.FmeasureHandler(**ways, beta=1),
        "IoU": library.IOUHandler(**ways),
        "Dice": library.DICEHandler(**ways),
        "BER": library.BERHandler(**ways),
        "precision": library.PrecisionHandler(**ways),
        "recall": library.RecallHandler(**ways),
    }
    s, e, fw, mae = library.Smeasure(), library.Emeasure(), library.WeightedFmeasure(), library.MAE()
    cuts = library.FmeasureV2(metric_handlers=handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing, where S is not defined
        for measure in (s, e, fw, mae, cuts):
            measure.step(prediction, mask)
    alignment, thresholded = e.get_results()["em"], cuts.get_results()
    return ImageScores(
        S=float(s.sms[0]),
        Fw=float(fw.get_results()["wfm"]),
        MAE=float(mae.get_results()["mae"]),
        E_adaptive=float(alignment["adp"]),
        E_curve=alignment["curve"],
        **{f"{name}_curve": thresholded[name]["dynamic"] for name in handlers},
        **{f"{name}_adaptive": float(thresholded[name]["adaptive"]) for name in ("F", "F1")},
        **{f"{name}_05": float(thresholded[name]["binary"]) for name in ("IoU", "Dice", "BER", "precision", "recall")},
    )


def correction_effort(prediction: np.ndarray, mask: np.ndarray) -> float:
    """Human correction effort (Qin et al., ECCV 2022, section 4): how many clicks mend the map; no upper end."""
    import py_sod_metrics as library

    measure = library.HumanCorrectionEffortMeasure()
    measure.step(prediction, mask)
    return float(measure.get_results()["hce"])
