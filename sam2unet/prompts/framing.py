"""Turns images and masks into the square that SAM-Med2D takes, and turns predictions back into the original size.

Letters: B images, S side of the square in pixels. `height` and `width` are those of the original image in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.images.masks import MaskCoding, check_coding, read_mask, refuse_lost_values
from ..data.images.reading import open_image, read_image, rotate_upright, to_8_bit
from ..data.volumes.slices import Source
from ..errors import UserError
from ..recipe import ForegroundRule, to_foreground_flags

# SAM's constants for red, green and blue, for values in 0..255. The released pipeline of SAM-Med2D has its channels in
# the order blue, green, red and applies the constants in this order all the same. Its weights were trained in this way.
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Frame(NamedTuple):
    """The position of an image of `height` x `width` pixels in the square of `side` x `side` pixels.

    An image that is smaller than the square on both sides keeps its size. It is centred and padded; an odd pixel of
    padding is at the bottom or right. Any other image is resized to fill the square, and its aspect ratio changes.
    Without `padding`, small images are resized too.
    """

    height: int
    width: int
    side: int
    padding: bool = True

    @property
    def pads(self) -> bool:
        """Whether the image is padded, not resized."""
        return self.padding and self.height < self.side and self.width < self.side

    @property
    def corner(self) -> tuple[int, int]:
        """The (top, left) corner of the image in the square, in pixels."""
        return ((self.side - self.height) // 2, (self.side - self.width) // 2) if self.pads else (0, 0)

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the square that the image covers."""
        (top, left), side = self.corner, self.side
        rows, columns = (self.height, self.width) if self.pads else (side, side)
        return slice(top, top + rows), slice(left, left + columns)

    def place(self, array: np.ndarray) -> np.ndarray:
        """(height, width, ...) -> (S, S, ...). Pads with 0, or takes the nearest pixel: row floor(i * height / S)."""
        if self.pads:
            square = np.zeros((self.side, self.side, *array.shape[2:]), array.dtype)
            square[self.inside] = array
            return square
        steps = np.arange(self.side)
        return array[(steps * self.height // self.side)[:, None], steps * self.width // self.side]

    def restore(self, maps: Tensor) -> Tensor:
        """Logits of the square (B, C, s, s), s of any value -> logits (B, C, height, width).

        Resizes to S x S, then crops or resizes to the original size. Both are bilinear.
        """
        square = F.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)
        if self.pads:
            rows, columns = self.inside
            return square[..., rows, columns]
        return F.interpolate(square, (self.height, self.width), mode="bilinear", align_corners=False)

    def to_square(self, points: Tensor) -> Tensor:
        """Points (..., 2), (x, y) in pixels of the original image -> in pixels of the square."""
        top, left = self.corner
        return points * self.scale(points) + points.new_tensor([left, top])

    def to_original(self, points: Tensor) -> Tensor:
        """The inverse of `to_square`. The drawings of the released code ignore the padding."""
        top, left = self.corner
        return (points - points.new_tensor([left, top])) / self.scale(points)

    def scale(self, points: Tensor) -> Tensor:
        """Returns pixels of the square per pixel of the image, (2,) for x and y, in the type of `points`."""
        return points.new_tensor([1, 1] if self.pads else [self.side / self.width, self.side / self.height])


@dataclass(frozen=True)
class Framing:
    """Options for turning images and masks into squares. The defaults are those of the released pipeline."""

    size: int = 256  # S
    # the channels are red, green, blue, as SAM's constants expect. Off, as released: blue, green, red.
    rgb: bool = False
    smooth: bool = False  # resize images bilinearly with antialiasing. Off, as released: take the nearest pixel.
    # pad images smaller than the square, as the released training and test. The released predictor resizes them.
    padding: bool = True
    # which values of a mask are foreground. None: 255 is foreground, or 1 if no value is higher.
    mask_threshold: ForegroundRule = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"size is {self.size}; it must be above 0")

    def image(self, path: Source) -> tuple[Tensor, Frame]:
        """Reads an image file -> uint8 (3, S, S), not normalised, and its frame. Padding is 0."""
        return self.square(read_image(path))

    def square(self, image: Image.Image) -> tuple[Tensor, Frame]:
        """An upright RGB image -> what `image` returns for a file."""
        frame = Frame(image.height, image.width, self.size, self.padding)
        if self.smooth and not frame.pads:
            pixels = np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        else:
            pixels = frame.place(np.asarray(image))
        if not self.rgb:
            pixels = pixels[..., ::-1]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), frame

    def label(self, path: Source, frame: Frame, strict: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Reads the mask of the image of `frame` -> bool (S, S), and in its original size, bool (height, width).

        `strict` is as in `read_label`. Raises UserError for another size than the image's, or nothing in the square.
        """
        original = read_label(path, self.mask_threshold, strict)
        if original.shape != (frame.height, frame.width):
            raise UserError(
                f"{path} has another size than its image: {original.shape[1]}x{original.shape[0]}, the image "
                f"{frame.width}x{frame.height}"
            )
        label = frame.place(original)
        if not label.any():
            problem = f"has nothing left at {frame.side}x{frame.side}" if original.any() else "is empty"
            if self.mask_threshold is not None:
                problem += f" with {' '.join(to_foreground_flags(self.mask_threshold))}"
            raise UserError(f"{path} {problem}, so there is nothing to point at; take it out of the list")
        return label, original


def read_label(path: Source, threshold: ForegroundRule = None, strict: bool = False) -> np.ndarray:
    """Reads the mask of one object -> bool (height, width), rotated upright. UserError if it is not a mask.

    Without `threshold`, a rule for the foreground, the values are 0/1 or 0/255. Values between are then background,
    because the released training truncates soft edges to 0. `strict` refuses them, as the released test does.
    """
    if threshold is not None:
        return np.asarray(read_mask(path, threshold)) > 0
    with open_image(path) as image:
        image = rotate_upright(image)
        refuse_lost_values(image, path)
        values = np.asarray(to_8_bit(image, path).convert("L"))
        if (top := int(values.max())) > 1:
            check_coding(image, path)
        if top not in (0, 1, 255):
            raise MaskCoding.of(path, f"its highest value is {top}")
        if strict and (between := values[(values > 0) & (values < top)]).size:
            raise MaskCoding.of(path, f"{between.size} pixels are between 0 and {top}")
        return values == max(top, 1)


def normalise_square(images: Tensor, frames: Sequence[Frame]) -> Tensor:
    """Normalises squares in the order of their channels: uint8 (B, 3, S, S) -> float32 (B, 3, S, S). Padding is 0."""
    # The released code computes in float64 and rounds to float32 at the end. A table does this for 256 values only.
    grey = torch.arange(256, dtype=torch.float64)
    table = torch.stack([(grey - mean) / std for mean, std in zip(SAM_MEAN, SAM_STD, strict=True)])
    table = table.float().to(images.device, non_blocking=images.is_cuda)
    out = torch.zeros(images.shape, device=images.device)
    for square, pixels, frame in zip(out, images, frames, strict=True):
        rows, columns = frame.inside
        for channel, values in enumerate(table):
            square[channel, rows, columns] = values[pixels[channel, rows, columns].int()]
    return out
