"""Decides which values of a mask are foreground, and whether a mask is a label map."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

EDGE_LEVELS = 128  # a mask with more grey levels has soft edges, even if it has flat areas
FEW_LEVELS = 16


def select_foreground(values: np.ndarray, rule: int | tuple[int, ...]) -> np.ndarray:
    """Returns (H, W) bool: values above a number, or values that are in a tuple."""
    return values > rule if np.ndim(rule) == 0 else np.isin(values, rule)


def is_label_map(grey: np.ndarray | Image.Image, levels: Sequence[int], lossy: bool) -> bool:
    """Returns whether grey values (H, W) form flat areas, as in a label map, and not soft edges.

    `levels` are its distinct values, ascending. In a `lossy` format, values change slightly, so dark values count as
    black.
    """
    low, high = levels[-1] / 8 if lossy else 1, levels[-1] * 7 / 8
    if len(levels) > EDGE_LEVELS or not any(low <= level <= high for level in levels):
        return False
    if list(levels[:-1]) == [0, 1]:  # an object and an area to ignore; soft edges also have other values
        return True
    values = np.asarray(grey)
    middle = (values >= low) & (values <= high)
    if len(levels) <= FEW_LEVELS and middle.sum() > max((values > high).sum(), values.size / 100):
        return True
    beside = values[:, 1:] == values[:, :-1]
    below = (values[1:] == values[:-1])[:, 1:-1]
    rows = beside[:, 1:] & beside[:, :-1]
    flat = rows[1:-1] & rows[:-2] & rows[2:] & below[1:] & below[:-1]  # equal to all eight neighbours
    middle = middle[1:-1, 1:-1]
    return 2 * (flat & middle).sum() > middle.sum()
