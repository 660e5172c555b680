"""Images with their masks as columns, in memory or in memory-mapped files, for any number of images.

Letters: N images, M masks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from ..packed import LazySequence, Packed, pack_sources
from ..pairs import Pair
from ..volumes.slices import Source


class ImageMasks(NamedTuple):
    """An image and its masks. Each mask holds one object."""

    image: Source
    masks: tuple[Source, ...]


@dataclass(frozen=True)
class ImageTable:
    """Images with their masks. The masks of an image lie one after another."""

    images: Packed[Source]
    masks: Packed[Source]
    ends: ndarray  # int64 (N,), the position after the last mask of each image
    # name of a column of `index.columns` -> (N,) or (M,)
    facts: dict[str, ndarray] = field(default_factory=dict)

    @classmethod
    def pack(cls, items: Iterable[ImageMasks]) -> "ImageTable":
        items = list(items)
        ends = np.cumsum([len(item.masks) for item in items], dtype=np.int64)
        return cls(pack_sources(i.image for i in items), pack_sources(m for i in items for m in i.masks), ends)


def pick_type(count: int) -> type[np.signedinteger]:
    """Returns the smaller type that can hold positions up to `count`."""
    return np.int32 if count < 2**31 else np.int64


class Items(LazySequence[ImageMasks]):
    """Chosen images of a table, each with its chosen masks.

    Args:
        rows: (n,), the rows of the images in the table.
        masks: (m,), the rows of the masks in the table, grouped by image in the order of `rows`.
        ends: int64 (n,), the position in `masks` after the last mask of each image.
    """

    def __init__(self, table: ImageTable, rows: ndarray, masks: ndarray, ends: ndarray):
        self.table, self.rows, self.masks, self.ends = table, rows, masks, ends

    @classmethod
    def pack(cls, items: Iterable[ImageMasks]) -> "Items":
        """Returns all items of a new table in memory."""
        return cls.all(ImageTable.pack(items))

    @classmethod
    def all(cls, table: ImageTable) -> "Items":
        rows, masks = (np.arange(len(column), dtype=pick_type(len(column))) for column in (table.images, table.masks))
        return cls(table, rows, masks, table.ends)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> ImageMasks:
        masks = self.masks[self.ends[index - 1] if index else 0 : self.ends[index]]
        return ImageMasks(self.table.images[self.rows[index]], tuple(self.table.masks[mask] for mask in masks))

    def choose(self, is_kept: ndarray) -> "Items":
        """Returns the items for which `is_kept`, bool (n,), is true."""
        return self.reorder(np.flatnonzero(is_kept))

    def reorder(self, order: ndarray) -> "Items":
        """Returns the items at the positions `order`."""
        starts = np.where(order > 0, self.ends[order - 1], 0)
        counts = self.ends[order] - starts
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
        return Items(self.table, self.rows[order], self.masks[places], ends.astype(pick_type(len(places))))

    @property
    def pairs(self) -> "Pairs":
        return Pairs(self)


class Pairs(LazySequence[Pair]):
    """Every mask of `items` with its image. An image with several masks occurs several times."""

    def __init__(self, items: Items):
        self.items = items

    @classmethod
    def pack(cls, pairs: Iterable[Pair]) -> "Pairs":
        """Returns the pairs of a new table in memory. Neighbours with the same image share it."""
        items: list[ImageMasks] = []
        for image, mask in pairs:
            if items and items[-1].image == image:
                items[-1] = ImageMasks(image, (*items[-1].masks, mask))
            else:
                items.append(ImageMasks(image, (mask,)))
        return cls(Items.pack(items))

    @property
    def numbers(self) -> ndarray:
        """The position of the image of each pair in `items`, int64 (m,)."""
        return np.repeat(np.arange(len(self.items)), np.diff(self.items.ends, prepend=0))

    def __len__(self) -> int:
        return len(self.items.masks)

    def read(self, index: int) -> Pair:
        items = self.items
        image = items.rows[np.searchsorted(items.ends, index, side="right")]
        return Pair(items.table.images[image], items.table.masks[items.masks[index]])

    def choose(self, is_kept: ndarray) -> "Pairs":
        """Returns the pairs for which `is_kept`, bool (m,), is true."""
        items = self.items
        owners = self.numbers[is_kept]
        counts = np.bincount(owners, minlength=len(items))
        kept = counts > 0
        return Pairs(Items(items.table, items.rows[kept], items.masks[is_kept], np.cumsum(counts[kept])))


class ImageSequence(LazySequence[Source]):
    """The images of items or of pairs."""

    def __init__(self, rows: Sequence[ImageMasks] | Sequence[Pair]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Source:
        return self.rows[index].image
