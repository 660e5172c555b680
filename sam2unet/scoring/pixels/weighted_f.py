"""The weighted F-measure of one map (Margolin et al., CVPR 2014). `histograms` has the legend.

This is the only score that needs the neighbours of a pixel. Box: (top, left, bottom, right).
"""

import cv2
import numpy as np
from numpy import ndarray

from .histograms import find_range
from .kernels import REACH, WINDOW

try:
    from . import kernels_numba as kernels
except ImportError:  # the extra `fast` is not installed
    from . import kernels  # type: ignore[no-redef]

EPS = np.spacing(1)
GAUSSIAN = np.exp(-(np.arange(-WINDOW, WINDOW + 1) ** 2) / (2 * 5**2))
GAUSSIAN /= GAUSSIAN.sum()

Box = tuple[int, int, int, int]


def weighted_f(pred: ndarray, fg: ndarray, hist: ndarray) -> float:
    """Returns weighted F with beta^2 1; 0 for an empty mask."""
    positive = int(hist[1].sum())
    if positive == 0:
        return 0.0
    low, high = find_range(hist)
    if low == high:
        low, high = 0, 255  # a constant map is not stretched
    short, over = (np.uint8(high) - pred) & fg, (pred - np.uint8(low)) & ~fg
    missed = sum_missed(short, fg) / (high - low)  # errors are in levels until here
    false = (2 * int(hist[0] @ np.arange(-low, 256 - low)) - sum_closeness(over, fg)) / (high - low)
    recall = 1 - missed / positive
    precision = (positive - missed) / (positive - missed + false + EPS)
    return 2 * recall * precision / (recall + precision + EPS)


def sum_missed(short: ndarray, fg: ndarray) -> float:
    """Returns the sum of the errors in the foreground. Each one is the error or its local average, the lower of both.

    `short` is (H, W) uint8: how far the map is below its highest level in the foreground; 0 in the background.
    """
    near = to_slices(grow(find_bounds(fg), WINDOW, fg.shape))
    smooth = cv2.sepFilter2D(
        kernels.fill_band(short[near], fg[near]), cv2.CV_32F, GAUSSIAN, GAUSSIAN, borderType=cv2.BORDER_CONSTANT
    )
    return cv2.sumElems(np.minimum(short[near], smooth, out=smooth))[0]


def sum_closeness(over: ndarray, fg: ndarray) -> float:
    """Returns how much less the errors in the background count because they are near the foreground.

    An error far from the foreground counts twice. `over` is (H, W) uint8: how far the map is above its lowest level in
    the background; 0 in the foreground.
    """
    errors = find_bounds(over)
    if errors[2] == errors[0]:
        return 0
    box = find_bounds(fg)
    top, left, bottom, right = grow(box, REACH, fg.shape)
    reached = max(top, errors[0]), max(left, errors[1]), min(bottom, errors[2]), min(right, errors[3])
    first, last = tuple(map(min, box[:2], reached[:2])), tuple(map(max, box[2:], reached[2:]))
    part = to_slices((first[0], first[1], last[0], last[1]))
    return kernels.closeness_sum(over[part], fg[part])


def find_bounds(image: ndarray) -> Box:
    """Returns the box around all pixels that are not 0; all 0 if there are none."""
    x, y, w, h = cv2.boundingRect(image)
    return y, x, y + h, x + w


def grow(box: Box, margin: int, shape: tuple[int, int]) -> Box:
    """Returns the box with a margin of pixels on each side, as far as the image has them."""
    top, left, bottom, right = box
    return max(0, top - margin), max(0, left - margin), min(shape[0], bottom + margin), min(shape[1], right + margin)


def to_slices(box: Box) -> tuple[slice, slice]:
    return np.s_[box[0] : box[2], box[1] : box[3]]
