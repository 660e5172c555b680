"""Scores of one 8-bit map against its mask in one pass: the numbers of py-sod-metrics 1.6 for a fraction of its work.

Legend: H W image; level, a grey value 0..255 of the map; unit, (256,) float64 in [0, 1], what min-max stretching makes
of each level; fg, the mask as (H, W) uint8, 0 or 255; hist, (2, 256) pixels of each level in background and foreground;
a cut, one way to make the map binary.

Whatever looks at no neighbours follows from the histograms, which are taken per quadrant around the mask's centroid, as
the region term of S wants them. Only the weighted F goes back to the pixels. The tables over levels are made by the
library's own float operations, so that what it rounds or compares with a threshold falls on the same side here.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray

from .pixel_kernels import REACH, WINDOW

try:
    from . import pixel_kernels_numba as kernels
except ImportError:  # without the extra `fast`
    from . import pixel_kernels as kernels

EPS = np.spacing(1)
GAUSSIAN = np.exp(-(np.arange(-WINDOW, WINDOW + 1) ** 2) / (2 * 5**2))
GAUSSIAN /= GAUSSIAN.sum()
EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Curves are (256,) in the library's order: entry i belongs to the cut "stretched 8-bit map >= 255 - i".

    adaptive: stretched map >= twice its mean, or 1 if that is less. 05: stretched map > 0.5. F: beta^2 0.3; F1: 1.
    """

    S: float  # NaN where the mask's centroid lies in the last row or column
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


@dataclass(frozen=True, slots=True)
class MirrorScores:
    """HetNet's eval.py for one image. Curves are (256,): entry i belongs to the cut "stretched 8-bit map > i".

    As there, a mask without foreground has no accuracy and no BER, one without background no BER, an empty mask and
    map no IoU, and a map that is one grey other than black no MAE: NaN.
    """

    IoU: float
    MAE: float
    BER: float
    accuracy: float  # over foreground pixels only
    precision_curve: ndarray
    recall_curve: ndarray


def reuse_freed_memory() -> None:
    """Call once per process. Freeing one large block teaches glibc to keep what is freed up to that size, where it
    would return each image's arrays to the system and fault their pages in again: a tenth of the time."""
    np.empty(31 * 2**20, np.uint8)


def image_scores(pred: ndarray, mask: ndarray) -> ImageScores:
    """Map (H, W) uint8; mask (H, W), uint8 with the foreground above 128, or bool."""
    pred, fg = _checked(pred, mask, mask if mask.dtype == bool else mask > 128)
    cy, cx = _centroid(fg)
    quadrants = [_histogram(pred[part], fg[part]) for part in _split(cy, cx)]
    hist = sum(quadrants)
    unit = _stretched(hist)
    positive, total = int(hist[1].sum()), pred.size
    mean = float(hist.sum(axis=0) @ unit) / total

    fp, tp = _at_cuts(hist, unit, _adaptive_threshold(pred, hist, unit, mean))
    fn, tn = positive - tp, total - positive - fp
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    cuts = {
        "E": _e_measure(tp, fp, fn, tn),
        "F": _f_measure(precision, recall, 0.3),
        "F1": _f_measure(precision, recall, 1),
        "IoU": _ratio(tp, tp + fp + fn),
        "Dice": _ratio(2 * tp, 2 * tp + fp + fn),
        "BER": 1 - 0.5 * (recall + _ratio(tn, tn + fp)),
        "precision": precision,
        "recall": recall,
    }
    return ImageScores(
        S=_s_measure(pred, quadrants, unit, cy, cx),
        Fw=_weighted_f(pred, fg, hist),
        MAE=float(hist[0] @ unit + hist[1] @ (1 - unit)) / total,
        **{f"{name}_curve": cuts[name][:-2].copy() for name in cuts},
        **{f"{name}_adaptive": float(cuts[name][-2]) for name in ("E", "F", "F1")},
        **{f"{name}_05": float(cuts[name][-1]) for name in ("IoU", "Dice", "BER", "precision", "recall")},
    )


def mirror_scores(pred: ndarray, mask: ndarray) -> MirrorScores:
    """Map (H, W) uint8; mask (H, W), uint8 with the foreground at 255 exactly, or bool."""
    pred, fg = _checked(pred, mask, mask if mask.dtype == bool else mask == 255)
    hist = _histogram(pred, fg)
    negative, positive = hist.sum(axis=1).tolist()
    fp, tp = hist[:, 128:].sum(axis=1).tolist()  # at 127.5, of the map as it was stored
    low, high = _range(hist)
    above, span = np.clip(np.arange(256), low, high) - low, max(1, high - low)
    error = hist[0] @ above + hist[1] @ (span - above)
    # whole numbers: HetNet stretches in one float32 step, which cuts 8 bits exactly; two float64 steps would not
    fp_at, tp_at = (np.append(_descending(h, above * 255 // span)[-2::-1], 0) for h in hist)
    epsilon = 1e-4
    return MirrorScores(
        IoU=_or_nan(tp, positive + fp),
        MAE=float("nan") if 0 < low == high else float(error / span / pred.size),
        BER=1 - 0.5 * (_or_nan(tp, positive) + _or_nan(negative - fp, negative)),
        accuracy=_or_nan(tp, positive),
        precision_curve=(tp_at + epsilon) / (tp_at + fp_at + epsilon),
        recall_curve=(tp_at + epsilon) / (positive + epsilon),
    )


def mirror_f(precision: ndarray, recall: ndarray) -> float:
    """Maximum F (beta^2 0.3) of `MirrorScores` curves that were averaged over a data set first."""
    return float(np.max(1.3 * precision * recall / (0.3 * precision + recall)))


def _checked(pred: ndarray, mask: ndarray, foreground: ndarray) -> tuple[ndarray, ndarray]:
    """Map and `foreground` as C-ordered (H, W) uint8, the latter 0 or 255; ValueError, TypeError for other input."""
    if pred.ndim != 2 or pred.shape != mask.shape or not pred.size:
        raise ValueError(f"map {pred.shape} and mask {mask.shape} should be (H, W), of one size, not empty")
    if pred.dtype != np.uint8 or mask.dtype not in (np.uint8, bool):
        raise TypeError(f"map {pred.dtype} should be uint8, mask {mask.dtype} uint8 or bool")
    return np.ascontiguousarray(pred), np.negative(np.ascontiguousarray(foreground).view(np.uint8))


def _centroid(fg: ndarray) -> tuple[int, int]:
    """Row and column at which the quadrants of S meet: the foreground's mean position, rounded, plus one."""
    h, w = fg.shape
    rows = cv2.reduce(fg, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    columns = cv2.reduce(fg, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
    total = rows.sum()
    if total == 0:
        return h, w  # S has no region term then
    return int(np.rint(rows @ np.arange(h) / total)) + 1, int(np.rint(columns @ np.arange(w) / total)) + 1


def _split(cy: int, cx: int) -> tuple[tuple[slice, slice], ...]:
    return np.s_[:cy, :cx], np.s_[:cy, cx:], np.s_[cy:, :cx], np.s_[cy:, cx:]


def _histogram(pred: ndarray, fg: ndarray) -> ndarray:
    """(2, 256) int64: pixels of each level in the background and in the foreground."""
    hist = np.zeros((2, 256), np.int64)
    if not pred.size:
        return hist
    rows = max(1, EXACT_IN_FLOAT32 // pred.shape[1])  # OpenCV gives its counts as float32
    for top in range(0, len(pred), rows):
        images = [fg[top : top + rows], pred[top : top + rows]]
        hist += cv2.calcHist(images, [0, 1], None, [2, 256], [0, 256, 0, 256]).astype(np.int64)
    return hist


def _range(hist: ndarray) -> tuple[int, int]:
    present = np.flatnonzero(hist.any(axis=0))
    return int(present[0]), int(present[-1])


def _stretched(hist: ndarray) -> ndarray:
    """The (256,) unit; levels outside the map's range are clipped, so that unit[0] is 0 and unit[255] is 1 always."""
    unit = np.arange(256) / 255
    low, high = (unit[level] for level in _range(hist))
    return np.clip((unit - low) / (high - low), 0, 1) if low != high else unit


def _adaptive_threshold(pred: ndarray, hist: ndarray, unit: ndarray, mean: float) -> float:
    """Twice the mean of the stretched map, at most 1."""
    if 2 * mean < 1 and np.abs(unit[hist.any(axis=0)] - 2 * mean).min() < 1e-9:
        mean = float(unit[pred].mean())  # a level at the threshold: only the library's own rounding tells on which side
    return min(2 * mean, 1)


def _at_cuts(hist: ndarray, unit: ndarray, adaptive: float) -> ndarray:
    """(2, 258): background and foreground pixels above each cut: the curve's 256, the adaptive one, 0.5."""
    level = (unit * 255).astype(np.uint8)
    return np.stack([np.append(_descending(h, level), (h @ (unit >= adaptive), h @ (unit > 0.5))) for h in hist])


def _descending(hist: ndarray, level: ndarray) -> ndarray:
    """(256,) levels of the histogram, the 8-bit level that each becomes -> (256,) pixels at least 255, 254, ... 0."""
    return np.bincount(level, weights=hist, minlength=256)[::-1].cumsum()


def _ratio(numerator: ndarray, denominator: ndarray) -> ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _or_nan(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


def _f_measure(precision: ndarray, recall: ndarray, beta2: float) -> ndarray:
    return _ratio((1 + beta2) * precision * recall, beta2 * precision + recall)


def _e_measure(tp: ndarray, fp: ndarray, fn: ndarray, tn: ndarray) -> ndarray:
    """Enhanced alignment (arXiv 1805.10421): each of the four kinds of pixel has one value."""
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


def _s_measure(pred: ndarray, quadrants: list[ndarray], unit: ndarray, cy: int, cx: int) -> float:
    """Structure measure, alpha 0.5 (arXiv 1708.00786)."""
    bg, fg = sum(quadrants)
    total = pred.size
    share = fg.sum() / total
    if share == 0:
        return 1 - float(bg @ unit) / total
    if share == 1:
        return float(fg @ unit) / total
    if cy == pred.shape[0] or cx == pred.shape[1]:
        return float("nan")  # an empty quadrant
    alike = share * _object_score(fg, unit) + (1 - share) * _object_score(bg, 1 - unit)
    parts = zip(quadrants, _split(cy, cx), strict=True)
    region = sum(hist.sum() / total * _region_score(pred, hist, unit, part) for hist, part in parts)
    return max(0.0, float(0.5 * alike + 0.5 * region))


def _object_score(hist: ndarray, value: ndarray) -> float:
    n = hist.sum()
    mean = hist @ value / n
    spread = np.sqrt(hist @ (value - mean) ** 2 / (n - 1)) if n > 1 else 0
    return 2 * mean / (mean**2 + 1 + spread + EPS)


def _region_score(pred: ndarray, hist: ndarray, unit: ndarray, part: tuple[slice, slice]) -> float:
    """Structural similarity of map and mask in one quadrant."""
    if np.count_nonzero(hist) == 1:
        # One level in one class. The library gives 1 if its variance is 0 and else 0; for levels between black and
        # white that hangs on whether its mean has a rounding error.
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


def _weighted_f(pred: ndarray, fg: ndarray, hist: ndarray) -> float:
    """Weighted F, beta^2 1 (Margolin et al., CVPR 2014); 0 for an empty mask. Errors are in levels until divided."""
    positive = int(hist[1].sum())
    if positive == 0:
        return 0.0
    low, high = _range(hist)
    if low == high:
        low, high = 0, 255  # a constant map is not stretched
    short, over = (np.uint8(high) - pred) & fg, (pred - np.uint8(low)) & ~fg

    box = _extent(fg)
    near = _slices(_grown(box, WINDOW, fg.shape))
    smooth = cv2.sepFilter2D(
        kernels.fill_band(short[near], fg[near]), cv2.CV_32F, GAUSSIAN, GAUSSIAN, borderType=cv2.BORDER_CONSTANT
    )
    missed = cv2.sumElems(np.minimum(short[near], smooth, out=smooth))[0] / (high - low)

    false = 2 * int(hist[0] @ np.arange(-low, 256 - low))  # far from the foreground an error counts twice
    seen = _extent(over)
    if seen[2] > seen[0]:
        top, left, bottom, right = _grown(box, REACH, fg.shape)
        reached = max(top, seen[0]), max(left, seen[1]), min(bottom, seen[2]), min(right, seen[3])
        part = _slices((*map(min, box[:2], reached[:2]), *map(max, box[2:], reached[2:])))
        false -= kernels.closeness_sum(over[part], fg[part])
    false /= high - low

    recall = 1 - missed / positive
    precision = (positive - missed) / (positive - missed + false + EPS)
    return 2 * recall * precision / (recall + precision + EPS)


def _extent(image: ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what is not 0; all 0 if nothing is."""
    x, y, w, h = cv2.boundingRect(image)
    return y, x, y + h, x + w


def _grown(box: tuple[int, int, int, int], by: int, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = box
    return max(0, top - by), max(0, left - by), min(shape[0], bottom + by), min(shape[1], right + by)


def _slices(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return np.s_[box[0] : box[2], box[1] : box[3]]
