"""The steps of the weighted F that look at neighbours, with OpenCV and numpy. `pixel_kernels_numba` has the same two.

fg is the mask as (H, W) uint8, 0 or 255; short, over: (H, W) uint8, how far the map is below white in the foreground or
above black in the background, and 0 elsewhere.
"""

import cv2
import numpy as np
from numpy import ndarray

WINDOW = 3  # pixels from the middle to the edge of the weighted F's 7 x 7 Gaussian
# Background pixels in the window of a foreground pixel have their nearest one no further than (3, 3) away, hence 18.
# Where several are equally near, SciPy (and so the library) takes the leftmost, of these the topmost.
STEPS = [(dy, dx) for dx in range(-4, 5) for dy in range(-4, 5)]
RINGS = [  # steps (dy, dx) of equal length, shortest first
    np.array([(dy, dx) for dy, dx in STEPS if dy * dy + dx * dx == square])
    for square in sorted({dy * dy + dx * dx for dy, dx in STEPS} - {0})
    if square <= 2 * WINDOW**2
]
REACH = 128  # pixels; 0.5 ** (128 / 5) is 2e-8, to be taken from 2
CLOSENESS = np.exp(np.log(0.5) / 5 * np.sqrt(np.arange(REACH**2 + 1)))  # by squared distance
CLOSENESS[-1] = 0  # stands for all that is further


def window_band(fg: ndarray) -> ndarray:
    """(H, W) bool: background pixels with a foreground pixel in the window around them."""
    return cv2.dilate(fg, np.ones((2 * WINDOW + 1, 2 * WINDOW + 1), np.uint8)) > fg


def fill_band(short: ndarray, fg: ndarray) -> ndarray:
    """(H, W) uint8: `short`, and in the window's band the value at the nearest foreground pixel."""
    filled, wide_fg, band = (
        cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_CONSTANT)  # so that no step leaves the array
        for image in (short, fg, window_band(fg).view(np.uint8))
    )
    todo = np.flatnonzero(band.view(bool))
    flat, is_fg = filled.reshape(-1), wide_fg.reshape(-1)
    for ring in RINGS:
        there = todo[:, None] + ring @ (filled.shape[1], 1)
        first = there[np.arange(len(todo)), is_fg[there].argmax(axis=1)]
        found = is_fg[first] != 0
        flat[todo[found]] = flat[first[found]]
        todo = todo[~found]
        if not todo.size:
            break
    return filled[4:-4, 4:-4]


def closeness_sum(over: ndarray, fg: ndarray) -> float:
    """Sum of over * 0.5 ** (distance to the nearest foreground pixel / 5)."""
    distance = cv2.distanceTransform(~fg, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # float32
    total = 0.0
    for top in range(0, len(fg), 32):  # strips stay in the cache
        strip = distance[top : top + 32]
        square = (strip * strip + np.float32(0.5)).astype(np.intp)  # whole again
        total += float((CLOSENESS.take(square, mode="clip") * over[top : top + 32]).sum())
    return total
