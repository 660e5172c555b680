"""Simulated prompts of a user: points in a mask, clicks where a prediction is wrong, boxes with random errors.

Coordinates are (x, y), in pixels of the square image that the model takes. All random numbers come from the given CPU
generator, so a run draws the same prompts on any device. Letters: M masks, S side of the square, N points per mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

NOISE = 5  # the largest shift of a box, in pixels
POINTS = (1, 3, 5, 9)  # numbers of clicks in a training round; each round takes one of them


class Points(NamedTuple):
    """N points for each of M masks."""

    coords: Tensor  # float32 (M, N, 2)
    labels: Tensor  # int64 (M, N): 1 for foreground, 0 for background, -1 for no point

    def append(self, others: Points) -> Points:
        """Returns the N points of each mask, then those of `others`."""
        return Points(torch.cat([self.coords, others.coords], 1), torch.cat([self.labels, others.labels], 1))


def join_points(points: Sequence[Points]) -> Points:
    """Joins the points of several masks. All must have the same number of points per mask."""
    return Points(*(torch.cat(parts) for parts in zip(*points, strict=True)))


def draw_pixels(region: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draws pixels of each region uniformly, with replacement: bool (M, H, W) -> int64 (M, count, 2), as (x, y).

    If a region is empty, draws from the whole mask. Does not wait for a GPU.
    """
    flat = region.flatten(1)
    counts = (flat | ~flat.any(1, keepdim=True)).cumsum(1)  # (M, H * W): pixels of the region up to this one
    draws = torch.randint(2**31, (len(flat), count), generator=generator)
    draws = draws.to(region.device, non_blocking=region.is_cuda)
    ranks = draws * counts[:, -1:] >> 31  # in integers: a fraction near 1 could be rounded up to one pixel too many
    indices = torch.searchsorted(counts, ranks, right=True)
    return torch.stack([indices % region.shape[2], indices // region.shape[2]], dim=-1)


def gather_values(mask: Tensor, pixels: Tensor) -> Tensor:
    """Returns the values of a mask (M, H, W) at pixels int64 (M, N, 2), given as (x, y): (M, N)."""
    return mask.flatten(1).gather(1, pixels[..., 1] * mask.shape[2] + pixels[..., 0])


def draw_first_points(masks: Tensor, count: int, generator: torch.Generator) -> Points:
    """Draws the points of the first round: bool masks (M, S, S) -> `count` points per mask, in random order.

    One point is in the foreground. Of several points, half are in the foreground (rounded down), the others in the
    background. If a mask has no foreground, all points are in the background, and the other way round.
    """
    inside = draw_pixels(masks, max(count // 2, 1), generator)
    outside = draw_pixels(~masks, count - inside.shape[1], generator)
    pixels = torch.cat([inside, outside], dim=1)
    order = torch.rand(pixels.shape[:2], generator=generator).argsort(1).to(pixels.device)
    pixels = pixels.gather(1, order[..., None].expand_as(pixels))
    return Points(pixels.float(), gather_values(masks, pixels).long())


def draw_error_points(logits: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Points:
    """Draws `count` clicks per mask where logits (M, 1, S, S) are wrong, labelled with the truth in `labels`, 0 or 1.

    If no pixel of a mask is wrong, its points have the label -1: "no point" to the prompt encoder.
    """
    truth = labels[:, 0] > 0.5
    wrong = (logits[:, 0].float().sigmoid() > 0.5) != truth
    pixels = draw_pixels(wrong, count, generator)
    return Points(pixels.float(), gather_values(truth, pixels).long().masked_fill(~gather_values(wrong, pixels), -1))


def find_box(mask: np.ndarray) -> np.ndarray:
    """Mask, bool (H, W) -> the box around its largest 8-connected region, float32 (4,): x0, y0, x1, y1.

    x1 and y1 are exclusive: they are one more than the last column and row. If several regions have the largest area,
    the one with the first pixel counts, row by row. Raises ValueError if the mask has no foreground.
    """
    count, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        raise ValueError("a mask without foreground has no box")
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + np.flatnonzero(areas == areas.max())
    if len(largest) > 1:  # OpenCV does not number regions by their first pixels
        largest = regions.flat[[np.isin(regions, largest).argmax()]]
    left, top, width, height = stats[largest[0], :4]
    return np.array([left, top, left + width, top + height], np.float32)


def jitter_box(box: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Returns a box (4,) that is shifted by random whole pixels, as in the released code. Its size does not change.

    Each of the two shifts is from -m to m - 1. m is 5, or half of the shorter side if that is less. The box may leave
    the image.
    """
    limit = min(NOISE, int(0.5 * min(box[2] - box[0], box[3] - box[1])))
    if limit == 0:
        return box
    x, y = torch.randint(-limit, limit, (2,), generator=generator).tolist()
    return box + np.array([x, y, x, y], np.float32)


class Rounds(NamedTuple):
    """The kinds of prompts of a training batch (arXiv 2308.16184, section 3.3)."""

    boxes: bool  # the first round takes the boxes; otherwise it takes the points
    # the number of clicks per mask for each later round. 0 means: the previous mask is the only prompt.
    points: tuple[int, ...]


def draw_rounds(generator: torch.Generator, iter_point: int = 8, point_list: Sequence[int] = POINTS) -> Rounds:
    """Draws the prompts of a batch as the released code does.

    The first round takes boxes or points with equal probability. Then follow `iter_point` rounds with numbers of clicks
    from `point_list`. The last of these rounds has no clicks. One random round between the first and the last has no
    clicks either. With one or two rounds, only the last has no clicks; the released code fails there.
    """
    boxes = bool(torch.randint(2, (), generator=generator))
    choices = torch.randint(len(point_list), (iter_point,), generator=generator).tolist()
    without_clicks = {iter_point - 1}
    if iter_point > 2:
        without_clicks.add(int(torch.randint(1, iter_point - 1, (), generator=generator)))
    return Rounds(boxes, tuple(0 if i in without_clicks else point_list[choice] for i, choice in enumerate(choices)))
