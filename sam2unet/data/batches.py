"""Which pairs go into which batch: a function of seed and epoch, so that any place in a run can be found again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from ..errors import UserError


def generator_of(*key: int) -> torch.Generator:
    """On the CPU. Streams of different keys have nothing in common, but zeros at a key's end do not count."""
    words = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


class Draw(NamedTuple):
    index: int
    mirror: bool  # left-right
    tip: bool  # top-bottom


class Batches(Sampler):
    """Every index once per epoch in random order, with two flips of probability 1/2 each, in batches.

    The last batch may be smaller. Of several processes each takes its share of every batch; a last batch of fewer
    images than processes joins the one before.

    Args:
        batch_size: images in a batch of all processes together.
        rank, world: which of how many processes this is.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if min(batch_size, length) < world:
            raise UserError(
                f"a batch of {min(batch_size, length)} images cannot be shared by {world} processes; --batch_size "
                "counts the images of all processes together"
            )
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world = world
        starts = list(range(0, length, batch_size))
        if len(starts) > 1 and length - starts[-1] < world:
            starts.pop()
        self.bounds = list(zip(starts, [*starts[1:], length], strict=True))
        self.start(epoch=1)

    def start(self, epoch: int, batch: int = 0) -> None:
        """The next iteration is over this epoch, from this batch on."""
        self.epoch = epoch
        self.first = batch

    @property
    def count(self) -> int:
        """Of batches in an epoch."""
        return len(self.bounds)

    def __len__(self) -> int:
        return self.count - self.first

    def images(self, batch: int) -> int:
        """In the whole of a batch."""
        begin, end = self.bounds[batch]
        return end - begin

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = generator_of(self.seed, self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        flips = (torch.rand(self.length, 2, generator=generator) < 0.5).tolist()
        draws = [Draw(index, *flip) for index, flip in zip(order, flips, strict=True)]
        for begin, end in self.bounds[self.first :]:
            yield draws[begin + self.rank : end : self.world]
