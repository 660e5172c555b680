"""The two steps of the weighted F that read neighbouring pixels, with OpenCV and numpy.

`kernels_numba` has the same two steps.

Legend: fg, the mask as (H, W) uint8, 0 or 255; short, (H, W) uint8, how far the map is below its highest level in the
foreground; over, (H, W) uint8, how far the map is above its lowest level in the background. Both are 0 elsewhere.
"""

import cv2
import numpy as np
from numpy import ndarray

WINDOW = 3  # pixels from the middle to the edge of the 7 x 7 Gaussian of the weighted F
# A background pixel in the window of a foreground pixel has its nearest one at most (3, 3) away: squared distance 18.
# If several are equally near, SciPy (and so the library) takes the leftmost, and of these the topmost.
STEPS = [(dy, dx) for dx in range(-4, 5) for dy in range(-4, 5)]
RINGS = [  # steps (dy, dx) of equal length, shortest first
    np.array([(dy, dx) for dy, dx in STEPS if dy * dy + dx * dx == square])
    for square in sorted({dy * dy + dx * dx for dy, dx in STEPS} - {0})
    if square <= 2 * WINDOW**2
]
REACH = 128  # pixels; beyond it, a weight of 2 would change by less than 0.5 ** (128 / 5), which is 2e-8
CLOSENESS = np.exp(np.log(0.5) / 5 * np.sqrt(np.arange(REACH**2 + 1)))  # by squared distance
CLOSENESS[-1] = 0  # this entry stands for all larger distances


def window_band(fg: ndarray) -> ndarray:
    """Returns (H, W) bool: background pixels that have a foreground pixel in the window around them."""
    return cv2.dilate(fg, np.ones((2 * WINDOW + 1, 2 * WINDOW + 1), np.uint8)) > fg


def fill_band(short: ndarray, fg: ndarray) -> ndarray:
    """Returns `short`, (H, W) uint8, with the value of the nearest foreground pixel in the band of the window."""
    filled, wide_fg, band = (
        cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_CONSTANT)  # so that no step leaves the array
        for image in (short, fg, window_band(fg).view(np.uint8))
    )
    todo = np.flatnonzero(band.view(bool))
    flat, is_fg = filled.reshape(-1), wide_fg.reshape(-1)
    for ring in RINGS:
        neighbours = todo[:, None] + ring @ (filled.shape[1], 1)
        first = neighbours[np.arange(len(todo)), is_fg[neighbours].argmax(axis=1)]
        hit = is_fg[first] != 0
        flat[todo[hit]] = flat[first[hit]]
        todo = todo[~hit]
        if not todo.size:
            break
    return filled[4:-4, 4:-4]


def closeness_sum(over: ndarray, fg: ndarray) -> float:
    """Returns the sum of over * 0.5 ** (distance to the nearest foreground pixel / 5)."""
    distance = cv2.distanceTransform(~fg, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # float32
    total = 0.0
    for top in range(0, len(fg), 32):  # strips stay in the cache
        strip = distance[top : top + 32]
        square = (strip * strip + np.float32(0.5)).astype(np.intp)  # an integer again
        total += float((CLOSENESS.take(square, mode="clip") * over[top : top + 32]).sum())
    return total
