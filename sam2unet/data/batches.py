"""Which pairs go into which batch. This depends on seed and epoch alone, so a run can continue at any batch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from ..errors import UserError


def make_generator(*key: int) -> torch.Generator:
    """Returns a CPU generator that is seeded by `key`. Different keys give independent streams.

    Zeros at the end of a key do not count: (1, 2) and (1, 2, 0) are the same key.
    """
    return torch.Generator().manual_seed(make_seed(*key))


def make_seed(*key: int) -> int:
    """Returns a seed below 2^63 for `key`, see `make_generator`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1  # NumPy 1 shifts no uint64 by an int


JITTER = 11  # random numbers that the augmentation of an image needs


class Draw(NamedTuple):
    """A pair and its random flips."""

    index: int  # type: ignore[assignment]  # hides `tuple.index`
    mirror: bool  # flip left-right
    tip: bool  # flip top-bottom
    jitter: tuple[float, ...] = ()  # with `augment`, JITTER uniform numbers in [-1, 1]; see `masks.augment`


class Batches(Sampler):
    """Yields the batches of an epoch: every index once, in random order, with two flips of probability 1/2 each.

    With `repeat`, an epoch is so many passes, and every index comes once in each. With `augment`, each draw has random
    numbers. The last batch may be smaller. Each of `world` processes takes its share of every batch; `batch_size`
    counts the images of all. If the last batch has fewer images than there are processes, it is merged with the batch
    before it. Raises UserError if all batches have.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        repeat: int = 1,
        augment: bool = False,
    ):
        if min(batch_size, length) < world:
            raise UserError(
                f"a batch of {min(batch_size, length)} images cannot be shared by {world} processes; --batch_size "
                "counts the images of all processes together"
            )
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.repeat, self.augment, total = repeat, augment, length * repeat
        starts = list(range(0, total, batch_size))
        if len(starts) > 1 and total - starts[-1] < world:
            starts.pop()
        self.bounds = list(zip(starts, [*starts[1:], total], strict=True))
        self.start(epoch=1)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Sets the epoch and the first batch of the next iteration. Epochs count from 1, batches from 0."""
        self.epoch = epoch
        self.first = batch

    @property
    def count(self) -> int:
        """The number of batches in a whole epoch."""
        return len(self.bounds)

    @property
    def total(self) -> int:
        """The number of images in a whole epoch, with repetitions, of all processes together."""
        return self.bounds[-1][1]

    def __len__(self) -> int:
        return self.count - self.first

    def images(self, batch: int) -> int:
        """Returns the number of images in a batch, of all processes together."""
        begin, end = self.bounds[batch]
        return end - begin

    def __iter__(self) -> Iterator[list[Any]]:
        generator = make_generator(self.seed, self.epoch)
        order = torch.cat([torch.randperm(self.length, generator=generator) for _ in range(self.repeat)]).tolist()
        flips = (torch.rand(len(order), 2, generator=generator) < 0.5).tolist()
        count = JITTER if self.augment else 0
        jitters = (2 * torch.rand(len(order), count, generator=generator) - 1).tolist()
        rows = zip(order, flips, jitters, strict=True)
        draws = [Draw(index, flip[0], flip[1], tuple(jitter)) for index, flip, jitter in rows]
        for begin, end in self.bounds[self.first :]:
            yield draws[begin + self.rank : end : self.world]
