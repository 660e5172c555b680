"""The metrics: titles, meanings, groups, and the columns that the papers of each task report."""

import math
from typing import NamedTuple


class Metric(NamedTuple):
    """One column of a table of scores."""

    title: str
    legend: str  # what the metric measures
    higher: bool = True  # whether a higher value is better
    group: str = "plain"  # the metrics that one computation gives: see `ScoreOptions.choose`
    digits: int = 3  # the number of printed digits after the point


UNIT = "in the unit of --spacing"
SURFACES = {
    "HD": Metric("HD", f"Hausdorff distance: largest distance between borders, {UNIT} (MONAI, MedPy)", False),
    "HD95": Metric("HD95", f"larger of the 95th percentiles of both directions between borders, {UNIT} (MONAI)", False),
    "HD95_pooled": Metric(
        "HD95p", f"95th percentile of the distances of both directions together, {UNIT} (MedPy)", False
    ),
    "HD95_surface": Metric(
        "HD95s", f"as HD95, of surface elements weighted by length or area, {UNIT} (DeepMind)", False
    ),
    "ASSD": Metric("ASSD", f"mean of the distances of both directions together, {UNIT} (MedPy, MONAI)", False),
    "NSD": Metric("NSD", "share of both surfaces within --nsd_tolerance of the other (DeepMind, MONAI with subvoxels)"),
    "BoundaryIoU": Metric("BIoU", "IoU of the inner bands of both masks, 2 % of the diagonal wide (arXiv 2103.16562)"),
}
SURFACES = {key: metric._replace(group="medical", digits=3 if metric.higher else 2) for key, metric in SURFACES.items()}

# The keys are those of results.json. "Mean" and "best" are over 256 thresholds, the best one over the whole data set.
METRICS = {
    "S": Metric("S", "structure measure, alpha 0.5: mean of the similarity of objects and of regions"),
    "E_adaptive": Metric("adpE", "enhanced-alignment measure, threshold at twice the mean of the map"),
    "E_mean": Metric("mE", "enhanced-alignment measure, mean over 256 thresholds"),
    "E_max": Metric("maxE", "enhanced-alignment measure, best threshold of the mean curve of the data set"),
    "F_adaptive": Metric("adpF", "F-measure (beta² 0.3), threshold at twice the mean of the map"),
    "F_mean": Metric("mF", "F-measure (beta² 0.3), mean over 256 thresholds"),
    "F_max": Metric("maxF", "F-measure (beta² 0.3), best threshold of the mean curve of the data set"),
    "F_max_dataset": Metric("dsF", "F-measure (beta² 0.3) of the mean precision and the mean recall, best threshold"),
    "F1_adaptive": Metric("adpF1", "F-measure (beta² 1), threshold at twice the mean of the map"),
    "F1_mean": Metric("mF1", "F-measure (beta² 1), mean over 256 thresholds"),
    "F1_max": Metric("maxF1", "F-measure (beta² 1), best threshold of the mean curve of the data set"),
    "Fw": Metric("wF", "weighted F-measure, beta² 1: the weight of an error depends on its position"),
    "MAE": Metric("MAE", "mean absolute difference between map and mask, in [0, 1]", higher=False),
    "IoU_mean": Metric("mIoU", "intersection over union, mean over 256 thresholds"),
    "IoU_05": Metric("IoU.5", "intersection over union, threshold 0.5"),
    "Dice_mean": Metric("mDice", "Dice, mean over 256 thresholds"),
    "Dice_05": Metric("Dice.5", "Dice, threshold 0.5"),
    "BER": Metric("BER", "balanced error rate, threshold 0.5: mean of the error rates of both classes", higher=False),
    "precision": Metric("P", "precision, threshold 0.5"),
    "recall": Metric("R", "recall, threshold 0.5"),
    "dichotomous_HCE": Metric(
        "HCE", "human correction effort: clicks that correct the map, threshold 0.5", False, "effort", digits=0
    ),
    "mirror_IoU": Metric("IoU", "mirror: intersection over union, threshold 127.5 on the stored map", group="mirror"),
    "mirror_F_max": Metric(
        "maxF", "mirror: F-measure (beta² 0.3) of mean precision and recall, best threshold", group="mirror"
    ),
    "mirror_MAE": Metric("MAE", "mirror: mean absolute difference after min-max normalisation", False, "mirror"),
    "mirror_BER": Metric("BER", "mirror: balanced error rate, threshold 127.5", False, "mirror"),
    "mirror_accuracy": Metric("acc", "mirror: fraction of foreground pixels above the threshold 127.5", group="mirror"),
    "medical_Dice": Metric("Dice", "Dice of each image, threshold 128 on the stored map", group="medical"),
    "medical_IoU": Metric(
        "IoU", "intersection over union of each image, threshold 128 on the stored map", group="medical"
    ),
    **SURFACES,
    "ECE": Metric(
        "ECE",
        "expected calibration error: the stored map minus the share of foreground, 15 bins over all pixels",
        False,
        "calibration",
        digits=4,
    ),
    "Brier": Metric("Brier", "mean squared difference between stored map and mask", False, "calibration", digits=4),
}

RELEASED = ("Dice_mean", "IoU_mean", "S", "Fw", "F_adaptive", "E_mean", "MAE")
# The columns that the papers of each task report. `all` has every metric of the group `plain`.
PROTOCOLS = {
    "released": RELEASED,
    "camouflaged": ("S", "F_adaptive", "E_mean", "MAE"),
    "salient": ("S", "E_mean", "MAE", "F_max", "F_mean"),
    "marine": ("IoU_mean", "S", "Fw", "E_mean", "MAE"),
    "polyp": ("Dice_mean", "IoU_mean"),
    "mirror": ("mirror_IoU", "mirror_F_max", "mirror_MAE", "mirror_BER", "mirror_accuracy"),
    "dichotomous": ("S", "Fw", "E_mean", "MAE", "dichotomous_HCE"),
    "remote_sensing": ("S", "F_mean", "F_max", "E_mean", "MAE"),
    "medical": ("medical_Dice", "medical_IoU", "HD95", "ASSD", "NSD"),
    "surface": tuple(SURFACES),
    "calibration": ("ECE", "Brier"),
    "all": tuple(key for key, metric in METRICS.items() if metric.group == "plain"),
}


def is_better(metric: Metric, new: float, old: float | None) -> bool:
    """Returns whether `new` is better than `old`, the best value so far. NaN is never better than a number."""
    if math.isnan(new) or old is None or math.isnan(old):
        return not math.isnan(new)
    return new > old if metric.higher else new < old
