"""DINOv2 (arXiv 2304.07193) and DINOv3 (arXiv 2508.10104) as timm has them, for their last map of features."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 448  # images are resized to it
SIZES = {
    "small": "vit_small_patch14_dinov2",
    "base": "vit_base_patch14_dinov2",
    "large": "vit_large_patch14_dinov2",
    "v3_small": "vit_small_patch16_dinov3",
    "v3_base": "vit_base_patch16_dinov3",
    "v3_large": "vit_large_patch16_dinov3",
}
WIDTHS = {384: "small", 768: "base", 1024: "large"}


def size_of(state: Mapping[str, Tensor]) -> str | None:
    """Which of `SIZES` a state dict is of; None if of none."""
    width = (0, *state["cls_token"].shape)[-1] if "cls_token" in state else 0
    if "blocks.0.ls1.gamma" in state:
        return WIDTHS.get(width)
    return f"v3_{WIDTHS[width]}" if "blocks.0.gamma_1" in state and width in WIDTHS else None


def resampled(weights: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """With the positions of a square grid of patches, behind that of the class token, made those of another grid."""
    shape = weights["pos_embed"].shape if "pos_embed" in weights else ()  # DINOv3 computes its positions
    is_table = len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] > 0
    if not is_table or math.isqrt(shape[1] - 1) ** 2 != shape[1] - 1:
        return dict(weights)  # load_exact reports a wrong shape
    from timm.layers import resample_abs_pos_embed

    return weights | {"pos_embed": resample_abs_pos_embed(weights["pos_embed"], [grid, grid])}


class Dino(nn.Module):
    """A frozen vision transformer without its last norm, which the feature map does not pass.

    Attributes:
        channels: of the map.
        grid: its side.
    """

    def __init__(self, size: str):
        super().__init__()
        import timm  # takes two seconds, which what needs no DINO need not wait

        name = SIZES[size]
        self.model = timm.create_model(name, num_classes=0, img_size=SIDE)
        self.model.norm = nn.Identity()
        if any(buffer.is_meta for buffer in self.model.buffers()):  # not in a state dict, so nothing would fill them
            with torch.device("cpu"):
                self.model.rope = timm.create_model(name, num_classes=0, img_size=SIDE, depth=1).rope
        self.channels = self.model.embed_dim
        self.grid = self.model.patch_embed.grid_size[0]
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, channels, grid, grid), of whatever H and W."""
        image = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        (features,) = self.model.forward_intermediates(image, indices=1, norm=False, intermediates_only=True)
        return features
