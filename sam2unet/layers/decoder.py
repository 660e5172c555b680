"""The layers between an encoder and the logits: receptive-field blocks, and the upsampling of the decoders.

The attributes have the names of the released checkpoints. Maps are (B, C, h, w).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBN(nn.Module):
    """A convolution without bias, then BatchNorm, without activation as released: (B, C, h, w) -> (B, C', h, w)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int], dilation: int = 1):
        super().__init__()
        padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class RFB(nn.Module):
    """Receptive-field block: four parallel branches with growing receptive fields (arXiv 2408.08870, section 3.3)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.branch0 = nn.Sequential(ConvBN(channels, width, (1, 1)))
        self.branch1, self.branch2, self.branch3 = (
            nn.Sequential(
                ConvBN(channels, width, (1, 1)),
                ConvBN(width, width, (1, n)),
                ConvBN(width, width, (n, 1)),
                ConvBN(width, width, (3, 3), dilation=n),
            )
            for n in (3, 5, 7)
        )
        self.conv_cat = ConvBN(4 * width, width, (3, 3))
        self.conv_res = ConvBN(channels, width, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w)"""
        branches = [self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)]
        return F.relu(self.conv_cat(torch.cat(branches, dim=1)) + self.conv_res(x))


class DoubleConv(nn.Module):
    """Two times a 3x3 convolution, BatchNorm and ReLU: (B, C, h, w) -> (B, C', h, w). The first one halves C."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels_in, channels_in // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_in // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_in // 2, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class LightConv(nn.Module):
    """The light block of SAM3-UNet: (B, C, h, w) -> (B, C', h, w), mostly by 3x3 convolutions of single channels."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        # An eps of 1 is no mistake here: the released code passes 1 where PyTorch expects eps.
        self.conv_in = normalise(nn.Conv2d(channels_in, channels_in // 4, 1), eps=1.0)
        self.conv_out = normalise(nn.Conv2d(channels_in // 2, channels_out, 1), eps=1.0)
        width = channels_in // 8
        self.dw1, self.dw2 = (normalise(nn.Conv2d(width, width, 3, padding=1, groups=width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv_in(x).chunk(2, dim=1)
        third = self.dw1(second)
        return self.conv_out(torch.cat([first, second, third, self.dw2(third)], dim=1))


def normalise(convolution: nn.Conv2d, eps: float = 1e-5) -> nn.Sequential:
    """Returns the convolution with a BatchNorm and a GELU after it."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, eps=eps), nn.GELU())


class Up(nn.Module):
    """The upsampling step of SAM2-UNet: enlarge the coarse map, concatenate the skip connection, convolve."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = DoubleConv(channels_in, channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Coarse map (B, C, h, w) and skip (B, C', H, W) -> (B, channels_out, H, W).

        C + C' is `channels_in`. If 2h x 2w is less than H x W, the enlarged map is padded with zeros on all sides.
        """
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv(torch.cat([skip, fit_sides(x, skip)], dim=1))


class JoinUp(nn.Module):
    """The upsampling step of SAM2-UNeXT and SAM3-UNet: concatenate the maps first, then enlarge both, then convolve.

    Args:
        conv: the block of convolutions.
    """

    def __init__(self, conv: DoubleConv | LightConv):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """(B, C, h, w) and skip (B, C', h', w') -> (B, C'', 2h, 2w), where `conv` takes C + C' channels to C''.

        The skip is cropped on all sides to h x w.
        """
        x = x if skip is None else torch.cat([x, fit_sides(skip, x)], dim=1)
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


def fit_sides(x: Tensor, other: Tensor) -> Tensor:
    """Pads `x`, (B, C, h, w), with zeros on all sides, or crops it, to the height and width of `other`."""
    down, right = other.shape[2] - x.shape[2], other.shape[3] - x.shape[3]
    if not (down or right):
        return x
    return F.pad(x, [right // 2, right - right // 2, down // 2, down - down // 2])  # negative numbers crop


def enlarge(logits: Tensor, factor: int) -> Tensor:
    """(B, C, h, w) -> (B, C, factor * h, factor * w). Bilinear; corners are not aligned."""
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
