"""Random changes of training images beyond the released flips. A recipe turns them on with `augment`."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The largest changes. Each number in [-1, 1] of `jitter` selects a change between the two extremes.
ZOOM, STRETCH, TURN, COLOUR, TINT = 1.3, 1.15, 15.0, 0.25, 0.1
EDGE = 0.9  # an image is enlarged by 1 / EDGE on average, so that less of it is mirrored


def jitter_pair(images: Tensor, masks: Tensor, jitter: Tensor, has_classes: bool = False) -> tuple[Tensor, Tensor]:
    """Turns, zooms, stretches, shifts and recolours each image, and moves its mask in the same way.

    What enters at a border is the mirrored image. Each change is uniform, on a logarithmic scale for factors.

    Args:
        images, masks: uint8 (B, 3, S, S) and (B, 1, S, S).
        jitter: uniform numbers in [-1, 1], (B, `data.batches.JITTER`).
        has_classes: the masks hold indices of classes, which have no mean.

    Returns:
        The images, float32 in [0, 255], and the masks, float32 in [0, 255] or uint8 indices.
    """
    grid = F.affine_grid(draw_moves(jitter[:, :5]), list(images.shape), align_corners=False)
    sample = functools.partial(F.grid_sample, grid=grid, padding_mode="reflection", align_corners=False)
    images = sample(images.float())
    moved = sample(masks.float(), mode="nearest" if has_classes else "bilinear")
    return recolour(images, jitter[:, 5:11]), moved.to(masks.dtype) if has_classes else moved


def draw_moves(jitter: Tensor) -> Tensor:
    """Jitter (B, 5): zoom, stretch, turn, shifts to the right and down -> matrices (B, 2, 3) for `affine_grid`."""
    zoom, stretch, turn, right, down = jitter.unbind(1)
    zoom, stretch, turn = EDGE * ZOOM**zoom, STRETCH**stretch, turn * math.radians(TURN)
    reach = (1 - zoom).abs().clamp(min=0.1)  # the window mostly stays inside the image
    rows = [zoom * stretch * turn.cos(), -zoom / stretch * turn.sin(), right * reach]
    rows += [zoom * stretch * turn.sin(), zoom / stretch * turn.cos(), down * reach]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def recolour(images: Tensor, jitter: Tensor) -> Tensor:
    """Changes brightness, contrast, saturation and the three channels of images (B, 3, H, W) in [0, 255]."""
    brightness, contrast, saturation = (COLOUR * jitter[:, :3]).exp().T[..., None, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * contrast + mean * brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * saturation + grey
    return (images * (TINT * jitter[:, 3:]).exp()[..., None, None]).clamp(0, 255)
