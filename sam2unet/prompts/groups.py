"""Masks for the test, grouped by image, and the first prompts for them.

Letters: K masks of one image, N points per mask, S side of the square. `height` and `width` are those of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.batches import make_generator
from ..data.packed import LazySequence, find_positions, hash_all
from ..data.pairs import Pair
from ..errors import UserError
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
    problems: tuple[str, ...] = ()  # why further masks of the image cannot be used


class ImageGroups(LazySequence[list[int]]):
    """Positions in the list of pairs, grouped by image.

    Args:
        order: int64 (N,), the positions, group after group.
        starts: int64 (groups + 1,), where the groups start in `order`, and N.
    """

    def __init__(self, order: np.ndarray, starts: np.ndarray):
        self.order, self.starts = order, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(self, index: int) -> list[int]:
        return self.order[self.starts[index] : self.starts[index + 1]].tolist()


def number_images(pairs: Sequence[Pair], indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the number of the image of each pair at `indices`, int64 (N,), in the order of their first occurrence."""
    hashes = hash_all(pairs[int(index)].image for index in indices)
    first = find_positions(hashes, hashes)
    return (np.cumsum(first == np.arange(len(first))) - 1)[first]


def group_by_image(
    pairs: Sequence[Pair], indices: Sequence[int] | np.ndarray | None = None, limit: int | None = None
) -> ImageGroups:
    """Groups positions in the list of pairs by image, in the order in which the images first occur.

    `indices` are the positions to group, by default all. A group with more than `limit` positions is split.
    """
    chosen = np.arange(len(pairs)) if indices is None else np.asarray(indices, np.int64)
    numbers = number_images(pairs, chosen)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    if limit:
        places = np.arange(len(order)) - starts[numbers[order]]  # in the group
        starts = np.flatnonzero(places % limit == 0)
    return ImageGroups(chosen[order], np.append(starts, len(order)))


def read_group(pairs: Sequence[Pair], indices: Sequence[int], framing: Framing, skip_bad: bool = False) -> ImageGroup:
    """Reads the image of the pairs at `indices`, and their masks. Raises UserError if a file cannot be used.

    With `skip_bad`, masks that cannot be used are left out.
    """
    square, frame = framing.image(pairs[indices[0]].image)
    masks, used, problems = [], [], []
    for index in indices:
        try:
            masks.append(framing.label(pairs[index].mask, frame, strict=True))
            used.append(index)
        except UserError as e:
            problems.append(str(e))
            if not skip_bad or len(problems) == len(indices):
                raise
    labels, originals = (torch.from_numpy(np.stack(part)[:, None]).float() for part in zip(*masks, strict=True))
    return ImageGroup(square[None], frame, labels, originals, tuple(used), tuple(problems))


def draw_prompts(label: Tensor, index: int, count: int, seed: int) -> BoxAndPoints:
    """Returns the exact box of a mask (1, S, S), and `count` points, which the seed and its position `index` decide."""
    mask = label > 0.5
    box = torch.from_numpy(find_box(mask[0].numpy()))
    return BoxAndPoints(box[None], draw_first_points(mask, count, make_generator(seed, index, FIRST)))
