"""The released pre-processing, and what makes a PNG of a map. Every faster path must equal these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .reading import read_image, read_mask

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # ImageNet's, RGB
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def image_tensor(image: Image.Image, size: int) -> Tensor:
    """RGB -> (3, size, size), normalised: bilinear with antialiasing, the aspect ratio not kept."""
    small = image.resize((size, size), Image.Resampling.BILINEAR)
    return to_tensor(small).sub_(MEAN).div_(STD)


def mask_tensor(mask: Image.Image, size: int) -> Tensor:
    """Mode L -> (1, size, size) in [0, 1]: bicubic, which leaves labels soft near edges, as released."""
    return to_tensor(mask.resize((size, size), Image.Resampling.BICUBIC))


def to_tensor(image: Image.Image) -> Tensor:
    """8-bit (H, W) or (H, W, C) -> float (C, H, W) in [0, 1]."""
    array = np.array(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    return torch.from_numpy(array).permute(2, 0, 1).to(torch.float32).div_(255).contiguous()


def load_pair(
    image_path: str | Path, mask_path: str | Path, size: int, mask_threshold: int | None = None
) -> tuple[Tensor, Tensor]:
    """The released pre-processing of an image and its mask, without the random flips of training.

    Returns:
        the image (3, size, size), ImageNet-normalised, and the mask (1, size, size) in [0, 1].

    Raises:
        UserError: an unreadable file, or a mask that is not 0/255 (unless `mask_threshold` says what is foreground).
    """
    mask = read_mask(Path(mask_path), mask_threshold)
    return image_tensor(read_image(Path(image_path)), size), mask_tensor(mask, size)


def grey_levels(probability: np.ndarray) -> np.ndarray:
    """Float map in [0, 1] -> 8 bits, truncated, as released."""
    return (probability * 255).astype(np.uint8)
