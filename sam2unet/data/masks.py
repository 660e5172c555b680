"""Pairs of images and masks for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from .pairs import Pair
from .transforms import load_pair


class MaskFolder(Dataset):
    """Pairs as `load_pair` gives them, flipped as the sampler says."""

    def __init__(self, pairs: Sequence[Pair], size: int, mask_threshold: int | None = None):
        self.pairs = pairs
        self.size = size
        self.mask_threshold = mask_threshold

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: tuple[int, bool, bool]) -> tuple[Tensor, Tensor]:
        """(index, mirror left-right, mirror top-bottom) -> image (3, S, S), mask (1, S, S)."""
        index, mirror, tip = draw
        image, mask = load_pair(*self.pairs[index], self.size, self.mask_threshold)
        axes = [axis for axis, flips in ((-1, mirror), (-2, tip)) if flips]
        return image.flip(axes), mask.flip(axes)


class ShuffledFlips(Sampler):
    """Every index once per epoch in random order, with two flips of probability 1/2 each.

    Order and flips are drawn here, in one process, so that a seed means the same run whatever the number of workers.
    """

    def __init__(self, length: int, seed: int):
        self.length = length
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, bool, bool]]:
        order = torch.randperm(self.length, generator=self.generator).tolist()
        flips = torch.rand(self.length, 2, generator=self.generator) < 0.5
        for index, (mirror, tip) in zip(order, flips.tolist(), strict=True):
            yield index, mirror, tip
