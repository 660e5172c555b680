"""The released pre-processing of images and masks. Every faster implementation must give the same numbers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..classes import Classes
from ..data.checks.check import describe_mismatch, have_same_shape
from ..data.images.masks import read_mask
from ..data.images.reading import read_image
from ..data.pairs import Pair
from ..errors import UserError
from ..recipe import ForegroundRule, MaskRule

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)  # ImageNet's, RGB
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)


def image_bytes(image: Image.Image, size: int) -> Tensor:
    """RGB -> uint8 (3, size, size). Resizes with antialiased bilinear filtering; ignores the aspect ratio."""
    return to_bytes(image.resize((size, size), Image.Resampling.BILINEAR))


def mask_bytes(mask: Image.Image, size: int, rule: MaskRule = None) -> Tensor:
    """Mode L -> uint8 (1, size, size). Resizes with bicubic filtering, as the released code; edges become soft.

    The indices of classes are resized by nearest neighbour, because the mean of two indices is another class.
    """
    nearest = isinstance(rule, Classes)
    return to_bytes(mask.resize((size, size), Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC))


def to_bytes(image: Image.Image) -> Tensor:
    """8-bit (H, W) or (H, W, C) -> uint8 (C, H, W)."""
    array = np.array(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def normalise_image(image: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> float of the default type, normalised with the ImageNet mean and deviation."""
    x = to_unit(image)
    mean, std = (values.to(x, non_blocking=x.is_cuda) for values in (IMAGENET_MEAN, IMAGENET_STD))  # no wait for a GPU
    return x.sub_(mean).div_(std)


def to_unit(grey: Tensor) -> Tensor:
    """uint8 -> float of the default type in [0, 1]."""
    return grey.to(torch.get_default_dtype()).div_(255)


def pair_bytes(pair: Pair, size: int, mask_threshold: MaskRule = None) -> tuple[Tensor, Tensor]:
    """Returns the image, uint8 (3, size, size), and the mask, uint8 (1, size, size).

    UserError as `load_pair`, and for a mask with another aspect ratio than its image.
    """
    mask, image = read_mask(pair.mask, mask_threshold), read_image(pair.image)
    if not have_same_shape(image.size, mask.size):
        text = describe_mismatch(pair, image.size, mask.size)
        raise UserError(f"{pair.mask} has another aspect ratio than its image: {text}; pair the files")
    return image_bytes(image, size), mask_bytes(mask, size, mask_threshold)


def load_pair(
    image_path: str | Path, mask_path: str | Path, size: int, mask_threshold: ForegroundRule = None
) -> tuple[Tensor, Tensor]:
    """Reads an image and its mask as the released training does, without random flips.

    Returns the image (3, size, size), ImageNet-normalised, and the mask (1, size, size) in [0, 1].

    Raises UserError if a file cannot be read, or the mask has other values than 0 and 255 without `mask_threshold`.

    Args:
        size: side in pixels that both are resized to.
        mask_threshold: which mask values are foreground: values above a number, or a tuple of values.
    """
    mask = read_mask(Path(mask_path), mask_threshold)
    image = image_bytes(read_image(Path(image_path)), size)
    return normalise_image(image), to_unit(mask_bytes(mask, size, mask_threshold))
