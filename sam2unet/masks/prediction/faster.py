"""Makes a loaded model faster for prediction, in place. The outputs change by rounding only.

Afterwards the state dict has other names, and the model can no longer be trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...layers.decoder import RFB, ConvBN
from ...layers.hiera import Hiera, HieraMLP
from ...runtime.device import TYPES, can_use_onednn, to_channels_last_


class MergedRFB(nn.Module):
    """An RFB with its BatchNorm folded into the convolutions. Its five 1x1 convolutions of the input become one."""

    def __init__(self, rfb: RFB):
        super().__init__()
        branches = (rfb.branch0, rfb.branch1, rfb.branch2, rfb.branch3)
        self.first = join_convolutions([fuse_conv_bn(branch[0]) for branch in branches] + [fuse_conv_bn(rfb.conv_res)])
        self.branches = nn.ModuleList(nn.Sequential(*map(fuse_conv_bn, branch[1:])) for branch in branches)
        self.conv_cat = fuse_conv_bn(rfb.conv_cat)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w)"""
        *parts, residual = self.first(x).chunk(len(self.branches) + 1, dim=1)
        parts = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        return F.relu(self.conv_cat(torch.cat(parts, dim=1)) + residual)


@torch.no_grad()
def fold_(model: nn.Module) -> nn.Module:
    """Folds each BatchNorm into the convolution before it and merges RFBs. Weights become channels-last in memory.

    Changes `model` in place and returns it. The model must be in evaluation mode.
    """
    assert not model.training
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RFB):
                setattr(parent, name, MergedRFB(child))
            elif isinstance(child, nn.Sequential) and any(isinstance(layer, nn.BatchNorm2d) for layer in child):
                setattr(parent, name, fold_sequence(child))
    to_channels_last_(model.parameters())
    return model


def fold_sequence(layers: nn.Sequential) -> nn.Sequential:
    """Returns a sequence in which each BatchNorm that follows a convolution is folded into it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and folded and isinstance(folded[-1], nn.Conv2d):
            folded[-1] = fuse_conv_bn_eval(folded[-1], layer)
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def fuse_conv_bn(block: nn.Module) -> nn.Conv2d:
    """Returns one convolution with a bias that does the work of a `ConvBN` in evaluation mode."""
    assert isinstance(block, ConvBN)
    return fuse_conv_bn_eval(block.conv, block.bn)


def join_convolutions(convolutions: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Returns one convolution that computes all `convolutions` of the same input. Outputs are concatenated."""
    first = convolutions[0]
    channels = sum(conv.out_channels for conv in convolutions)
    # Convolutions of 1 x 1 pixel have no padding.
    merged = nn.Conv2d(first.in_channels, channels, kernel_size=1, device="meta")
    merged.weight, merged.bias = (
        nn.Parameter(torch.cat([getattr(conv, name) for conv in convolutions])) for name in ("weight", "bias")
    )
    return merged


def halve_(model: nn.Module, amp: str) -> nn.Module:
    """Converts the weights of linear layers and convolutions to the type of `amp`, in place. Returns `model`.

    Autocast would convert them again for every batch.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(TYPES[amp])
    return model


class PackedLinear(nn.Module):
    """A linear layer that oneDNN computes, with an optional GELU after it.

    The weights are stored once in the layout of oneDNN. PyTorch's default in float32 takes twice the time on AMD's
    processors. The operators are those that torch.compile uses.

    Args:
        activation: "none" or "gelu".
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.activation, self.dtype = activation, linear.weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], "none")


@torch.no_grad()
def pack_(model: nn.Module) -> nn.Module:
    """Replaces linear layers by `PackedLinear`, in place. For CPUs without torch.compile. Returns `model`."""
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model, name, PackedLinear(child))
        elif isinstance(child, HieraMLP):
            first, second = child.layers
            assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
            setattr(model, name, nn.Sequential(PackedLinear(first, "gelu"), PackedLinear(second)))
        elif isinstance(child, nn.Sequential):
            setattr(model, name, pack_sequence(child))
        else:
            pack_(child)
    return model


def pack_sequence(layers: nn.Sequential) -> nn.Sequential:
    """Returns a sequence of packed layers. A GELU that follows a linear layer becomes a part of it."""
    packed: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.GELU) and packed and isinstance(packed[-1], PackedLinear):
            packed[-1].activation = "gelu"
        else:
            packed.append(PackedLinear(layer) if isinstance(layer, nn.Linear) else pack_(layer))
    return nn.Sequential(*packed)


def cache_positions_(model: nn.Module) -> None:
    """Makes trunks compute their position embeddings once for each grid. The outputs stay the same."""
    for module in model.modules():
        if isinstance(module, Hiera):
            cached = functools.lru_cache(maxsize=8)(module.position)
            module.position = cached  # type: ignore[method-assign]  # hides the method on purpose


def can_pack(device: torch.device, amp: str) -> bool:
    """Returns whether `pack_` can run on `device` at this precision."""
    return device.type == "cpu" and can_use_onednn(amp)


def pad_batches(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns a function that pads small batches, (B, C, H, W), with zeros before it calls `forward`.

    Each batch becomes as large as the largest batch of this image size so far. Compiled code is for one shape, so a
    smaller last batch would be compiled again. The results of the padding are dropped.
    """
    largest: dict[torch.Size, int] = {}

    def call(images: Tensor) -> Tensor:
        count, shape = len(images), images.shape[1:]
        largest[shape] = max(count, largest.get(shape, 0))
        padding = images.new_zeros((largest[shape] - count, *shape))
        return forward(torch.cat([images, padding]) if len(padding) else images)[:count]

    return call
