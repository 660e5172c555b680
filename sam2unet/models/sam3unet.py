from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..layers.adapter import add_adapters
from ..layers.decoder import JoinUp, LightConv
from ..layers.sam3_vit import Sam3ViT

SMALLEST = 32  # side of an image in pixels, because the coarsest map has stride 32


class SAM3UNet(nn.Module):
    """SAM 3's vision transformer with adapters, and a light U-shaped decoder (arXiv 2512.01789).

    Freezes `trunk`. The decoder has `width` channels, and an output has `classes` channels: 1 for foreground and
    background. The attributes have the names of the released checkpoints.
    """

    def __init__(self, trunk: Sam3ViT, width: int = 128, classes: int = 1):
        super().__init__()
        self.sam3_vit = add_adapters(trunk, std=0.02)
        self.reduce1, self.reduce2, self.reduce3, self.reduce4 = (
            nn.Conv2d(trunk.channels, width, kernel_size=1) for _ in range(4)
        )
        self.up1, self.up2, self.up3 = (JoinUp(LightConv(2 * width, width)) for _ in range(3))
        self.up4 = JoinUp(LightConv(width, width))
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Normalised images (B, 3, H, W) -> a tuple with one item, the logits (B, C, H, W).

        The logits are before the sigmoid or the softmax. Patches have 14 x 14 pixels, so the model does not see a rest
        at the right or bottom. Raises UserError if H or W is below 32.
        """
        check_smallest(image)
        size = image.shape[-2:]
        features = self.sam3_vit(image)
        # All four maps come from the same features, resized to strides 4, 8, 16 and 32.
        x = self.up4(resize_to_stride(self.reduce4(features), size, 32))
        x = self.up3(x, resize_to_stride(self.reduce3(features), size, 16))
        x = self.up2(x, resize_to_stride(self.reduce2(features), size, 8))
        x = self.up1(x, resize_to_stride(self.reduce1(features), size, 4))
        return (F.interpolate(self.head(x), size=size, mode="bilinear"),)


def resize_to_stride(x: Tensor, size: Sequence[int], stride: int) -> Tensor:
    """(B, C, h, w) -> (B, C, H / stride, W / stride), sides rounded down. `size` is (H, W). Bilinear."""
    return F.interpolate(x, size=[side // stride for side in size], mode="bilinear")


def check_smallest(image: Tensor) -> None:
    """Raises UserError if a side of `image`, (B, 3, H, W), is too small for the coarsest map."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return  # the sides may be symbols here, and a comparison would fix their values in the graph
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST:
        raise UserError(
            f"the model cannot take an image of {height}x{width} pixels (height x width): both sides must be at least "
            f"{SMALLEST}"
        )
