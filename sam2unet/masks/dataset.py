"""Pairs of images and masks for training. They stay 8-bit until the device, which flips and normalises them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..classes import Classes
from ..data.batches import Draw
from ..data.index.table import ImageSequence
from ..data.pairs import Pair
from ..data.volumes.slices import Source
from ..errors import UserError, shortlist
from ..recipe import MaskRule
from .augment import jitter_pair
from .transforms import normalise_image, pair_bytes, to_unit


class MaskBatch(NamedTuple):
    """A batch of B resized pairs."""

    # images and masks: uint8 (B, 3, S, S) and (B, 1, S, S), not flipped
    images: Tensor
    masks: Tensor
    flips: Tensor  # bool (B, 2): mirror left-right, mirror top-bottom
    indices: Tensor  # (B,) indices in the list of pairs
    skipped: tuple[str, ...] = ()  # for each pair that is left out because it cannot be read, the reason
    has_classes: bool = False  # the masks hold indices of classes
    jitter: Tensor | None = None  # (B, JITTER), the random numbers of the augmentation

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns flipped, augmented and normalised images (B, 3, S, S) and masks (B, 1, S, S), on `device`.

        The masks are in [0, 1]. With `has_classes` they stay uint8 indices.
        """
        images, masks, flips = (part.to(device, non_blocking=True) for part in self[:3])
        for axis, is_flipped in ((-1, flips[:, 0]), (-2, flips[:, 1])):
            selection = is_flipped.view(-1, 1, 1, 1)
            images, masks = (torch.where(selection, part.flip(axis), part) for part in (images, masks))
        if self.jitter is not None:
            images, masks = jitter_pair(images, masks, self.jitter.to(device, non_blocking=True), self.has_classes)
        return normalise_image(images), masks if self.has_classes else to_unit(masks)


class MaskFolder(Dataset):
    """Pairs of images and masks. `dataset[index]` gives one pair, `__getitems__` a batch for training.

    Args:
        size: S, the side in pixels of the square that images and masks are resized to.
        cache: uint8 (pairs, 4, S, S), from `masks.cache`. None: read the files.
        skip_bad: leave out pairs of a batch that cannot be read. False: raise UserError.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        size: int,
        mask_threshold: MaskRule = None,
        cache: Tensor | None = None,
        skip_bad: bool = False,
    ):
        self.pairs, self.size, self.mask_threshold = pairs, size, mask_threshold
        self.cache, self.skip_bad = cache, skip_bad

    @property
    def images(self) -> Sequence[Source]:
        return ImageSequence(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns an image (3, S, S) and its mask (1, S, S), uint8, resized. UserError for an unreadable file."""
        if self.cache is None:
            return pair_bytes(self.pairs[index], self.size, self.mask_threshold)
        return self.cache[index][:3], self.cache[index][3:]

    def __getitems__(self, draws: Sequence[Draw]) -> MaskBatch:
        """Returns the pairs of a batch with what was drawn for them. PyTorch's loader calls this method."""
        read, jitters, skipped = [], [], []
        for draw in draws:
            try:
                read.append((*self[draw.index], torch.tensor((draw.mirror, draw.tip)), torch.tensor(draw.index)))
                jitters.append(draw.jitter)
            except UserError as e:
                if not self.skip_bad:
                    raise UserError(f"{e} (--on_bad_image skip goes on without it)") from e
                skipped.append(str(e))
        if not read:
            names = [self.pairs[draw.index].image.name for draw in draws]
            text = f"nothing in a batch could be read: {shortlist(names)} ({skipped[0]})"
            raise UserError(f"{text}; is the disk still there?")
        images, masks, flips, indices = map(torch.stack, zip(*read, strict=True))
        jitter = torch.tensor(jitters) if jitters[0] else None
        has_classes = isinstance(self.mask_threshold, Classes)
        return MaskBatch(images, masks, flips, indices, tuple(skipped), has_classes, jitter)
