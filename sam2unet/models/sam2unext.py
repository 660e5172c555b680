import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.adapter import add_adapters
from ..layers.decoder import JoinUp, enlarge
from ..layers.dino import Dino
from ..layers.hiera import Hiera


class SAM2UNeXT(nn.Module):
    """Hiera with adapters and a frozen DINO glued together at each stage, a light decoder (arXiv 2508.03566).

    Freezes `trunk`. Attributes bear the names of the released checkpoints.
    """

    def __init__(self, trunk: Hiera, dino: Dino, width: int = 128):
        super().__init__()
        self.sam = add_adapters(trunk, std=0.02)
        self.dino = dino
        self.align1, self.align2, self.align3, self.align4 = (
            nn.Conv2d(dino.channels, channels, kernel_size=1) for channels in trunk.channels
        )
        self.reduce1, self.reduce2, self.reduce3, self.reduce4 = (
            nn.Conv2d(2 * channels, width, kernel_size=1) for channels in trunk.channels
        )
        self.up1, self.up2, self.up3 = (JoinUp(2 * width, width) for _ in range(3))
        self.up4 = JoinUp(width, width)
        self.head = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W), sides divisible by 32 -> logits (B, 1, H, W)."""
        f4, f8, f16, f32 = self.sam(image)  # named by stride
        seen = self.dino(image)
        x16 = self.up4(self.glued(f32, seen, self.align4, self.reduce4))
        x8 = self.up3(x16, self.glued(f16, seen, self.align3, self.reduce3))
        x4 = self.up2(x8, self.glued(f8, seen, self.align2, self.reduce2))
        x2 = self.up1(x4, self.glued(f4, seen, self.align1, self.reduce1))
        return (enlarge(self.head(x2), 2),)

    def glued(self, x: Tensor, seen: Tensor, align: nn.Conv2d, reduce: nn.Conv2d) -> Tensor:
        """(B, C, h, w) of a stage and DINO's (B, C', g, g) -> (B, width, h, w).

        The same as `reduce` of both maps side by side, `align(seen)` resized to the stage's grid: a 1x1 convolution
        and bilinear resizing can change places, so DINO's half is reduced while it is small, and nothing is joined.
        """
        own, other = reduce.weight.split(x.shape[1], dim=1)
        seen = F.conv2d(align(seen), other)
        return F.conv2d(x, own, reduce.bias) + F.interpolate(seen, size=x.shape[2:], mode="bilinear")
