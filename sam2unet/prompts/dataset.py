"""The training data of SAM-Med2D: images, some of their masks, and the first prompts for each mask.

Letters: B images, K masks per image, M masks of a batch, N points per mask, S side of the square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data.batches import Batches, make_generator
from ..data.index.table import ImageMasks, ImageSequence
from ..data.volumes.slices import Source
from ..errors import UserError, shortlist
from .clicks import Points, draw_first_points, find_box, jitter_box, join_points
from .framing import Frame, Framing, normalise_square

RELEASED = Framing()
ITEM, STEP = 1, 2  # parts of a key: the random streams of the data set and of the training step


class PromptDraw(NamedTuple):
    """An image, and the seed of the random streams for its masks and prompts."""

    index: int  # type: ignore[assignment]  # the position of the image in the list; hides `tuple.index`
    seed: int
    epoch: int
    batch: int  # the position of the batch in the epoch. All processes use the same positions.


class PromptBatches(Batches):
    """Every image once per epoch in random order, without flips. The released training has no augmentation."""

    def __iter__(self) -> Iterator[list[PromptDraw]]:
        for batch, draws in enumerate(super().__iter__(), self.seen // self.batch_size):
            yield [PromptDraw(draw.index, self.seed, self.epoch, batch) for draw in draws]


class PromptTensors(NamedTuple):
    """The input of a training step. Each image has M / B masks. The masks of the first image come first."""

    images: Tensor  # float32 (B, 3, S, S), normalised
    labels: Tensor  # float32 (M, 1, S, S), 0 or 1
    boxes: Tensor  # float32 (M, 1, 4), x0, y0, x1, y1 in pixels of the square
    points: Points  # coordinates (M, N, 2) and labels (M, N)
    shared: torch.Generator  # a generator with the same state in all processes, for `draw_rounds`
    local: torch.Generator  # a generator with another state in each process, for `draw_error_points`


class PromptBatch(NamedTuple):
    """A batch on the CPU."""

    images: Tensor  # uint8 (B, 3, S, S), not normalised
    labels: Tensor  # uint8 (M, 1, S, S), 0 or 1
    frames: tuple[Frame, ...]  # the position of each image in its square
    # boxes and points: as in `PromptTensors`
    boxes: Tensor
    points: Points
    indices: Tensor  # (B,), the positions of the images in the list
    names: tuple[str, ...]  # the file names of the M masks
    key: tuple[int, ...] = (0,)  # seed, epoch and batch. They seed the generators of the step.
    skipped: tuple[str, ...] = ()  # messages about files that were left out

    def on(self, device: torch.device) -> PromptTensors:
        """Returns the batch on `device`, normalised, with new generators."""
        parts = (self.images, self.labels, self.boxes, *self.points)
        images, labels, boxes, *points = (part.to(device, non_blocking=True) for part in parts)
        shared, local = make_generator(*self.key, STEP), make_generator(*self.key, STEP, 1 + int(self.indices[0]))
        images = normalise_square(images, self.frames)
        return PromptTensors(images, labels.float(), boxes, Points(*points), shared, local)


class PromptFolder(Dataset):
    """Images for training. `dataset[index]` gives one `PromptItem`, `__getitems__` a batch.

    An item has `mask_num` masks of its image, drawn with replacement. Each mask has a box that is shifted at random and
    one point. An item depends only on the seed, the epoch and its index. With `skip_bad`, other masks of the same image
    replace those that cannot be used, and images without masks are left out.
    """

    def __init__(
        self, items: Sequence[ImageMasks], framing: Framing = RELEASED, mask_num: int = 5, skip_bad: bool = False
    ):
        self.items, self.framing, self.mask_num, self.skip_bad = items, framing, mask_num, skip_bad

    @property
    def images(self) -> Sequence[Source]:
        return ImageSequence(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> PromptItem:
        """Returns an image with what seed 0 draws for it in epoch 1. Raises UserError if a file cannot be used."""
        return self.read_item(PromptDraw(index, seed=0, epoch=1, batch=0), [])

    def __getitems__(self, draws: Sequence[PromptDraw]) -> PromptBatch:
        """Returns the items of a batch with their draws. PyTorch's loader calls this method."""
        items, indices = [], []
        skipped: list[str] = []
        for draw in draws:
            try:
                items.append(self.read_item(draw, skipped))
                indices.append(draw.index)
            except UserError as e:
                if not self.skip_bad:
                    raise UserError(f"{e} (--on_bad_image skip goes on without it)") from e
                skipped.append(str(e))
        if not items:
            names = [self.items[draw.index].image.name for draw in draws]
            raise UserError(
                f"no image of a batch could be used: {shortlist(names)} ({skipped[0]}); is the disk still connected?"
            )
        _, seed, epoch, batch = draws[0]
        return stack_items(items, indices, key=(seed, epoch, batch), skipped=skipped)

    def read_item(self, draw: PromptDraw, skipped: list[str]) -> PromptItem:
        """Reads an image and draws its masks and prompts. Adds a message to `skipped` for each mask it leaves out."""
        generator = make_generator(draw.seed, draw.epoch, draw.index, ITEM)
        path, masks = self.items[draw.index]
        image, frame = self.framing.image(path)
        labels_by_mask: dict[Source, np.ndarray] = {}
        usable = list(masks)
        drawn: list[Source] = []
        while len(drawn) < self.mask_num:
            mask = usable[int(torch.randint(len(usable), (), generator=generator))]
            try:
                if mask not in labels_by_mask:
                    labels_by_mask[mask], _ = self.framing.label(mask, frame)
            except UserError as e:
                usable.remove(mask)
                if not (self.skip_bad and usable):
                    raise
                skipped.append(str(e))
                continue
            drawn.append(mask)
        labels = np.stack([labels_by_mask[mask] for mask in drawn])
        boxes = np.stack([jitter_box(find_box(label), generator) for label in labels])
        points = draw_first_points(torch.from_numpy(labels), 1, generator)
        return PromptItem(image, frame, labels, boxes, points, tuple(mask.name for mask in drawn))


class PromptItem(NamedTuple):
    """One image with K masks and their first prompts."""

    image: Tensor  # uint8 (3, S, S), not normalised
    frame: Frame  # the position of the image in the square
    labels: np.ndarray  # bool (K, S, S), the masks
    boxes: np.ndarray  # (K, 4), x0, y0, x1, y1 in pixels of the square
    points: Points  # coordinates (K, N, 2) and labels (K, N)
    names: tuple[str, ...]  # file names of the masks


def stack_items(
    items: Sequence[PromptItem], indices: Sequence[int], key: tuple[int, ...] = (0,), skipped: Sequence[str] = ()
) -> PromptBatch:
    """Joins items to a batch. `indices`, `key` and `skipped` are as in `PromptBatch`."""
    images, frames, labels, boxes, points, names = zip(*items, strict=True)
    labels = torch.from_numpy(np.concatenate(labels).astype(np.uint8)[:, None])
    boxes = torch.from_numpy(np.concatenate(boxes)[:, None])
    prompts = (boxes, join_points(points), torch.tensor(indices), sum(names, ()))
    return PromptBatch(torch.stack(images), labels, frames, *prompts, key, tuple(skipped))
