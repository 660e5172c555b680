"""What a test of prompts takes: an image with the masks that are asked for, and the prompts to ask with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .batches import generator_of
from .clicks import Points, box_of, first_points
from .framing import Frame, Framing
from .pairs import Pair
from .prompt_files import Prompts

FIRST, CLICKS = 1, 2  # in keys: streams of the first points, and of later clicks


class TestImage(NamedTuple):
    """An image and K of its masks.

    Attributes:
        square: uint8 (1, 3, S, S), not normalised.
        labels: float32 (K, 1, S, S), 0 or 1.
        wholes: float32 (K, 1, height, width), the same in the image's own size.
        places: of the masks in the list of pairs.
    """

    square: Tensor
    frame: Frame
    labels: Tensor
    wholes: Tensor
    places: tuple[int, ...]


def groups_of(pairs: Sequence[Pair], most: int, places: Sequence[int] | None = None) -> list[list[int]]:
    """`places`, or all, by image, in the order in which the images come first; at most so many together."""
    by_image: dict[object, list[int]] = {}
    for place in range(len(pairs)) if places is None else places:
        by_image.setdefault(pairs[place].image, []).append(place)
    return [places[i : i + most] for places in by_image.values() for i in range(0, len(places), most)]


def read_group(pairs: Sequence[Pair], places: Sequence[int], framing: Framing) -> TestImage:
    """UserError, naming the file, for what cannot be read or is no mask of the image."""
    square, frame = framing.image(pairs[places[0]].image)
    labels, wholes = zip(*(framing.label(pairs[place].mask, frame, strict=True) for place in places), strict=True)
    labels, wholes = (torch.from_numpy(np.stack(masks)[:, None]).float() for masks in (labels, wholes))
    return TestImage(square[None], frame, labels, wholes, tuple(places))


def drawn(label: Tensor, place: int, points: int, seed: int) -> Prompts:
    """The box of a mask (1, S, S) as it is, and points that depend on the seed and its place in the list alone."""
    mask = label > 0.5
    box = torch.from_numpy(box_of(mask[0].numpy()))
    return Prompts(box[None], first_points(mask, points, generator_of(seed, place, FIRST)))


def joined(prompts: Sequence[Prompts]) -> Prompts:
    """Of K masks with as many points each: boxes (K, 4), points (K, N, 2) and (K, N)."""
    boxes, points = zip(*prompts, strict=True)
    return Prompts(torch.cat(boxes), Points(*(torch.cat(parts) for parts in zip(*points, strict=True))))
