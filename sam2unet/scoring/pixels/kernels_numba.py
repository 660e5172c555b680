"""The steps of `kernels`, compiled by numba (the extra `fast`). Sums add their terms in another order."""

import numpy as np
from numpy import ndarray

from ...runtime.compiled import compile_cached
from .kernels import CLOSENESS, REACH, RINGS, window_band

# Numba would compile a second version for arrays that are not contiguous. This is why the functions below copy crops.
STEPS = np.concatenate(RINGS)


def fill_band(short: ndarray, fg: ndarray) -> ndarray:
    """The same as `kernels.fill_band`."""
    return _fill(np.ascontiguousarray(short), np.ascontiguousarray(fg), window_band(fg), STEPS)


def closeness_sum(over: ndarray, fg: ndarray) -> float:
    """The same as `kernels.closeness_sum`."""
    return _closeness_sum(np.ascontiguousarray(over), np.ascontiguousarray(fg), CLOSENESS)


@compile_cached
def _fill(short: ndarray, fg: ndarray, band: ndarray, steps: ndarray) -> ndarray:
    h, w = fg.shape
    filled = short.copy()
    for y in range(h):
        for x in range(w):
            if not band[y, x]:
                continue
            for i in range(len(steps)):
                near_y, near_x = y + steps[i, 0], x + steps[i, 1]
                if 0 <= near_y < h and 0 <= near_x < w and fg[near_y, near_x]:
                    filled[y, x] = short[near_y, near_x]
                    break
    return filled


@compile_cached
def _closeness_sum(over: ndarray, fg: ndarray, closeness: ndarray) -> float:
    """Returns the sum of `closeness_sum`.

    In a row, each column defines a parabola gap^2 + (x - column)^2. The lowest parabola at x is the squared distance to
    the nearest foreground pixel.
    """
    h, w = fg.shape
    gap = _column_gaps(fg)
    inverse = 0.5 / np.arange(1, w + 1)
    column, height, start = np.empty(w, np.int32), np.empty(w, np.int32), np.empty(w, np.int32)  # the lowest parabolas
    total = 0.0
    for y in range(h):
        if not over[y].any():
            continue
        top = -1
        for x in range(w):
            within = gap[y, x] == 0 and 0 < x < w - 1 and gap[y, x - 1] == 0 and gap[y, x + 1] == 0
            if within or gap[y, x] > REACH:
                continue  # it is not the nearest one of any background pixel, or it is too far to count
            square, first = int(gap[y, x]) ** 2, 0
            while top >= 0:
                rise = x * x + square - column[top] ** 2 - height[top]
                # From `first` on, the parabola of x is the lower one.
                first = int(np.floor(rise * inverse[x - column[top] - 1])) + 1
                if first > start[top]:
                    break
                top -= 1
                first = 0
            if first < w:
                top += 1
                column[top], height[top], start[top] = x, square, first
        if top < 0:
            continue
        for x in range(w - 1, -1, -1):
            while start[top] > x:
                top -= 1
            if over[y, x]:
                square = (x - column[top]) ** 2 + height[top]
                total += over[y, x] * closeness[min(square, REACH**2)]
    return total


@compile_cached
def _column_gaps(fg: ndarray) -> ndarray:
    """Returns (H, W) uint8, the rows to the nearest foreground pixel in the same column, at most REACH + 1."""
    h, w = fg.shape
    gap = np.empty((h, w), np.uint8)
    for x in range(w):
        gap[0, x] = 0 if fg[0, x] else REACH + 1
    for y in range(1, h):
        for x in range(w):
            gap[y, x] = 0 if fg[y, x] else min(gap[y - 1, x], REACH) + 1
    for y in range(h - 2, -1, -1):
        for x in range(w):
            gap[y, x] = min(gap[y, x], min(gap[y + 1, x], REACH) + 1)
    return gap
