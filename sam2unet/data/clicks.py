"""Prompts that stand for a user's: points in a mask, clicks where a prediction is wrong, boxes drawn with a shaky hand.

Coordinates are (x, y) in pixels of the square that the model sees. Every draw comes from the generator given, which is
the CPU's, so that a run draws the same on any device. M masks, S their side, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

NOISE = 5  # pixels by which a box is moved at most
POINTS = (1, 3, 5, 9)  # clicks in a round of training, one of these


class Points(NamedTuple):
    """Coordinates float32 (M, N, 2), and labels int64 (M, N): 1 object, 0 background, -1 no point."""

    coords: Tensor
    labels: Tensor

    def joined(self, others: Points) -> Points:
        """These, then those: in test clicks add up, in training the new ones replace the old."""
        return Points(torch.cat([self.coords, others.coords], 1), torch.cat([self.labels, others.labels], 1))


def pixels_of(region: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pixels of each region, each as likely as any other, with replacement: bool (M, H, W) -> int64 (M, count, 2).

    Of an empty region they are anywhere. Nothing waits for the device.
    """
    flat = region.flatten(1)
    reached = (flat | ~flat.any(1, keepdim=True)).cumsum(1)
    draws = torch.randint(2**31, (len(flat), count), generator=generator).to(region.device)
    ranks = draws * reached[:, -1:] >> 31  # in whole numbers: a fraction near 1 could be rounded to one pixel too far
    places = torch.searchsorted(reached, ranks, right=True)
    return torch.stack([places % region.shape[2], places // region.shape[2]], dim=-1)


def at(mask: Tensor, pixels: Tensor) -> Tensor:
    """Values of (M, H, W) at int64 (M, N, 2) -> (M, N)."""
    return mask.flatten(1).gather(1, pixels[..., 1] * mask.shape[2] + pixels[..., 0])


def first_points(masks: Tensor, count: int, generator: torch.Generator) -> Points:
    """bool (M, S, S) -> `count` points each: one in the object, or of several half in it, rounded down; shuffled.

    A mask without object has all of them in the background, one without background all in the object.
    """
    inside = pixels_of(masks, max(count // 2, 1), generator)
    outside = pixels_of(~masks, count - inside.shape[1], generator)
    pixels = torch.cat([inside, outside], dim=1)
    order = torch.rand(pixels.shape[:2], generator=generator).argsort(1).to(pixels.device)
    pixels = pixels.gather(1, order[..., None].expand_as(pixels))
    return Points(pixels.float(), at(masks, pixels).long())


def error_points(logits: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Points:
    """Clicks for the next round: `count` pixels of each mask where the prediction is wrong, labelled with the truth.

    Args:
        logits: of the selected mask (M, 1, S, S), before the sigmoid.
        labels: (M, 1, S, S) in {0, 1}.

    Returns:
        Points; where nothing is wrong, anywhere with label -1, which the prompt encoder takes for no point.
    """
    truth = labels[:, 0] > 0.5
    wrong = (logits[:, 0].float().sigmoid() > 0.5) != truth
    pixels = pixels_of(wrong, count, generator)
    return Points(pixels.float(), at(truth, pixels).long().masked_fill(~at(wrong, pixels), -1))


def box_of(mask: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1, float32 (4,), around the largest 8-connected region of bool (H, W); the ends are exclusive.

    Of regions of one size the one that is met first, row by row. ValueError if there is none.
    """
    count, regions, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        raise ValueError("a mask without foreground has no box")
    areas = facts[1:, cv2.CC_STAT_AREA]
    largest = 1 + np.flatnonzero(areas == areas.max())
    if len(largest) > 1:  # OpenCV does not number them in the order of their first pixels
        largest = [regions.flat[np.isin(regions, largest).argmax()]]
    left, top, width, height = facts[largest[0], :4]
    return np.array([left, top, left + width, top + height], np.float32)


def moved(box: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """A box (4,) as a whole moved by whole pixels, each way from -m to m - 1: m is 5, or half the shorter side.

    The released noise: the size stays, and a box may leave the image.
    """
    most = min(NOISE, int(0.5 * min(box[2] - box[0], box[3] - box[1])))
    if most == 0:
        return box
    x, y = torch.randint(-most, most, (2,), generator=generator).tolist()
    return box + np.array([x, y, x, y], np.float32)


class Rounds(NamedTuple):
    """The prompts of a training batch.

    Attributes:
        boxes: the first pass takes the boxes, not the points.
        points: of each later round, how many clicks a mask gets; 0 for the previous mask alone.
    """

    boxes: bool
    points: tuple[int, ...]


def training_rounds(generator: torch.Generator, iter_point: int = 8, point_list: Sequence[int] = POINTS) -> Rounds:
    """The released draw: a coin, then `iter_point` rounds with the last and one from the second on without points.

    With fewer than three rounds only the last is without; the released code stops there.
    """
    boxes = bool(torch.randint(2, (), generator=generator))
    chosen = torch.randint(len(point_list), (iter_point,), generator=generator).tolist()
    bare = {iter_point - 1}
    if iter_point > 2:
        bare.add(int(torch.randint(1, iter_point - 1, (), generator=generator)))
    return Rounds(boxes, tuple(0 if i in bare else point_list[choice] for i, choice in enumerate(chosen)))
