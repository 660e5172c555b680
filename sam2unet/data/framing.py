"""Images and masks as SAM-Med2D takes them: a square of pixels, and the way back to the original size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .foreground import ForegroundRule, rule_flags
from .reading import MaskCoding, check_coding, opened, read_image, read_mask, refuse_lost_values, to_8_bit, upright

# SAM's constants for red, green, blue, over 0..255. The released pipeline applies them in this order to blue, green,
# red, and its weights were trained so.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Frame(NamedTuple):
    """How an image of height x width lies in the square of side S that the model sees.

    An image smaller on both sides is centred, the odd pixel of padding at the bottom or right; any other fills the
    square, its aspect ratio not kept. Without `padding` a smaller one is stretched too.
    """

    height: int
    width: int
    side: int
    padding: bool = True

    @property
    def pads(self) -> bool:
        return self.padding and self.height < self.side and self.width < self.side

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the image in the square."""
        return ((self.side - self.height) // 2, (self.side - self.width) // 2) if self.pads else (0, 0)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the square that the image covers."""
        (top, left), side = self.corner, self.side
        rows, columns = (self.height, self.width) if self.pads else (side, side)
        return slice(top, top + rows), slice(left, left + columns)

    def place(self, array: np.ndarray) -> np.ndarray:
        """(height, width, ...) -> (S, S, ...): padded with 0, or the nearest pixel, floor(i * height / S)."""
        if self.pads:
            square = np.zeros((self.side, self.side, *array.shape[2:]), array.dtype)
            square[self.inside] = array
            return square
        steps = np.arange(self.side)
        return array[(steps * self.height // self.side)[:, None], steps * self.width // self.side]

    def restore(self, maps: Tensor) -> Tensor:
        """Logits (B, C, s, s) of any resolution -> (B, C, height, width): bilinear to S, then cropped or bilinear."""
        square = F.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)
        if self.pads:
            return square[(..., *self.inside)]
        return F.interpolate(square, (self.height, self.width), mode="bilinear", align_corners=False)

    def to_square(self, points: Tensor) -> Tensor:
        """(..., 2), x and y in pixels of the image -> in pixels of the square."""
        top, left = self.corner
        return points * self.scale(points) + points.new_tensor([left, top])

    def to_original(self, points: Tensor) -> Tensor:
        """The inverse of `to_square`; the released drawings forget the padding."""
        top, left = self.corner
        return (points - points.new_tensor([left, top])) / self.scale(points)

    def scale(self, points: Tensor) -> Tensor:
        return points.new_tensor([1, 1] if self.pads else [self.side / self.width, self.side / self.height])


@dataclass(frozen=True)
class Framing:
    """How files become squares. The defaults are the released pipeline's.

    Attributes:
        size: S.
        rgb: give red, green, blue, which the constants are for. Off as released: blue, green, red.
        smooth: shrink and enlarge images bilinearly, with antialiasing. Off as released: the nearest pixel.
        padding: keep the size of images that are smaller than the square. The released predictor stretches them,
            the released training and test do not.
        mask_threshold: which mask values are foreground; none: 255 is, or 1 where no value is higher.
    """

    size: int = 256
    rgb: bool = False
    smooth: bool = False
    padding: bool = True
    mask_threshold: ForegroundRule = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size is {self.size}; it must be above 0")

    def image(self, path: Path) -> tuple[Tensor, Frame]:
        """uint8 (3, S, S), not normalised, 0 around an image that is padded; UserError if it cannot be read."""
        return self.square(read_image(path))

    def square(self, image: Image.Image) -> tuple[Tensor, Frame]:
        """`image`, of an upright RGB photograph."""
        frame = Frame(image.height, image.width, self.size, self.padding)
        if self.smooth and not frame.pads:
            pixels = np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        else:
            pixels = frame.place(np.asarray(image))
        if not self.rgb:
            pixels = pixels[..., ::-1]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), frame

    def label(self, path: Path, frame: Frame, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """A mask of the image that lies in `frame`: bool (S, S), and as in the file, (height, width).

        Args:
            strict: as `read_label` takes it.

        Raises:
            UserError: unreadable, not a mask, of another size than its image, or without foreground in the square.
        """
        whole = read_label(path, self.mask_threshold, strict)
        if whole.shape != (frame.height, frame.width):
            raise UserError(
                f"{path} has another size than its image: {whole.shape[1]}x{whole.shape[0]}, the image "
                f"{frame.width}x{frame.height}"
            )
        label = frame.place(whole)
        if not label.any():
            what = f"has nothing left at {frame.side}x{frame.side}" if whole.any() else "is empty"
            what += f" with {' '.join(rule_flags(self.mask_threshold))}" if self.mask_threshold is not None else ""
            raise UserError(f"{path} {what}, so there is nothing to point at; take it out of the list")
        return label, whole


def read_label(path: Path, threshold: ForegroundRule = None, strict: bool = False) -> np.ndarray:
    """An upright mask of one object, bool (H, W).

    Without `threshold` the file is 0/1 or 0/255, and of values between 0 and 255 all are background, which is what the
    released training makes of a soft edge by truncation. `strict` refuses them, as the released test does.

    Raises:
        UserError: unreadable, or other values.
    """
    if threshold is not None:
        return np.asarray(read_mask(path, threshold)) > 0
    with opened(path) as image:
        image = upright(image)
        refuse_lost_values(image, path)
        values = np.asarray(to_8_bit(image, path).convert("L"))
        if (top := int(values.max())) > 1:
            check_coding(image, path)
        if top not in (0, 1, 255):
            raise MaskCoding.of(path, f"its highest value is {top}")
        if strict and (between := values[(values > 0) & (values < top)]).size:
            raise MaskCoding.of(path, f"{between.size} pixels are between 0 and {top}")
        return values == max(top, 1)


def normalised(images: Tensor, frames: Sequence[Frame]) -> Tensor:
    """uint8 (B, 3, S, S) -> float32: constants in the order of the channels, then 0 outside of the images."""
    grey = torch.arange(256, dtype=torch.float64)  # rounded to float32 at the end, as released: of few values, once
    table = torch.stack([(grey - mean) / std for mean, std in zip(MEAN, STD, strict=True)]).float().to(images.device)
    out = torch.zeros(images.shape, device=images.device)
    for square, pixels, frame in zip(out, images, frames, strict=True):
        rows, columns = frame.inside
        for channel, values in enumerate(table):
            square[channel, rows, columns] = values[pixels[channel, rows, columns].int()]
    return out
