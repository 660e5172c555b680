from torch import Tensor, nn

from ..layers.adapter import add_adapters
from ..layers.decoder import RFB, Up, enlarge
from ..layers.hiera import Hiera


class SAM2UNet(nn.Module):
    """Hiera with adapters, one receptive-field block per stage, and a U-shaped decoder (arXiv 2408.08870, section 3).

    Freezes `trunk`. The decoder has `width` channels, and an output has `classes` channels: 1 for foreground and
    background. The attributes have the names of the released checkpoints.
    """

    def __init__(self, trunk: Hiera, width: int = 64, classes: int = 1):
        super().__init__()
        self.encoder = add_adapters(trunk)
        self.rfb1, self.rfb2, self.rfb3, self.rfb4 = (RFB(c, width) for c in trunk.channels)
        self.up1, self.up2, self.up3 = (Up(2 * width, width) for _ in range(3))
        self.up4 = Up(2 * width, width)  # never called; released checkpoints contain its weights
        self.side1, self.side2, self.head = (nn.Conv2d(width, classes, kernel_size=1) for _ in range(3))

    def forward(self, image: Tensor, sides: bool = True) -> tuple[Tensor, ...]:
        """Normalised images (B, 3, H, W) -> logits (B, C, H, W), before the sigmoid or the softmax.

        Returns the map, then the side outputs from strides 16 and 8, which only training uses (deep supervision).
        Without `sides`, returns the map alone; the map is the same. Raises UserError if H or W is not a multiple of 32.
        """
        f4, f8, f16, f32 = self.encoder(image)  # named by stride
        x16 = self.up1(self.rfb4(f32), skip=self.rfb3(f16))
        x8 = self.up2(x16, skip=self.rfb2(f8))
        x4 = self.up3(x8, skip=self.rfb1(f4))
        logits = enlarge(self.head(x4), 4)
        return (logits, enlarge(self.side1(x16), 16), enlarge(self.side2(x8), 8)) if sides else (logits,)
