"""Scores of one 8-bit map against its mask in one pass. The numbers are those of py-sod-metrics 1.6.

`histograms` has the legend. Every score that does not depend on neighbouring pixels follows from histograms. There is
one histogram for each quadrant around the mask's centroid, because the region term of S needs them. Only the weighted F
reads the pixels again. The tables over levels use the same float operations as the library. So rounded values, and
values near a threshold, fall on the same side in both.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from .histograms import check_arrays, count_from_top, count_levels, f_measure, find_range, ratio
from .weighted_f import EPS, weighted_f


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The scores of one image. All are in [0, 1], except E of an image with one pixel.

    Curves are (256,) in the order of the library: entry i belongs to the threshold "stretched 8-bit map >= 255 - i".
    `adaptive`: the threshold is twice the mean of the stretched map, at most 1. `05`: stretched map > 0.5.
    `F` has beta^2 0.3 and `F1` has beta^2 1.
    """

    S: float  # NaN if the mask's centroid is in the last row or column
    Fw: float
    MAE: float
    E_adaptive: float
    F_adaptive: float
    F1_adaptive: float
    IoU_05: float
    Dice_05: float
    BER_05: float
    precision_05: float
    recall_05: float
    E_curve: ndarray
    F_curve: ndarray
    F1_curve: ndarray
    IoU_curve: ndarray
    Dice_curve: ndarray
    BER_curve: ndarray
    precision_curve: ndarray
    recall_curve: ndarray


def score_image(pred: ndarray, mask: ndarray) -> ImageScores:
    """Scores a map, (H, W) uint8. The mask is (H, W), bool, or uint8 whose foreground is above 128."""
    pred, fg = check_arrays(pred, mask, mask if mask.dtype == bool else mask > 128)
    cy, cx = find_centroid(fg)
    quadrants = [count_levels(pred[part], fg[part]) for part in split_quadrants(cy, cx)]
    hist = np.sum(quadrants, axis=0)
    unit = stretch_levels(hist)
    positive, total = int(hist[1].sum()), pred.size
    mean = float(hist.sum(axis=0) @ unit) / total

    fp, tp = count_at_thresholds(hist, unit, find_adaptive_threshold(pred, hist, unit, mean))
    fn, tn = positive - tp, total - positive - fp
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    measures = {
        "E": e_measure(tp, fp, fn, tn),
        "F": f_measure(precision, recall, 0.3),
        "F1": f_measure(precision, recall, 1),
        "IoU": ratio(tp, tp + fp + fn),
        "Dice": ratio(2 * tp, 2 * tp + fp + fn),
        "BER": 1 - 0.5 * (recall + ratio(tn, tn + fp)),
        "precision": precision,
        "recall": recall,
    }
    numbers = {f"{name}_adaptive": float(measures[name][-2]) for name in ("E", "F", "F1")}
    numbers |= {f"{name}_05": float(measures[name][-1]) for name in ("IoU", "Dice", "BER", "precision", "recall")}
    fields: dict[str, Any] = numbers | {f"{name}_curve": values[:-2].copy() for name, values in measures.items()}
    return ImageScores(
        S=s_measure(pred, quadrants, unit, cy, cx),
        Fw=weighted_f(pred, fg, hist),
        MAE=float(hist[0] @ unit + hist[1] @ (1 - unit)) / total,
        **fields,
    )


def find_centroid(fg: ndarray) -> tuple[int, int]:
    """Returns the row and column where the quadrants of S meet: the mean foreground position, rounded, plus one."""
    h, w = fg.shape
    rows = cv2.reduce(fg, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    columns = cv2.reduce(fg, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    total = rows.sum()
    if total == 0:
        return h, w  # in this case S has no region term
    return int(np.rint(rows @ np.arange(h) / total)) + 1, int(np.rint(columns @ np.arange(w) / total)) + 1


def split_quadrants(cy: int, cx: int) -> tuple[tuple[slice, slice], ...]:
    return np.s_[:cy, :cx], np.s_[:cy, cx:], np.s_[cy:, :cx], np.s_[cy:, cx:]


def stretch_levels(hist: ndarray) -> ndarray:
    """Returns the unit. Levels outside the range of the map are clipped, so unit[0] is 0 and unit[255] is 1."""
    unit = np.arange(256) / 255
    low, high = (unit[level] for level in find_range(hist))
    return np.clip((unit - low) / (high - low), 0, 1) if low != high else unit


def find_adaptive_threshold(pred: ndarray, hist: ndarray, unit: ndarray, mean: float) -> float:
    """Returns twice the mean of the stretched map, at most 1."""
    if 2 * mean < 1 and np.abs(unit[hist.any(axis=0)] - 2 * mean).min() < 1e-9:
        mean = float(unit[pred].mean())  # a level is at the threshold: its side depends on the rounding of the library
    return min(2 * mean, 1)


def count_at_thresholds(hist: ndarray, unit: ndarray, adaptive: float) -> ndarray:
    """Returns (2, 258) background and foreground pixels above each threshold: 256 of the curve, adaptive, 0.5."""
    level = (unit * 255).astype(np.uint8)
    return np.stack([np.append(count_from_top(h, level), (h @ (unit >= adaptive), h @ (unit > 0.5))) for h in hist])


def e_measure(tp: ndarray, fp: ndarray, fn: ndarray, tn: ndarray) -> ndarray:
    """Returns the enhanced-alignment measure (arXiv 1805.10421). Each of the four kinds of pixel has one value."""
    positive, total = tp[0] + fn[0], tp[0] + fp[0] + fn[0] + tn[0]
    if positive == 0:
        enhanced = fn + tn
    elif positive == total:
        enhanced = tp + fp
    else:
        p, g = (tp + fp) / total, positive / total
        enhanced = 0
        for pixels, a, b in ((tp, 1 - p, 1 - g), (fp, 1 - p, -g), (fn, -p, 1 - g), (tn, -p, -g)):
            enhanced += pixels * (2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4
    return enhanced / (total - 1 + EPS)


def s_measure(pred: ndarray, quadrants: list[ndarray], unit: ndarray, cy: int, cx: int) -> float:
    """Returns the structure measure with alpha 0.5 (arXiv 1708.00786)."""
    bg, fg = np.sum(quadrants, axis=0)
    total = pred.size
    share = fg.sum() / total
    if share == 0:
        return 1 - float(bg @ unit) / total
    if share == 1:
        return float(fg @ unit) / total
    if cy == pred.shape[0] or cx == pred.shape[1]:
        return float("nan")  # an empty quadrant
    objects = share * object_score(fg, unit) + (1 - share) * object_score(bg, 1 - unit)
    parts = zip(quadrants, split_quadrants(cy, cx), strict=True)
    region = sum(hist.sum() / total * region_score(pred, hist, unit, part) for hist, part in parts)
    return max(0.0, float(0.5 * objects + 0.5 * region))


def object_score(hist: ndarray, value: ndarray) -> float:
    """Returns how high and how even the values of one class are.

    `hist` is (256,) pixels of each level in the class. `value` is (256,), the value of each level; 1 is right.
    """
    n = hist.sum()
    mean = hist @ value / n
    spread = np.sqrt(hist @ (value - mean) ** 2 / (n - 1)) if n > 1 else 0
    return 2 * mean / (mean**2 + 1 + spread + EPS)


def region_score(pred: ndarray, hist: ndarray, unit: ndarray, part: tuple[slice, slice]) -> float:
    """Returns the structural similarity of map and mask in one quadrant."""
    if np.count_nonzero(hist) == 1:
        # One level in one class. The library returns 1 if its variance is 0, and 0 otherwise. For levels between black
        # and white, the variance depends on the rounding error of the mean.
        values = unit[pred][part] if 0 < unit[hist.any(axis=0)] < 1 else np.zeros(1)
        return float(np.all(values == values.mean()))
    levels = hist.sum(axis=0)
    n = levels.sum()
    x, y = levels @ unit / n, hist[1].sum() / n
    off = unit - x
    var_x = levels @ off**2 / (n - 1 + EPS)
    var_y = n * y * (1 - y) / (n - 1 + EPS)
    covariance = (hist[1] @ off * (1 - y) - hist[0] @ off * y) / (n - 1 + EPS)
    return 4 * x * y * covariance / ((x**2 + y**2) * (var_x + var_y) + EPS)
