"""How well stored maps are probabilities: pixels of a level L should be foreground in L / 255 of the cases.

`histograms` has the legend. The maps count as they are stored, without stretching.
"""

import numpy as np
from numpy import ndarray

from .histograms import check_arrays, count_levels

BINS = 15
LEVELS = np.arange(256) / 255
PLACES = np.minimum(BINS - 1, (LEVELS * BINS).astype(int))  # the bin of each level


def score_calibration(pred: ndarray, mask: ndarray) -> tuple[dict[str, float], dict[str, ndarray]]:
    """Returns the Brier score of a map, (H, W) uint8, and its counts (256,): pixels, and foreground pixels by level.

    The foreground of the mask, (H, W) uint8, is above 128.
    """
    background, foreground = count_levels(*check_arrays(pred, mask, mask > 128))
    brier = (background @ LEVELS**2 + foreground @ (1 - LEVELS) ** 2) / pred.size
    counts = {"level_pixels": background + foreground, "level_foreground": foreground}
    return {"Brier": float(brier)}, counts


def measure_ece(pixels: ndarray, foreground: ndarray) -> float:
    """Counts by level, (256,) each -> the expected calibration error (Naeini et al., AAAI 2015) with `BINS` bins."""
    gaps = np.bincount(PLACES, foreground - LEVELS * pixels, BINS)
    return float(np.abs(gaps).sum() / pixels.sum())
