"""DINOv2 (arXiv 2304.07193) or DINOv3 (arXiv 2508.10104), the second encoder of SAM2-UNeXT. timm has the networks."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 448  # in pixels; each image is resized to SIDE x SIDE
SIZES = {
    "small": "vit_small_patch14_dinov2",
    "base": "vit_base_patch14_dinov2",
    "large": "vit_large_patch14_dinov2",
    "v3_small": "vit_small_patch16_dinov3",
    "v3_base": "vit_base_patch16_dinov3",
    "v3_large": "vit_large_patch16_dinov3",
}
WIDTHS = {384: "small", 768: "base", 1024: "large"}  # channels -> size


def find_dino_size(state: Mapping[str, Tensor]) -> str | None:
    """Returns the key of `SIZES` that a state dict in timm's names belongs to, or None if no size fits."""
    width = (0, *state["cls_token"].shape)[-1] if "cls_token" in state else 0
    if "blocks.0.ls1.gamma" in state:
        return WIDTHS.get(width)
    return f"v3_{WIDTHS[width]}" if "blocks.0.gamma_1" in state and width in WIDTHS else None


def resize_dino_positions(weights: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """Returns `weights` with the position embeddings resized to a grid of `grid` x `grid` patches.

    `pos_embed` is (1, 1 + patches, C): the position of the class token, then those of a square grid. If `weights` has
    no such tensor, they are returned unchanged. DINOv3 has none, because it computes its positions. A tensor of a wrong
    shape is kept too, so that `load_exact` reports it.
    """
    shape: tuple[int, ...] = weights["pos_embed"].shape if "pos_embed" in weights else ()
    is_table = len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] > 0
    if not is_table or math.isqrt(shape[1] - 1) ** 2 != shape[1] - 1:
        return dict(weights)
    from timm.layers import resample_abs_pos_embed

    return {**weights, "pos_embed": resample_abs_pos_embed(weights["pos_embed"], [grid, grid])}


class Dino(nn.Module):
    """A frozen vision transformer that returns its last feature map, (B, channels, grid, grid).

    The last norm is left out, because SAM2-UNeXT uses the features before it.
    """

    def __init__(self, size: str):
        super().__init__()
        import timm  # takes two seconds, so models without DINO do not import it

        name = SIZES[size]
        self.model = timm.create_model(name, num_classes=0, img_size=SIDE)
        self.model.norm = nn.Identity()
        # A model on the meta device gets its values from a state dict. DINOv3's rotary positions are not in it.
        if any(buffer.is_meta for buffer in self.model.buffers()):
            with torch.device("cpu"):
                self.model.rope = timm.create_model(name, num_classes=0, img_size=SIDE, depth=1).rope
        self.channels = self.model.embed_dim
        self.grid = self.model.patch_embed.grid_size[0]
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) of any size -> features (B, channels, grid, grid)."""
        image = F.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        (features,) = self.model.forward_intermediates(image, indices=1, norm=False, intermediates_only=True)
        return features
