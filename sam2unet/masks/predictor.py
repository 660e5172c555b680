"""From photographs to maps: batches, flips and scales averaged, tiles blended, whatever computes the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..errors import UserError
from ..families.table import check_size, find_family_of
from ..limits import check_numbers, shorten
from ..recipe import Recipe
from ..runtime.device import autocast, check_output
from .transforms import image_bytes, normalise_image

SCALES = (0.75, 1.0, 1.25)  # of the input size, for test-time averaging
Forward = Callable[[Tensor], Tensor]  # normalised images (B, 3, S, S) -> logits (B, 1, S, S) of the answer


@dataclass(frozen=True)
class Tile:
    """Side and overlap, in pixels of the photograph, of the squares that one larger than a square is cut into."""

    side: int
    overlap: int

    def __post_init__(self) -> None:
        check_numbers({"tile": self.side})
        if not 0 <= self.overlap < self.side / 2:
            raise UserError(f"tile {self.side},{self.overlap}: the overlap must be from 0 to below half of the side")

    @classmethod
    def read(cls, text: str) -> Tile:
        """`side,overlap`, or the side alone with a quarter of it as overlap."""
        try:
            numbers = [int(word) for word in text.split(",")]
            return cls(*numbers) if len(numbers) > 1 else cls(numbers[0], numbers[0] // 4)
        except (TypeError, ValueError) as e:
            raise UserError(f"tile is {shorten(text)}; wanted SIDE,OVERLAP in pixels, such as 1024,128") from e


@dataclass(frozen=True)
class Averaging:
    """What is averaged over at test time, as probabilities: the mirrored image too, and factors of the input size."""

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def read(cls, text: str) -> Averaging:
        """`flip`, `scale` or both with a comma between them."""
        words = text.split(",")
        if unknown := [word for word in words if word not in ("flip", "scale")]:
            found = shorten(unknown[0]) or "empty word"
            raise UserError(f"tta is {shorten(text)}, and there is no {found}; wanted flip, scale or both")
        return cls("flip" in words, SCALES if "scale" in words else (1.0,))


class Predictor:
    """
    Args:
        size: side that photographs are resized to, as in training.
        stride: input sides are multiples of it.
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
    ):
        self.forward, self.device, self.amp, self.tile = forward, device, amp, tile
        sides = (max(stride, round(size * scale / stride) * stride) for scale in averaging.scales)
        self.sides = tuple(dict.fromkeys(sides))
        self.flips = (False, True) if averaging.flip else (False,)

    @classmethod
    def of(cls, model: nn.Module, size: int | None = None, **options: object) -> Predictor:
        """For a model in evaluation mode, where it is. UserError for a size that it cannot take."""
        family = find_family_of(model)
        if family.logits is None:
            raise UserError(
                f"{family.title} finds what prompts ask for, not one map: test.py --data_path, or sam2unet.Prompter"
            )
        size = Recipe.read(model=family.name).size if size is None else size
        check_size(family, size)
        device = next(model.parameters()).device
        return cls(lambda images: family.logits(model, images), size, device, stride=family.stride, **options)

    def small(self, photo: Image.Image) -> list[Tensor]:
        """What the model is given of an upright RGB photograph: uint8 (crops, 3, S, S) for every input side S."""
        boxes = self.boxes(photo.width, photo.height)
        crops = (photo.crop(box) for box in boxes) if len(boxes) > 1 else [photo]  # one at a time: they may be large
        by_crop = [[image_bytes(crop, side) for side in self.sides] for crop in crops]
        return [torch.stack(scale) for scale in zip(*by_crop, strict=True)]

    def boxes(self, width: int, height: int) -> list[tuple[int, int, int, int]]:
        """Left, top, right, bottom of every tile; the whole photograph where it needs none."""
        if self.tile is None or max(width, height) <= self.tile.side:
            return [(0, 0, width, height)]
        columns, rows = (tile_starts(length, self.tile) for length in (width, height))
        side = self.tile.side
        return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]

    @torch.inference_mode()
    def maps(
        self,
        smalls: Sequence[list[Tensor]],
        sizes: Sequence[tuple[int, int]],
        at_once: int | None = None,
        names: Sequence[object] = (),
    ) -> Iterator[Tensor]:
        """Probabilities (height, width) on the device for each photograph's `small`, of the `sizes` (height, width).

        With tiles, a size must be the photograph's own, and the model is given `at_once` of them at a time, by default
        as many as there are photographs. `names` of the photographs are for the UserError about NaN or Inf.
        """
        counts = [len(small[0]) for small in smalls]
        scales = [torch.cat(parts).split(at_once or len(smalls)) for parts in zip(*smalls, strict=True)]
        logits = [torch.cat([self.logits(part) for part in parts]).split(counts) for parts in scales]
        for number, size in enumerate(sizes):
            own = [scale[number] for scale in logits]  # (crops, flips, 1, S, S) per scale
            for scale in own:
                check_output(scale, self.amp, names[number] if names else None)
            if counts[number] == 1:
                yield average_logits(own, 0, size)
            else:
                yield self.blended(own, size)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) -> (B, flips, 1, S, S)"""
        images = normalise_image(images.to(self.device, non_blocking=True))
        with autocast(self.device, self.amp):
            found = [self.forward(images.flip(-1)).flip(-1) if flip else self.forward(images) for flip in self.flips]
        return torch.stack(found, dim=1).float()

    def blended(self, own: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Tiles put together; where they overlap, each fades out linearly towards its edge."""
        total, weight = (torch.zeros(size, device=self.device) for _ in range(2))
        for crop, (left, top, right, bottom) in enumerate(self.boxes(size[1], size[0])):
            found = average_logits(own, crop, (bottom - top, right - left))
            fade = fade_weights(bottom - top, self.tile.overlap)[:, None] * fade_weights(
                right - left, self.tile.overlap
            )
            fade = fade.to(self.device)
            total[top:bottom, left:right] += fade * found
            weight[top:bottom, left:right] += fade
        return total / weight


def average_logits(own: list[Tensor], crop: int, size: tuple[int, int]) -> Tensor:
    """Logits (crops, flips, 1, S, S) per scale -> probabilities of `size`; logits are resized, as released."""
    logits = [one[None] for scale in own for one in scale[crop]]
    maps = (F.interpolate(one, size=size, mode="bilinear", align_corners=False).sigmoid_()[0, 0] for one in logits)
    total = next(maps)
    for one in maps:  # added up one by one: they may be large
        total += one
    return total.div_(len(logits)) if len(logits) > 1 else total


def tile_starts(length: int, tile: Tile) -> list[int]:
    """Where tiles begin along a side, evenly spread so that neighbours share at least the overlap."""
    if length <= tile.side:
        return [0]
    count = math.ceil((length - tile.overlap) / (tile.side - tile.overlap))
    return [round(number * (length - tile.side) / (count - 1)) for number in range(count)]


def fade_weights(length: int, overlap: int) -> Tensor:
    """(length,) weights in (0, 1]: 1 in the middle, falling over `overlap` pixels towards both ends."""
    place = torch.arange(length, dtype=torch.float32) + 0.5
    return torch.minimum(place, length - place).div_(max(overlap, 1)).clamp_(max=1)


def stretch_range(probability: Tensor) -> Tensor:
    """To the full range of [0, 1], as released."""
    low, high = probability.min(), probability.max()
    return (probability - low).div_(high - low + 1e-8)


@dataclass(frozen=True)
class PredictOptions:
    """How maps are computed; the defaults are the released way.

    Attributes:
        size: input side; None for the one that the checkpoint was trained at, as far as it says, else the released one.
        amp: off, bf16 or fp16; auto is for `choose_fast_options` to decide.
        fold: rearrange the model as `inference.folded` and, on a CPU, `inference.packed`: the same but for rounding.
        compile: let PyTorch fuse operations, the same but for rounding.
    """

    size: int | None = None
    amp: str = "off"
    averaging: Averaging = Averaging()
    tile: Tile | None = None
    fold: bool = False
    compile: bool = False


@torch.inference_mode()
def predict_grey(predictor: Predictor, photo: Image.Image, size: tuple[int, int], name: object = None) -> np.ndarray:
    """uint8 (height, width): the pixels of the PNG that test.py writes. `name` is for an error about the photograph."""
    (found,) = predictor.maps([predictor.small(photo)], [size], names=[name])
    return to_uint8(stretch_range(found))


def to_uint8(probability: Tensor) -> np.ndarray:
    """Float map in [0, 1] -> 8 bits, truncated, as released."""
    return (probability * 255).to(torch.uint8).cpu().numpy()
