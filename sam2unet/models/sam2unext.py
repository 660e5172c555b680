import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.adapter import add_adapters
from ..layers.decoder import DoubleConv, JoinUp, enlarge
from ..layers.dino import Dino
from ..layers.hiera import Hiera


class SAM2UNeXT(nn.Module):
    """Hiera with adapters, a frozen DINO that is fused with it at each stage, and a decoder (arXiv 2508.03566).

    Freezes `trunk`. The decoder has `width` channels, and an output has `classes` channels: 1 for foreground and
    background. The attributes have the names of the released checkpoints.
    """

    def __init__(self, trunk: Hiera, dino: Dino, width: int = 128, classes: int = 1):
        super().__init__()
        self.sam = add_adapters(trunk, std=0.02)
        self.dino = dino
        self.align1, self.align2, self.align3, self.align4 = (
            nn.Conv2d(dino.channels, channels, kernel_size=1) for channels in trunk.channels
        )
        self.reduce1, self.reduce2, self.reduce3, self.reduce4 = (
            nn.Conv2d(2 * channels, width, kernel_size=1) for channels in trunk.channels
        )
        self.up1, self.up2, self.up3 = (JoinUp(DoubleConv(2 * width, width)) for _ in range(3))
        self.up4 = JoinUp(DoubleConv(width, width))
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Normalised images (B, 3, H, W) -> a tuple with one item, the logits (B, C, H, W).

        The logits are before the sigmoid or the softmax. Raises UserError if H or W is not a multiple of 32.
        """
        f4, f8, f16, f32 = self.sam(image)  # named by stride
        semantic = self.dino(image)
        x16 = self.up4(self.fuse(f32, semantic, self.align4, self.reduce4))
        x8 = self.up3(x16, self.fuse(f16, semantic, self.align3, self.reduce3))
        x4 = self.up2(x8, self.fuse(f8, semantic, self.align2, self.reduce2))
        x2 = self.up1(x4, self.fuse(f4, semantic, self.align1, self.reduce1))
        return (enlarge(self.head(x2), 2),)

    def fuse(self, x: Tensor, semantic: Tensor, align: nn.Conv2d, reduce: nn.Conv2d) -> Tensor:
        """A stage's map (B, C, h, w) and DINO's map (B, dino.channels, g, g) -> (B, width, h, w).

        The paper resizes `align(semantic)` to the stage's grid, concatenates it to `x` and applies `reduce`. This
        method gives the same result with less work. A 1x1 convolution and bilinear resizing can change order, so DINO's
        half of `reduce` runs before the resizing, and the two halves are added.
        """
        stage_weight, dino_weight = reduce.weight.split(x.shape[1], dim=1)
        semantic = F.conv2d(align(semantic), dino_weight)
        return F.conv2d(x, stage_weight, reduce.bias) + F.interpolate(semantic, size=x.shape[2:], mode="bilinear")
