"""From a batch to losses (training) or from an image to a map (prediction)."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from .losses import structure_loss


def mask_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    """One loss: the structure loss of every output of `model`, added up with equal weight (deep supervision).

    Args:
        batch: normalised images (B, 3, S, S) and masks (B, 1, S, S) in [0, 1].
    """
    images, masks = batch
    yield sum(structure_loss(logits, masks) for logits in model(images))


def mask_map(model: nn.Module, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised images (B, 3, S, S) -> probabilities (B, 1, height, width) for `size` (height, width).

    The logits are resized, then comes the sigmoid, as released.
    """
    logits = model(images)[0]
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).sigmoid()
