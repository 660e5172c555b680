"""Turns masks into polygons and polygons into masks.

A *ring* is a closed polygon without holes, float (N, 2), x and y in pixels. Pixel (column 0, row 0) is the square from
(0, 0) to (1, 1). A pixel belongs to a polygon if its centre lies inside, by the even-odd rule.

The rings of `trace_rings` run 1/4 pixel inside the edges of the pixels. So programs that test the centres of pixels,
and programs that round coordinates down and also draw the outline, both give the traced mask back.
"""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

MIN_IOU = 0.98  # polygons agree with their mask at least this well
LARGEST = 1e7  # coordinates with a larger absolute value are refused


def trace_rings(mask: np.ndarray) -> list[list[np.ndarray]]:
    """Returns the parts of a mask, bool (H, W). A part is an outer ring, followed by the rings of its holes.

    Pixels that touch at a corner belong to one part.
    """
    # The contour runs through the centres of pixels. In a mask of twice the size, that is 1/4 pixel from the edges.
    double = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts: dict[int, list[np.ndarray]] = {}
    order = sorted(range(len(contours)), key=lambda index: hierarchy[0][index][3] >= 0)  # outer rings first
    for index in order:
        parent = hierarchy[0][index][3]
        parts.setdefault(index if parent < 0 else parent, []).append((contours[index][:, 0] + 0.5) / 2)
    return list(parts.values())


def simplify_rings(mask: np.ndarray, parts: list[list[np.ndarray]], tolerance: float) -> list[list[np.ndarray]]:
    """Leaves out vertices that are at most `tolerance` pixels from the simplified ring.

    Halves the tolerance until the IoU with the mask is at least `MIN_IOU`. If no tolerance is small enough, returns the
    rings as they are, which agree with the mask exactly.
    """
    while tolerance >= 0.25:
        simple = [[simplify_ring(ring, tolerance) for ring in part] for part in parts]
        other = fill_rings([ring for part in simple for ring in part], *mask.shape)
        if (mask & other).sum() >= MIN_IOU * (mask | other).sum():
            return simple
        tolerance /= 2
    return parts


def simplify_ring(ring: np.ndarray, tolerance: float) -> np.ndarray:
    simple = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, True)[:, 0]
    return simple.astype(float) if len(simple) > 2 else ring


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Returns one ring that contains all `rings`, for formats whose polygons have neither holes nor parts.

    It walks from a vertex to a ring nearby, around it, and back on the same line. The line has no area.
    """
    points, starts = np.concatenate(rings), np.cumsum([0, *map(len, rings)])
    # The walk as a linked list: the place of a vertex in `points`, and the step after each step.
    places = [*range(len(points))]
    following = [*range(1, len(points) + 1)]
    for start, stop in itertools.pairwise(starts.tolist()):
        following[stop - 1] = start
    rows = zip(starts[1:-1].tolist(), starts[2:].tolist(), find_near_vertices(points, starts), strict=True)
    for start, stop, near in rows:
        places += [start, near]
        end = len(places) - 2
        following[stop - 1] = end
        following += [end + 1, following[near]]
        following[near] = start
    walk, step = [], 0
    for _ in places:
        walk.append(places[step])
        step = following[step]
    return points[walk]


def find_near_vertices(points: np.ndarray, starts: np.ndarray) -> list[int]:
    """Returns for each ring except the first one a vertex near it, of a ring before it. So all rings are connected.

    `points` are the vertices of all rings; `starts` has the place of the first vertex of each ring, and the total.
    """
    near = np.full(len(starts) - 2, -1)
    tree, count = cKDTree(points), 8
    while (pending := np.flatnonzero(near < 0)).size:
        count = min(count, len(points))
        first = starts[1:-1][pending]
        neighbours = tree.query(points[first], count)[1].reshape(len(pending), count)
        is_earlier = neighbours < first[:, None]
        has_earlier = is_earlier.any(axis=1)
        near[pending[has_earlier]] = neighbours[has_earlier, is_earlier[has_earlier].argmax(axis=1)]
        count *= 8
    return near.tolist()


def close_parts(parts: Sequence[Sequence[np.ndarray]]) -> list[list[list[float]]]:
    """Returns a polygon [[x, y], ...] for each part. A hole is joined to the outer ring by a line without area."""
    return [join_rings(part).tolist() for part in parts]


def fill_rings(rings: Sequence[np.ndarray], height: int, width: int, union: bool = False) -> np.ndarray:
    """Returns bool (height, width). Pixels outside the image are left out.

    A pixel in several rings follows the even-odd rule, so that a ring inside another one is a hole. With `union`, the
    rings are separate polygons.
    """
    rings = [ring for ring in (clip_ring(ring, height, width) for ring in rings) if len(ring)]
    filled = np.zeros((height, width), bool)
    if rings and not union:
        # One walk visits all rings and returns along their first vertices. The lines between them have no area.
        firsts = [ring[:1] for ring in rings]
        rings = [np.concatenate([*(part for ring in rings for part in (ring, ring[:1])), *firsts[::-1]])]
    for ring in rings:
        (left, top), (right, bottom) = np.floor(ring.min(axis=0)).astype(int), np.ceil(ring.max(axis=0)).astype(int)
        # The library draws nothing for fewer than three points, so the first one is repeated.
        flat = np.concatenate([ring, ring[:1], ring[:1]]) - (left, top)
        encoded = coco_mask.frPyObjects([flat.ravel().tolist()], max(1, bottom - top), max(1, right - left))
        filled[top:bottom, left:right] |= coco_mask.decode(encoded)[: bottom - top, : right - left, 0].view(bool)
    return filled


def clip_ring(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts off what lies outside the image, so that far coordinates need no memory (Sutherland and Hodgman 1974)."""
    for axis, sign, limit in ((0, 1, 0), (1, 1, 0), (0, -1, -width), (1, -1, -height)):
        depth = sign * ring[:, axis] - limit  # negative outside
        if len(ring) == 0 or depth.min() >= 0:
            continue
        before, before_depth = np.roll(ring, 1, axis=0), np.roll(depth, 1)
        inside, crosses = depth >= 0, (depth >= 0) != (before_depth >= 0)
        share = np.divide(before_depth, before_depth - depth, out=np.zeros(len(ring)), where=crosses)
        cuts = before + share[:, None] * (ring - before)
        both, keep = np.stack([cuts, ring], axis=1), np.stack([crosses, inside], axis=1)
        ring = both[keep]
    return ring
