from torch import Tensor, nn

from ..layers.adapter import add_adapters
from ..layers.decoder import RFB, Up, enlarge
from ..layers.hiera import Hiera


class SAM2UNet(nn.Module):
    """Hiera with adapters, a receptive-field block per stage, a U-shaped decoder (arXiv 2408.08870). Freezes `trunk`.

    Attributes bear the names of the released checkpoints.
    """

    def __init__(self, trunk: Hiera, width: int = 64):
        super().__init__()
        self.encoder = add_adapters(trunk)
        self.rfb1, self.rfb2, self.rfb3, self.rfb4 = (RFB(c, width) for c in trunk.channels)
        self.up1, self.up2, self.up3 = (Up(2 * width, width) for _ in range(3))
        self.up4 = Up(2 * width, width)  # never called; released checkpoints carry its weights
        self.side1, self.side2, self.head = (nn.Conv2d(width, 1, kernel_size=1) for _ in range(3))

    def forward(self, image: Tensor, sides: bool = True) -> tuple[Tensor, ...]:
        """(B, 3, H, W), sides divisible by 32 -> logits (B, 1, H, W): the map, then side outputs from 1/16 and 1/8.

        Without `sides` the map alone, which does not depend on them.
        """
        f4, f8, f16, f32 = self.encoder(image)  # named by stride
        x16 = self.up1(self.rfb4(f32), skip=self.rfb3(f16))
        x8 = self.up2(x16, skip=self.rfb2(f8))
        x4 = self.up3(x8, skip=self.rfb1(f4))
        answer = enlarge(self.head(x4), 4)
        return (answer, enlarge(self.side1(x16), 16), enlarge(self.side2(x8), 8)) if sides else (answer,)
