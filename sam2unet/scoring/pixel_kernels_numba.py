"""`pixel_kernels` compiled by numba (the extra `fast`): the same numbers but for the order in which terms are added."""

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy import ndarray

from .pixel_kernels import CLOSENESS, REACH, RINGS, window_band

# A layout of its own would be compiled for crops, hence the contiguous copies below.
STEPS = np.concatenate(RINGS)


def compiled(function: Callable) -> Callable:
    """Numba's `njit`, kept for the next run; only for this run where there is no folder to keep it in."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # numba looked for a folder that it can write to
        return njit(function)


def fill_band(short: ndarray, fg: ndarray) -> ndarray:
    """As `pixel_kernels.fill_band`."""
    return _fill(np.ascontiguousarray(short), np.ascontiguousarray(fg), window_band(fg), STEPS)


def closeness_sum(over: ndarray, fg: ndarray) -> float:
    """As `pixel_kernels.closeness_sum`."""
    return _closeness_sum(np.ascontiguousarray(over), np.ascontiguousarray(fg), CLOSENESS)


@compiled
def _fill(short: ndarray, fg: ndarray, band: ndarray, steps: ndarray) -> ndarray:
    h, w = fg.shape
    filled = short.copy()
    for y in range(h):
        for x in range(w):
            if not band[y, x]:
                continue
            for i in range(len(steps)):
                there_y, there_x = y + steps[i, 0], x + steps[i, 1]
                if 0 <= there_y < h and 0 <= there_x < w and fg[there_y, there_x]:
                    filled[y, x] = short[there_y, there_x]
                    break
    return filled


@compiled
def _closeness_sum(over: ndarray, fg: ndarray, closeness: ndarray) -> float:
    """Each column puts up the parabola gap^2 + (x - column)^2 over its row; the lowest is the squared distance."""
    h, w = fg.shape
    gap = _column_gaps(fg)
    inverse = 0.5 / np.arange(1, w + 1)
    column, height, start = np.empty(w, np.int32), np.empty(w, np.int32), np.empty(w, np.int32)  # of the lowest ones
    total = 0.0
    for y in range(h):
        if not over[y].any():
            continue
        top = -1
        for x in range(w):
            within = gap[y, x] == 0 and 0 < x < w - 1 and gap[y, x - 1] == 0 and gap[y, x + 1] == 0
            if within or gap[y, x] > REACH:
                continue  # nearest to no background pixel, or too far to count
            square, first = int(gap[y, x]) ** 2, 0
            while top >= 0:
                rise = x * x + square - column[top] ** 2 - height[top]
                first = int(np.floor(rise * inverse[x - column[top] - 1])) + 1  # from here on, x's is below the top one
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


@compiled
def _column_gaps(fg: ndarray) -> ndarray:
    """(H, W) uint8: rows to the nearest foreground pixel of the same column; REACH + 1 stands for all further ones."""
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
