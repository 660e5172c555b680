"""What all scores of one map need: checked arrays, histograms of grey levels, and ratios of pixel counts.

Legend for this folder: H W image; level, a grey value 0..255 of the map; unit, (256,) float64 in [0, 1], the value of
each level after min-max stretching; fg, the mask as (H, W) uint8, 0 or 255; hist, (2, 256) pixels of each level in the
background and in the foreground.
"""

import cv2
import numpy as np
from numpy import ndarray

EXACT_IN_FLOAT32 = 2**24


def reuse_freed_memory() -> None:
    """Makes glibc keep freed memory for later arrays. Call it once per process.

    glibc returns large freed blocks to the system and fetches their pages again, which takes a tenth of the time of an
    image. After one large block was freed, glibc keeps blocks up to that size.
    """
    np.empty(31 * 2**20, np.uint8)


def check_arrays(pred: ndarray, mask: ndarray, foreground: ndarray) -> tuple[ndarray, ndarray]:
    """Returns map and `foreground` as C-ordered (H, W) uint8; the foreground is 0 or 255.

    Raises ValueError if the shapes are not (H, W), differ, or are empty, and TypeError for other types than uint8.
    """
    if pred.ndim != 2 or pred.shape != mask.shape or not pred.size:
        raise ValueError(f"map {pred.shape} and mask {mask.shape} should be (H, W), of one size, not empty")
    if pred.dtype != np.uint8 or mask.dtype not in (np.uint8, bool):
        raise TypeError(f"map {pred.dtype} should be uint8, mask {mask.dtype} uint8 or bool")
    return np.ascontiguousarray(pred), np.negative(np.ascontiguousarray(foreground).view(np.uint8))


def count_levels(pred: ndarray, fg: ndarray) -> ndarray:
    """Returns the hist of a map, (2, 256) int64."""
    hist = np.zeros((2, 256), np.int64)
    if not pred.size:
        return hist
    rows = max(1, EXACT_IN_FLOAT32 // pred.shape[1])  # OpenCV returns its counts as float32
    for top in range(0, len(pred), rows):
        images = [fg[top : top + rows], pred[top : top + rows]]
        hist += cv2.calcHist(images, [0, 1], None, [2, 256], [0, 256, 0, 256]).astype(np.int64)
    return hist


def find_range(hist: ndarray) -> tuple[int, int]:
    """Returns the lowest and the highest level of the map."""
    present = np.flatnonzero(hist.any(axis=0))
    return int(present[0]), int(present[-1])


def count_from_top(hist: ndarray, level: ndarray) -> ndarray:
    """Returns (256,) counts of pixels that are at least 255, 254, ... 0.

    `hist` is (256,) pixels of each level, of one class. `level` is (256,), the new 8-bit level of each level.
    """
    return np.bincount(level, weights=hist, minlength=256)[::-1].cumsum()


def ratio(numerator: ndarray, denominator: ndarray) -> ndarray:
    """Returns the quotient, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def f_measure(precision: ndarray, recall: ndarray, beta2: float) -> ndarray:
    """Returns F with beta^2 = `beta2` for each pair of precision and recall, and 0 where both are 0."""
    return ratio((1 + beta2) * precision * recall, beta2 * precision + recall)
