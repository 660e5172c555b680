"""Scores of one map by the rules of the mirror papers: HetNet's eval.py. `histograms` has the legend."""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from .histograms import check_arrays, count_from_top, count_levels, find_range

EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class MirrorScores:
    """The scores of one image. Curves are (256,): entry i belongs to the threshold "stretched 8-bit map > i".

    A score that is not defined is NaN, as in HetNet's script: accuracy and BER of a mask without foreground, BER of a
    mask without background, IoU if mask and map are empty, MAE of a map with one grey level that is not black.
    """

    IoU: float
    MAE: float
    BER: float
    accuracy: float  # over foreground pixels only
    precision_curve: ndarray
    recall_curve: ndarray


def score_mirror(pred: ndarray, mask: ndarray) -> MirrorScores:
    """Scores a map, (H, W) uint8. The mask is (H, W), bool, or uint8 whose foreground is exactly 255."""
    pred, fg = check_arrays(pred, mask, mask if mask.dtype == bool else mask == 255)
    hist = count_levels(pred, fg)
    negative, positive = hist.sum(axis=1).tolist()
    fp, tp = hist[:, 128:].sum(axis=1).tolist()  # at 127.5 of the stored map
    low, high = find_range(hist)
    above, span = np.clip(np.arange(256), low, high) - low, max(1, high - low)
    error = hist[0] @ above + hist[1] @ (span - above)
    # Integers: HetNet stretches in one float32 step, which truncates to 8 bits exactly. Two float64 steps would not.
    fp_at, tp_at = (np.append(count_from_top(h, above * 255 // span)[-2::-1], 0) for h in hist)
    return MirrorScores(
        IoU=quotient(tp, positive + fp),
        MAE=float("nan") if 0 < low == high else float(error / span / pred.size),
        BER=1 - 0.5 * (quotient(tp, positive) + quotient(negative - fp, negative)),
        accuracy=quotient(tp, positive),
        precision_curve=(tp_at + EPSILON) / (tp_at + fp_at + EPSILON),
        recall_curve=(tp_at + EPSILON) / (positive + EPSILON),
    )


def quotient(numerator: int, denominator: int) -> float:
    """Returns NaN if the denominator is 0."""
    return numerator / denominator if denominator else float("nan")
