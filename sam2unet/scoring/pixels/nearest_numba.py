"""The function of `nearest`, compiled by numba (the extra `fast`)."""

import numpy as np
from numpy import ndarray

from ...runtime.compiled import compile_cached

FAR = np.iinfo(np.int32).max  # the gap in a row without any point


def measure_distances(points: ndarray, others: ndarray, spacing: ndarray) -> ndarray:
    """The same as `nearest.measure_distances`."""
    corner = np.minimum(points.min(1), others.min(1))[:, None]
    grid = np.zeros(np.maximum(points.max(1), others.max(1)) + 1 - corner[:, 0], bool)
    grid[tuple(others - corner)] = True
    places = points - corner
    if len(spacing) == 2:  # one plane
        grid, places, spacing = grid[None], np.pad(places, ((1, 0), (0, 0))), np.append(1, spacing)
    return _search(_row_gaps(grid), places, spacing)


@compile_cached
def _row_gaps(grid: ndarray) -> ndarray:
    """Returns (depth, H, W) int32: the steps to the nearest point in the same row; `FAR` if the row has none."""
    depth, height, width = grid.shape
    gaps = np.empty(grid.shape, np.int32)
    for z in range(depth):
        for y in range(height):
            gap = FAR
            for x in range(width):
                gap = 0 if grid[z, y, x] else (FAR if gap == FAR else gap + 1)
                gaps[z, y, x] = gap
            gap = FAR
            for x in range(width - 1, -1, -1):
                gap = 0 if grid[z, y, x] else (FAR if gap == FAR else gap + 1)
                gaps[z, y, x] = min(gap, gaps[z, y, x])
    return gaps


@compile_cached
def _search(gaps: ndarray, places: ndarray, spacing: ndarray) -> ndarray:
    """Returns the distances. For each place, planes and rows are searched outwards as long as they can be nearer."""
    depth, height, _ = gaps.shape
    distances = np.empty(places.shape[1])
    for i in range(places.shape[1]):
        z, y, x = places[0, i], places[1, i], places[2, i]
        best = np.inf
        for dz in range(max(z, depth - 1 - z) + 1):
            plane = (dz * spacing[0]) ** 2
            if plane >= best:
                break
            for dy in range(max(y, height - 1 - y) + 1):
                row = plane + (dy * spacing[1]) ** 2
                if row >= best:
                    break
                for near_z in (z - dz, z + dz):
                    if 0 <= near_z < depth:
                        for near_y in (y - dy, y + dy):
                            if 0 <= near_y < height:
                                gap = gaps[near_z, near_y, x]
                                if gap != FAR:
                                    best = min(best, row + (gap * spacing[2]) ** 2)
        distances[i] = np.sqrt(best)
    return distances
