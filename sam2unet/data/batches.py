"""Which pairs go into which batch. This depends on seed and epoch alone, so a run can continue at any image."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from ..errors import UserError
from ..runtime.parallel import batched
from .order import draw_uniform, make_keys, permute

# The version of the order, for `last.pt`. Older versions, without a number, drew the order of an epoch as a list.
ORDER = 2
CHUNK = 64  # batches whose draws are computed together


def make_generator(*key: int) -> torch.Generator:
    """Returns a CPU generator that is seeded by `key`. Different keys give independent streams.

    Zeros at the end of a key do not count: (1, 2) and (1, 2, 0) are the same key.
    """
    return torch.Generator().manual_seed(make_seed(*key))


def make_seed(*key: int) -> int:
    """Returns a seed below 2^63 for `key`, see `make_generator`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1  # NumPy 1 shifts no uint64 by an int


JITTER = 11  # random numbers that the augmentation of an image needs
FLIPS = 2  # random numbers for the flips of an image
NUMBERS = 1  # the last number in the key of the random numbers of an epoch


class Draw(NamedTuple):
    """A pair and its random flips."""

    index: int  # type: ignore[assignment]  # hides `tuple.index`
    mirror: bool  # flip left-right
    tip: bool  # flip top-bottom
    jitter: tuple[float, ...] = ()  # with `augment`, JITTER uniform numbers in [-1, 1]; see `masks.augment`


class Batches(Sampler):
    """Yields the batches of an epoch: every index once, in random order, with two flips of probability 1/2 each.

    An epoch has `repeat` passes, and every index comes once in each pass. With `augment`, each draw has random numbers.
    The last batch may be smaller. Each of `world` processes takes its share of every batch; `batch_size` counts the
    images of all processes. If the last batch has fewer images than there are processes, it is merged with the batch
    before it. Raises UserError if a whole batch, or the data set, has fewer images than there are processes.

    With `groups`, the groups take turns, so that each has the same number of draws, whatever its size. Within a group,
    every index comes once before one comes again. An epoch has as many draws as without groups.

    The draws are numbered by their position in the epoch, from 0. A draw depends on the seed, the epoch and its
    position alone, and not on the number of processes.

    Args:
        groups: int64 (G + 1,), ascending. The indices of group g are those from groups[g] to below groups[g + 1]. None:
            one group.
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
        groups: np.ndarray | None = None,
    ):
        if min(batch_size, length) < world:
            raise UserError(
                f"a batch of {min(batch_size, length)} images cannot be shared by {world} processes; --batch_size "
                "counts the images of all processes together"
            )
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.augment, self.total = augment, length * repeat  # images of a whole epoch, of all processes
        self.starts = np.unique([0, length] if groups is None else groups)  # without empty groups
        self.start(epoch=1)

    def start(self, epoch: int, seen: int = 0) -> None:
        """Sets the epoch, from 1, and the position of the first draw of the next iteration."""
        self.epoch, self.seen = epoch, seen

    def bounds(self, position: int) -> Iterator[tuple[int, int]]:
        """Yields the first position of each batch, and the position after its last one. The first one is `position`.

        Only a run that continues with more processes can have a batch with fewer images than processes.
        """
        while position < self.total:
            end = position + self.batch_size
            end = self.total if self.total - end < self.world else end
            yield position, end
            position = end

    @property
    def count(self) -> int:
        """The number of batches in a whole epoch."""
        return self.count_batches(self.total)

    def count_batches(self, images: int) -> int:
        """Returns the number of batches that the last `images` images of an epoch fill."""
        full, rest = divmod(images, self.batch_size)
        return full + bool(rest >= self.world or rest and not full)

    def __len__(self) -> int:
        return self.count_batches(self.total - self.seen)

    def __iter__(self) -> Iterator[list[Any]]:
        for chunk in batched(self.bounds(self.seen), CHUNK):
            shares = [range(begin + self.rank, end, self.world) or range(begin, begin + 1) for begin, end in chunk]
            draws = iter(self.draw(np.fromiter(itertools.chain.from_iterable(shares), np.int64)))
            for share in shares:
                yield list(itertools.islice(draws, len(share)))

    def draw(self, positions: np.ndarray) -> list[Draw]:
        """Returns the draws at these positions, int64 (N,)."""
        turns, groups = np.divmod(positions, len(self.starts) - 1)
        sizes = np.diff(self.starts)[groups]
        passes, places = np.divmod(turns, sizes)
        keys = make_keys(make_seed(self.seed, self.epoch), groups, passes)
        indices = self.starts[groups] + permute(places, sizes, keys)
        columns = FLIPS + (JITTER if self.augment else 0)
        numbers = draw_uniform(make_seed(self.seed, self.epoch, NUMBERS), positions, columns)
        flips, jitters = (numbers[:, :FLIPS] < 0.5).tolist(), (2 * numbers[:, FLIPS:] - 1).tolist()
        rows = zip(indices.tolist(), flips, jitters, strict=True)
        return [Draw(index, mirror, tip, tuple(jitter)) for index, (mirror, tip), jitter in rows]
