"""A loaded model made faster for prediction, in place: the same mathematics, other numbers by rounding alone.

After these the names in its state dict are others, and it can no longer be trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..layers.adapter import Adapted
from ..layers.decoder import RFB, ConvBN, DoubleConv
from ..layers.hiera import MLP, Hiera
from .speed import PRECISIONS, channels_last


class MergedRFB(nn.Module):
    """An RFB without BatchNorm, whose five 1x1 convolutions of the same input are one."""

    def __init__(self, rfb: RFB):
        super().__init__()
        branches = (rfb.branch0, rfb.branch1, rfb.branch2, rfb.branch3)
        self.first = side_by_side([fused(branch[0]) for branch in branches] + [fused(rfb.conv_res)])
        self.branches = nn.ModuleList(nn.Sequential(*map(fused, branch[1:])) for branch in branches)
        self.conv_cat = fused(rfb.conv_cat)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w)"""
        *parts, rest = self.first(x).chunk(len(self.branches) + 1, dim=1)
        parts = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        return F.relu(self.conv_cat(torch.cat(parts, dim=1)) + rest)


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """`model`, in evaluation mode: BatchNorm put into the convolutions before it, RFBs merged, memory channels-last."""
    assert not model.training
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RFB):
                setattr(parent, name, MergedRFB(child))
            elif isinstance(child, DoubleConv):
                conv1, bn1, relu1, conv2, bn2, relu2 = child.double_conv
                both = fuse_conv_bn_eval(conv1, bn1), relu1, fuse_conv_bn_eval(conv2, bn2), relu2
                child.double_conv = nn.Sequential(*both)
    channels_last(model.parameters())
    return model


def fused(block: ConvBN) -> nn.Conv2d:
    return fuse_conv_bn_eval(block.conv, block.bn)


def side_by_side(convolutions: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One convolution whose output is theirs, one after another."""
    first = convolutions[0]
    channels = sum(conv.out_channels for conv in convolutions)
    merged = nn.Conv2d(first.in_channels, channels, first.kernel_size, padding=first.padding, device="meta")
    merged.weight, merged.bias = (
        nn.Parameter(torch.cat([getattr(conv, name) for conv in convolutions])) for name in ("weight", "bias")
    )
    return merged


def halved(model: nn.Module, amp: str) -> nn.Module:
    """Weights of matrix products and convolutions in the type that autocast would turn them into for every batch."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(PRECISIONS[amp])
    return model


class PackedLinear(nn.Module):
    """A Linear and, if so wished, the GELU after it, by oneDNN, with weights laid out for it once.

    What PyTorch calls for fp32 otherwise is half as fast on AMD's processors. The operators are those that
    torch.compile calls.
    """

    def __init__(self, linear: nn.Linear, then: str = "none"):
        super().__init__()
        self.then, self.kind = then, linear.weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(self.kind), self.weight, self.bias, self.then, [], "none")


@torch.no_grad()
def packed(model: nn.Module) -> nn.Module:
    """Matrix products by oneDNN, and position maps kept for each size; for CPUs, without compiling."""
    if isinstance(model, Hiera):
        model.position = functools.lru_cache(maxsize=8)(model.position)
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, PackedLinear(child))
        elif isinstance(child, MLP):
            first, second = child.layers
            setattr(model, name, nn.Sequential(PackedLinear(first, "gelu"), PackedLinear(second)))
        elif isinstance(model, Adapted) and name == "prompt_learn":
            down, _, up, _ = child
            setattr(model, name, nn.Sequential(PackedLinear(down, "gelu"), PackedLinear(up, "gelu")))
        else:
            packed(child)
    return model


def can_pack(device: torch.device, amp: str) -> bool:
    return device.type == "cpu" and amp in ("off", "bf16") and torch.backends.mkldnn.is_available()


def filled_up(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`forward`, given batches as large as the largest so far of their size: compiled code is for one shape."""
    most: dict[torch.Size, int] = {}

    def call(images: Tensor) -> Tensor:
        count, shape = len(images), images.shape[1:]
        most[shape] = max(count, most.get(shape, 0))
        spare = images.new_zeros((most[shape] - count, *shape))
        return forward(torch.cat([images, spare]) if len(spare) else images)[:count]

    return call
