"""Predicts maps from photographs: in batches, averaged over flips and scales, and with tiles.

This is the only place that predicts maps. The Python API, folders, videos, validation and the demo page use it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...classes import Classes
from ...errors import UserError
from ...families.settings import get_settings
from ...families.table import check_size, find_family_of
from ...limits import check_numbers, round_size
from ...runtime.cpu import compute_in_parallel, use_fast_linear
from ...runtime.device import autocast, check_output
from ...runtime.parallel import batched
from ..cache import free_memory
from ..transforms import image_bytes, normalise_image
from .options import Averaging
from .probability import measure_disagreement, stretch_range, to_probability_, to_uint8
from .tiles import Tile, fade_weights, list_tiles

MEMORY_PER_PIXEL = 4096  # bytes that a forward pass needs for a pixel of the input; 3300 in SAM2-UNeXT large
Forward = Callable[[Tensor], Tensor]  # normalised images (B, 3, S, S) -> logits of the map (B, C, S, S)


class Photo(NamedTuple):
    """A photograph as `Predictor.prepare` returns it.

    Attributes:
        crops: uint8 (tiles, 3, S, S) for each input side S.
        size: (height, width) of its map.
        name: what an error message calls the photograph.
        source: a value that the caller gets back with the map.
        disagreement: how much several models differ. `Predictor.predict` sets it, see `measure_disagreement`.
    """

    crops: list[Tensor]
    size: tuple[int, int]
    name: object
    source: Any
    disagreement: float = 0.0


class Predictor:
    """Predicts maps with a function that computes logits.

    Args:
        forward: computes the logits; from a model, an ONNX file or a test.
        classes: the C classes of the logits. None: C is 1, for foreground and background.
        size: side that photographs are resized to, as in training.
        stride: input sides are multiples of it.

    Attributes:
        others: functions of other models. Maps are the mean of the probabilities of all models.
        in_parallel: `predict` computes several batches at the same time.
        linear_layers: returns a context that `forward` runs in.
    """

    def __init__(
        self,
        forward: Forward,
        size: int,
        device: torch.device,
        amp: str = "off",
        averaging: Averaging = Averaging(),
        tile: Tile | None = None,
        stride: int = 32,
        classes: Classes | None = None,
    ):
        self.forward, self.device, self.amp, self.tile, self.classes = forward, device, amp, tile, classes
        self.sides = tuple(dict.fromkeys(round_size(size * scale, stride) for scale in averaging.scales))
        self.flips = (False, True) if averaging.flip else (False,)
        self.others: tuple[Forward, ...] = ()
        self.in_parallel = False
        self.linear_layers: Callable[[], AbstractContextManager] = nullcontext

    @classmethod
    def from_model(cls, model: nn.Module, size: int | None = None, exact: bool = False, **options: Any) -> Predictor:
        """Returns a predictor for a model in evaluation mode, on the device of the model.

        Args:
            size: the input side. None: the side that the model was trained at.
            exact: use the library for linear layers that the released script uses, also where another one is faster.

        Raises:
            UserError: the model needs prompts, or it cannot take this size.
        """
        family = find_family_of(model)
        compute_logits = family.logits
        if compute_logits is None:
            raise UserError(
                f"{family.title} predicts masks for prompts, not one map; use test.py --data_path, or sam2unet.Prompter"
            )
        settings = get_settings(model)
        size = settings.size if size is None else size
        check_size(family, size)
        device = next(model.parameters()).device
        options |= {"stride": family.stride, "classes": settings.classes}
        predictor = cls(lambda images: compute_logits(model, images), size, device, **options)
        if device.type == "cpu" and predictor.amp == "off" and not exact:
            predictor.linear_layers = use_fast_linear
        return predictor

    def add_models(self, others: Sequence[Predictor]) -> None:
        """Averages over the models of other predictors too.

        Raises UserError if they have other input sides or classes, or are on another device.
        """
        for other in others:
            if other.device != self.device:
                raise UserError(
                    f"one model is on {self.device} and another on {other.device}, and only models on one device are "
                    "averaged; give --device cpu"
                )
            if (other.sides, other.classes) != (self.sides, self.classes):
                sides = " and ".join(str(predictor.sides[0]) for predictor in (self, other))
                raise UserError(f"models are averaged only with one input side and the same classes (sides: {sides})")
        self.others = tuple(other.forward for other in others)

    def scale_logits(self, temperature: float) -> None:
        """Divides all logits by a number."""
        forward = self.forward
        self.forward = lambda images: forward(images) / temperature

    def prepare(
        self,
        picture: Image.Image,
        size: tuple[int, int] | None = None,
        name: object = None,
        source: object = None,
    ) -> Photo:
        """Cuts and resizes an upright RGB photograph for the model. Threads can run it.

        Args:
            size: (height, width) of the map; None: of the photograph. With tiles, it must be the photograph's.
        """
        boxes = list_tiles(picture.width, picture.height, self.tile)
        crops = (picture.crop(box) for box in boxes) if len(boxes) > 1 else [picture]  # lazy, because they may be large
        by_crop = [[image_bytes(crop, side) for side in self.sides] for crop in crops]
        by_side = [torch.stack(resized) for resized in zip(*by_crop, strict=True)]
        return Photo(by_side, size or (picture.height, picture.width), name, source)

    def predict(self, photos: Iterable[Photo], batch_size: int = 1) -> Iterator[tuple[Photo, Tensor]]:
        """Yields each photograph with its map, in order: probabilities on the device.

        A map is (height, width), the probability of the foreground; with classes it is (C, height, width).

        Args:
            batch_size: photographs in a batch, and tiles that the model takes at a time.

        Raises:
            UserError: the model's output contains NaN or Inf, or the batch size is outside its limits.
        """
        check_numbers({"batch_size": batch_size})
        photos = iter(photos)
        peeked = list(itertools.islice(photos, 1))
        batches = batched(itertools.chain(peeked, photos), batch_size)
        first = list(itertools.islice(batches, self.limit_parallel(batch_size, *(photo.size for photo in peeked))))
        batches = itertools.chain(first, batches)
        predicted: Iterable[Iterable[tuple[Photo, Tensor]]]
        if len(first) > 1:
            predicted = compute_in_parallel(
                lambda batch: list(self.predict_batch(batch, batch_size)), batches, len(first)
            )
        else:
            predicted = (self.predict_batch(batch, batch_size) for batch in batches)
        yield from itertools.chain.from_iterable(predicted)

    def limit_parallel(self, batch_size: int, map_size: tuple[int, int] = (0, 0)) -> int:
        """Returns the largest number of batches that `predict` computes at the same time.

        On a CPU, two batches with one thread each take less time than one after the other with two threads each,
        because threads that share an operation wait for each other. Each batch needs memory of its own. With classes,
        this includes maps of `map_size`, (height, width), because they are large.
        """
        maps = 2 * 4 * math.prod(map_size) * len(self.classes.items) if self.classes else 0  # bytes of two copies
        memory = batch_size * (max(self.sides) ** 2 * MEMORY_PER_PIXEL + maps)
        return max(1, min(torch.get_num_threads(), free_memory() // (2 * memory))) if self.in_parallel else 1

    @torch.inference_mode()
    def predict_batch(self, photos: Sequence[Photo], batch_size: int) -> Iterator[tuple[Photo, Tensor]]:
        """Yields each photograph of a batch with its map. Large maps are computed one at a time."""
        counts = [len(photo.crops[0]) for photo in photos]
        by_side = [torch.cat(crops).split(batch_size) for crops in zip(*(p.crops for p in photos), strict=True)]
        logits = [torch.cat([self.predict_logits(part) for part in parts]).split(counts) for parts in by_side]
        for photo, *own_logits in zip(photos, *logits, strict=True):
            for scale in own_logits:
                check_output(scale, self.amp, photo.name)
            if self.others:
                photo = photo._replace(disagreement=measure_disagreement(own_logits[0], 1 + len(self.others)))
            yield photo, self.blend_tiles(own_logits, photo.size)

    def predict_photo(self, picture: Image.Image, size: tuple[int, int] | None = None, name: object = None) -> Tensor:
        """Returns the map of one photograph, as `predict` does."""
        ((_, probability),) = self.predict([self.prepare(picture, size, name)])
        return probability

    def predict_logits(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> (B, flips, C, S, S); of several models (B, models * flips, C, S, S)"""
        images = normalise_image(images.to(self.device, non_blocking=True))
        with autocast(self.device, self.amp), self.linear_layers():
            logits = [
                forward(images.flip(-1)).flip(-1) if flip else forward(images)
                for forward in (self.forward, *self.others)
                for flip in self.flips
            ]
        return torch.stack(logits, dim=1).float()

    def blend_tiles(self, logits: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (tiles, flips, C, S, S) per scale -> probabilities (height, width), or (C, height, width) if C > 1.

        Where tiles overlap, each tile fades out linearly towards its edge.
        """
        if len(logits[0]) == 1:
            return average_logits(logits, 0, size)
        assert self.tile is not None
        channels = logits[0].shape[2]
        total = torch.zeros(size if channels == 1 else (channels, *size), device=self.device)
        tiles = list_tiles(size[1], size[0], self.tile)
        weight = torch.zeros(min(self.tile.side, size[0]), size[1], device=self.device)  # of the rows of one tile
        for index, (left, top, right, bottom) in enumerate(tiles):
            probability = average_logits(logits, index, (bottom - top, right - left))
            rows, columns = (fade_weights(n, self.tile.overlap) for n in (bottom - top, right - left))
            fade = (rows[:, None] * columns).to(self.device)
            total[..., top:bottom, left:right] += probability.mul_(fade)
            weight[:, left:right] += fade
            next_top = tiles[index + 1][1] if index + 1 < len(tiles) else bottom
            if step := next_top - top:  # the rows above the next tiles are complete
                total[..., top:next_top, :].div_(weight[:step])
                weight = weight.roll(-step, 0)
                weight[-step:] = 0
        return total


def average_logits(logits: list[Tensor], tile: int, size: tuple[int, int]) -> Tensor:
    """Logits (tiles, flips, C, S, S) per scale -> probabilities for one tile, (height, width) or (C, height, width).

    The logits are resized before the sigmoid, as in the released test script.
    """
    parts = [flip[None] for scale in logits for flip in scale[tile]]
    maps = (to_probability_(F.interpolate(part, size=size, mode="bilinear", align_corners=False)) for part in parts)
    total = next(maps)
    for probability in maps:  # one map at a time, because maps may be large
        total += probability
    return total.div_(len(parts)) if len(parts) > 1 else total


def predict_grey(
    predictor: Predictor, picture: Image.Image, size: tuple[int, int] | None = None, name: object = None
) -> np.ndarray:
    """Returns the pixels of the PNG that test.py writes for one photograph, uint8 (height, width)."""
    return to_uint8(stretch_range(predictor.predict_photo(picture, size, name)))
