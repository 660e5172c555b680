"""Masks for the test, grouped by image, and the first prompts for them.

Letters: K masks of one image, N points per mask, S side of the square. `height` and `width` are those of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.batches import make_generator
from ..data.pairs import Pair
from ..data.slices import Source
from .clicks import draw_first_points, find_box
from .framing import Frame, Framing
from .lists import BoxAndPoints

FIRST, CLICKS = 1, 2  # parts of a key: the random streams of the first points, and of the later clicks


class ImageGroup(NamedTuple):
    """An image and K of its masks."""

    square: Tensor  # uint8 (1, 3, S, S), not normalised
    frame: Frame  # the position of the image in the square
    labels: Tensor  # float32 (K, 1, S, S), 0 or 1
    originals: Tensor  # float32 (K, 1, height, width), the same masks in their original size
    indices: tuple[int, ...]  # the positions of the masks in the list of pairs


def group_by_image(
    pairs: Sequence[Pair], indices: Sequence[int] | None = None, limit: int | None = None
) -> list[list[int]]:
    """Groups positions in the list of pairs by image, in the order in which the images first occur.

    `indices` are the positions to group, by default all. A group with more than `limit` positions is split.
    """
    groups: dict[Source, list[int]] = {}
    for index in range(len(pairs)) if indices is None else indices:
        groups.setdefault(pairs[index].image, []).append(index)
    size = limit or len(pairs)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def read_group(pairs: Sequence[Pair], indices: Sequence[int], framing: Framing) -> ImageGroup:
    """Reads the image of the pairs at `indices`, and their masks. Raises UserError if a file cannot be used."""
    square, frame = framing.image(pairs[indices[0]].image)
    masks = [framing.label(pairs[index].mask, frame, strict=True) for index in indices]
    labels, originals = (torch.from_numpy(np.stack(part)[:, None]).float() for part in zip(*masks, strict=True))
    return ImageGroup(square[None], frame, labels, originals, tuple(indices))


def draw_prompts(label: Tensor, index: int, count: int, seed: int) -> BoxAndPoints:
    """Returns the exact box of a mask (1, S, S), and `count` points, which the seed and its position `index` decide."""
    mask = label > 0.5
    box = torch.from_numpy(find_box(mask[0].numpy()))
    return BoxAndPoints(box[None], draw_first_points(mask, count, make_generator(seed, index, FIRST)))
