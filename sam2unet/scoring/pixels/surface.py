"""Scores that compare the surfaces of two masks, of images or volumes. Each column has one definition.

The literature uses several definitions under the name HD95; docs/evaluation.md compares them. Legend: D the number of
axes, 2 or 3; P and Q points of two surfaces. Points are indices of the array; times the spacing, they are positions.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from ...errors import UserError

try:
    from . import nearest_numba as nearest
except ImportError:  # the extra `fast` is not installed
    from . import nearest  # type: ignore[no-redef]

DISTANCES = ("HD", "HD95", "HD95_pooled", "HD95_surface", "ASSD")  # lower is better
SHARES = ("NSD", "BoundaryIoU")  # in [0, 1], higher is better
BAND = 0.02  # width of the band of Boundary IoU, as a share of the diagonal


def surface_scores(
    prediction: ndarray, mask: ndarray, spacing: Sequence[float] = (1.0, 1.0), tolerance: float = 1.0
) -> dict[str, float]:
    """Compares the surfaces of two masks, bool of the same shape, (H, W) or (depth, H, W).

    A voxel is on the border of a mask if it is in the mask and one of its direct neighbours is not. Outside of the
    array is background. A surface element is what marching squares (2D) or marching cubes (3D) draw between the
    centres of 4 or 8 voxels. If one mask is empty, the distances are the diagonal of the array, and the shares are 0.
    If both are empty, all values are NaN.

    Args:
        spacing: distance between the centres of neighbouring voxels, for each axis. It gives the unit of the result.
        tolerance: largest distance, in the same unit, that NSD counts as equal.

    Returns:
        A dict with a number for each of these keys.

        - `HD`: the largest distance from a border voxel of a mask to the border of the other one
        - `HD95`: the larger of the 95th percentiles of the two directions
        - `HD95_pooled`: the 95th percentile of the distances of both directions together
        - `HD95_surface`: as HD95, but of surface elements, which count by their length (2D) or area (3D)
        - `ASSD`: the mean of the distances of both directions together
        - `NSD`: the share of both surfaces, by length or area, that is within the tolerance of the other (surface Dice)
        - `BoundaryIoU`: the IoU of the inner bands of both masks, 2 % of the diagonal wide (arXiv 2103.16562). In 3D,
          the square of the definition becomes a cube.

    Raises:
        UserError: the arrays are not two masks of one shape, or a number is not above 0.
    """
    sides = check_surface_input(prediction, mask, spacing, tolerance)
    full = [prediction.any(), mask.any()]
    if not all(full):
        diagonal = float(np.linalg.norm(np.multiply(mask.shape, sides)))
        distance, share = (diagonal, 0.0) if any(full) else (math.nan, math.nan)
        return dict.fromkeys(DISTANCES, distance) | dict.fromkeys(SHARES, share)
    masks = [part[bound_voxels(prediction | mask)] for part in (prediction, mask)]
    borders = measure_both([list_places(find_border(part)) for part in masks], sides)
    pooled = np.concatenate(borders)
    codes = [encode_neighbours(part) for part in masks]
    lines = [list_places((code > 0) & (code < 2 ** (2**mask.ndim) - 1)) for code in codes]
    distances = measure_both(lines, sides)
    sizes = [measure_elements(tuple(sides))[code[tuple(at)]] for code, at in zip(codes, lines, strict=True)]
    near = sum(size[d <= tolerance].sum() for d, size in zip(distances, sizes, strict=True))
    values = {
        "HD": pooled.max(),
        "HD95": max(np.percentile(d, 95) for d in borders),
        "HD95_pooled": np.percentile(pooled, 95),
        "HD95_surface": max(find_quantile(d, size, 0.95) for d, size in zip(distances, sizes, strict=True)),
        "ASSD": pooled.mean(),
        "NSD": near / sum(size.sum() for size in sizes),
        "BoundaryIoU": compare_bands(masks[0], masks[1], max(1, round(BAND * math.hypot(*mask.shape)))),
    }
    return {key: float(value) for key, value in values.items()}


def check_surface_input(prediction: ndarray, mask: ndarray, spacing: Sequence[float], tolerance: float) -> ndarray:
    """Returns the spacing as an array (D,). Raises UserError, see `surface_scores`."""
    if prediction.dtype != bool or mask.dtype != bool or prediction.shape != mask.shape or mask.ndim not in (2, 3):
        kinds = " and ".join(f"{array.dtype} {array.shape}" for array in (prediction, mask))
        raise UserError(f"surfaces need two bool arrays of one shape with 2 or 3 axes, not {kinds}")
    numbers = np.array(spacing, float)
    if numbers.shape != (mask.ndim,) or not (np.isfinite(numbers) & (numbers > 0)).all():
        raise UserError(f"spacing is {spacing}; it must be {mask.ndim} numbers above 0, one for each axis of the masks")
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance is {tolerance}; it must be 0 or more")
    return numbers


def bound_voxels(mask: ndarray) -> tuple[slice, ...]:
    """Returns the slices of the box around all voxels."""
    axes = range(mask.ndim)
    ends = [np.flatnonzero(mask.any(tuple(other for other in axes if other != axis)))[[0, -1]] for axis in axes]
    return tuple(slice(first, last + 1) for first, last in ends)


def list_places(mask: ndarray) -> ndarray:
    """Returns the indices of the voxels, (D, P)."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape))


def find_border(mask: ndarray) -> ndarray:
    """Returns the voxels of `mask` with a direct neighbour that is background."""
    padded, inner = np.pad(mask, 1), mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            place = [slice(1, -1)] * mask.ndim
            place[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(place)]
    return mask & ~inner


def measure_both(sets: Sequence[ndarray], spacing: ndarray) -> list[ndarray]:
    """(D, P), (D, Q) -> the distance from each point to the nearest of the others, and back: (P,) and (Q,)."""
    points, others = sets
    pairs = (points, others), (others, points)
    return [nearest.measure_distances(start, end, spacing) for start, end in pairs]


def encode_neighbours(mask: ndarray) -> ndarray:
    """Returns a code for each 2 x 2 (x 2) neighbourhood, also across the edge of the array: one larger on each axis.

    The voxel at offset (a, b, c) has the bit a + 2 b + 4 c.
    """
    code = np.pad(mask, 1).view(np.uint8)
    for axis in range(mask.ndim):
        before = (slice(None),) * axis
        first, second = (*before, slice(-1)), (*before, slice(1, None))
        code = code[first] | code[second] << 2**axis
    return code


@lru_cache
def measure_elements(spacing: tuple[float, ...]) -> ndarray:
    """Returns the length (16,) or the area (256,) of the surface element of each code of `encode_neighbours`."""
    if len(spacing) == 3:
        areas = np.array([spacing[1] * spacing[2], spacing[0] * spacing[2], spacing[0] * spacing[1]])
        return np.array([np.linalg.norm(triangles * areas, axis=1).sum() for triangles in list_triangles()])
    corner = math.hypot(*spacing) / 2
    # Bits: 1 top left, 2 bottom left, 4 top right, 8 bottom right.
    lines = {0: 0, 15: 0, 0b0011: spacing[0], 0b1100: spacing[0], 0b0101: spacing[1], 0b1010: spacing[1]}
    return np.array([lines.get(code, 2 * corner if code in (6, 9) else corner) for code in range(16)])


@lru_cache
def list_triangles() -> list[ndarray]:
    """Returns the triangles of each code, (n, 3): vectors at right angles, whose length is the area at spacing 1.

    The triangles are those of marching cubes (Lorensen and Cline, 1987). Of a code and its complement, the one with
    fewer voxels decides, so that a surface does not depend on which side of it is the object.
    """
    from skimage.measure import marching_cubes  # pysodmetrics needs scikit-image too

    triangles = [np.zeros((0, 3))]
    for code in range(1, 255):
        bits = code if code.bit_count() <= 4 else 255 - code
        cube = np.array([bits >> (a + 2 * b + 4 * c) & 1 for a, b, c in product((0, 1), repeat=3)], float)
        vertices, faces, *_ = marching_cubes(cube.reshape(2, 2, 2), 0.5, method="lorensen")
        a, b, c = np.moveaxis(vertices[faces].astype(float), 1, 0)
        triangles.append(np.cross(b - a, c - a) / 2)
    return [*triangles, triangles[0]]


def find_quantile(distances: ndarray, weights: ndarray, share: float) -> float:
    """Returns the smallest distance up to which at least `share` of the weight lies."""
    order = np.argsort(distances)
    total = np.cumsum(weights[order])
    return distances[order][min(int(np.searchsorted(total / total[-1], share)), len(order) - 1)]


def compare_bands(prediction: ndarray, mask: ndarray, width: int) -> float:
    """Returns the IoU of the voxels of each mask at most `width` steps, also diagonal ones, from its outside."""
    bands = [part & ~erode(part, width) for part in (prediction, mask)]
    return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


def erode(mask: ndarray, width: int) -> ndarray:
    """Erodes by a square (2D) or cube (3D) of `2 * width + 1` voxels. Outside of the array is background."""
    border: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    square, line = np.ones((2 * width + 1,) * 2, np.uint8), np.ones((2 * width + 1, 1), np.uint8)
    planes = [cv2.erode(plane.view(np.uint8), square, **border) for plane in mask.reshape(-1, *mask.shape[-2:])]
    if mask.ndim == 3:
        planes = [cv2.erode(np.stack(planes).reshape(len(mask), -1), line, **border)]
    return np.reshape(planes, mask.shape).view(bool)
