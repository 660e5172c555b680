"""Which pairs go into which batch. This depends on seed and epoch alone, so a run can continue at any batch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from ..errors import UserError


def make_generator(*key: int) -> torch.Generator:
    """Returns a CPU generator that is seeded by `key`. Different keys give independent streams.

    Zeros at the end of a key do not count: (1, 2) and (1, 2, 0) are the same key.
    """
    words = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> 1))


class Draw(NamedTuple):
    """A pair and its random flips."""

    index: int
    mirror: bool  # flip left-right
    tip: bool  # flip top-bottom


class Batches(Sampler):
    """Yields the batches of an epoch: every index once, in random order, with two flips of probability 1/2 each.

    The last batch may be smaller. Each of `world` processes takes its share of every batch; `batch_size` counts the
    images of all. If the last batch has fewer images than there are processes, it is merged with the batch before it.
    Raises UserError if all batches have.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if min(batch_size, length) < world:
            raise UserError(
                f"a batch of {min(batch_size, length)} images cannot be shared by {world} processes; --batch_size "
                "counts the images of all processes together"
            )
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        starts = list(range(0, length, batch_size))
        if len(starts) > 1 and length - starts[-1] < world:
            starts.pop()
        self.bounds = list(zip(starts, [*starts[1:], length], strict=True))
        self.start(epoch=1)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Sets the epoch and the first batch of the next iteration. Epochs count from 1, batches from 0."""
        self.epoch = epoch
        self.first = batch

    @property
    def count(self) -> int:
        """The number of batches in a whole epoch."""
        return len(self.bounds)

    def __len__(self) -> int:
        return self.count - self.first

    def images(self, batch: int) -> int:
        """Returns the number of images in a batch, of all processes together."""
        begin, end = self.bounds[batch]
        return end - begin

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = make_generator(self.seed, self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        flips = (torch.rand(self.length, 2, generator=generator) < 0.5).tolist()
        draws = [Draw(index, *flip) for index, flip in zip(order, flips, strict=True)]
        for begin, end in self.bounds[self.first :]:
            yield draws[begin + self.rank : end : self.world]
