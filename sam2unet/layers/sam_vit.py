"""SAM's image encoder (arXiv 2304.02643) with SAM-Med2D's adapters (arXiv 2308.16184).

The attributes have the names of the released checkpoints.

Letters: B batch, S side of the image in pixels, H W token grid, C channels, N heads, D head width, K side of the window
in which a token attends, in tokens. Tokens are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .trunk import Trunk
from .windows import attend_in_padded_windows

# global_blocks: indices of the blocks that attend over the whole grid. All other blocks attend within windows.
SIZES: dict[str, dict[str, Any]] = {
    "vit_b": dict(dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": dict(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": dict(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}
PATCH = 16  # side of a patch, in pixels
WINDOW = 14  # side of a window, in tokens
WIDTH = 256  # channels of the image embedding, of prompt embeddings and of the decoder's tokens


def sam_vit(size: str, side: int, adapters: bool) -> SamViT:
    """Returns a new encoder for images of `side` x `side` pixels, with the released code's initialisation.

    Args:
        size: a key of `SIZES`.
        adapters: put an `Adapter` into each block.
    """
    return SamViT(**SIZES[size], side=side, adapters=adapters)


def find_sam_size(weights: Mapping[str, Tensor]) -> str | None:
    """Returns the key of `SIZES` that an encoder's state dict belongs to, or None if no size fits."""
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    position = weights.get("pos_embed")
    dim = position.shape[-1] if position is not None and position.ndim == 4 else 0
    return next((size for size, shape in SIZES.items() if (shape["dim"], shape["depth"]) == (dim, depth)), None)


def resize_sam_positions(weights: Mapping[str, Tensor], size: str, grid: int) -> dict[str, Tensor]:
    """Returns an encoder's state dict with its position tables resized for a grid of `grid` x `grid` tokens.

    Resizes `pos_embed` over the grid, and the relative positions of global blocks along their rows. The relative
    positions of the other blocks depend on the window alone, so they are kept. Tables may be absent from `weights`.

    Args:
        size: a key of `SIZES`.
    """
    changed = {}
    if "pos_embed" in weights:
        changed["pos_embed"] = resize_table(weights["pos_embed"].permute(0, 3, 1, 2), (grid, grid)).permute(0, 2, 3, 1)
    for block in SIZES[size]["global_blocks"]:
        for name in (f"blocks.{block}.attn.rel_pos_h", f"blocks.{block}.attn.rel_pos_w"):
            if name in weights and weights[name].ndim == 2:
                table = weights[name]
                changed[name] = resize_table(table[None, None], (2 * grid - 1, table.shape[-1]))[0, 0]
    return {**weights, **changed}


def resize_table(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size). Bilinear, corners not aligned, no antialiasing.

    Returns `maps` itself if it has this size or is empty.
    """
    if tuple(maps.shape[2:]) == size or not maps.numel():
        return maps
    return F.interpolate(maps, size=size, mode="bilinear")


class SamViT(Trunk):
    """A plain vision transformer in which most blocks attend within windows. It takes images of one size only.

    Attributes:
        img_size: the side of an image in pixels. The name is SAM's.
        grid: the side of the token grid.
    """

    def __init__(self, dim: int, depth: int, heads: int, global_blocks: tuple[int, ...], side: int, adapters: bool):
        super().__init__()
        self.img_size = side
        self.grid = side // PATCH
        self.patch_embed = SamPatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, dim))
        self.blocks = nn.ModuleList(
            SamBlock(dim, heads, 0 if i in global_blocks else WINDOW, self.grid, adapters) for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, WIDTH, kernel_size=1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (B, 3, img_size, img_size) -> image embeddings (B, 256, grid, grid).

        Raises:
            UserError: images of another size.
        """
        self.check_sides(image)
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.neck(x.permute(0, 3, 1, 2))

    def check_sides(self, image: Tensor) -> None:
        """Raises UserError unless `image` is (B, 3, img_size, img_size)."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return  # the sides may be symbols here, and a comparison would fix their values in the graph
        height, width = image.shape[-2:]
        if (height, width) != (self.img_size, self.img_size):
            raise UserError(
                f"the model cannot take an image of {height}x{width} pixels (height x width): it takes "
                f"{self.img_size}x{self.img_size} only; resize the image, or create the model with another image_size"
            )


class SamPatchEmbed(nn.Module):
    """Turns pixels into tokens: one token per patch of 16 x 16 pixels."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, S/16, S/16, C)"""
        return self.proj(image).permute(0, 2, 3, 1)


class SamBlock(nn.Module):
    """A transformer block: attention, then an MLP. Each has a norm before it and a residual path around it.

    The adapter is parallel to the MLP and has the same input (arXiv 2308.16184, section 3.2).

    Args:
        window: side of a window in tokens; 0 for attention over the whole grid.
        grid: side of the token grid.
        adapters: have an adapter.
    """

    def __init__(self, dim: int, heads: int, window: int, grid: int, adapters: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = RelativePositionAttention(dim, heads, window, grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = SamMLP(dim, 4 * dim, F.gelu)
        self.Adapter = Adapter(dim) if adapters else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)"""
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        x = x + self.mlp(normed)
        return x if self.Adapter is None else x + self.Adapter(normed)


class RelativePositionAttention(nn.Module):
    """Multi-head attention with decomposed relative positions: a score also depends on the distance of two tokens.

    Attends within windows of `window` x `window` tokens. If `window` is 0, attends over the whole grid. SAM pads the
    grid with zero tokens, see `attend_in_padded_windows`.
    """

    def __init__(self, dim: int, heads: int, window: int, grid: int):
        super().__init__()
        self.heads = heads
        self.side = window or grid
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * self.side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * self.side - 1, dim // heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens after the norm (B, H, W, C) -> (B, H, W, C)"""
        return self.proj(attend_in_padded_windows(self.qkv(x), self.qkv.bias, (self.side, self.side), self.attend))

    def attend(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """Padded windows (B * windows, K * K, 3 C) -> (B * windows, height * width, C), for the real tokens of each."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 times (B * windows, N, K * K, D)
        q = q.unflatten(2, (self.side, self.side))[:, :, :height, :width]
        out = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=self.position_bias(q))
        return out.transpose(1, 2).flatten(2)  # (B * windows, N, tokens, D) -> (B * windows, tokens, C)

    def position_bias(self, q: Tensor) -> Tensor:
        """Queries (B * windows, N, h, w, D) -> what is added to their scores (B * windows, N, h * w, K * K).

        The queries are not scaled, as in SAM.
        """
        indices = torch.arange(self.side, device=q.device)
        # (K, K): distance from the query's row to the key's row, shifted so that it is an index into the table.
        distance = indices[:, None] - indices + self.side - 1
        rows = torch.einsum("bnhwd,hkd->bnhwk", q, self.rel_pos_h[distance[: q.shape[2]]])
        columns = torch.einsum("bnhwd,wkd->bnhwk", q, self.rel_pos_w[distance[: q.shape[3]]])
        return (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)


class Adapter(nn.Module):
    """SAM-Med2D's adapter (arXiv 2308.16184, section 3.2): a gate per channel, then convolutions on half the grid.

    The last layer is a norm, so a new adapter returns neither its input nor zero.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)  # the block's norms have 1e-6; both as released
        self.channel = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False), nn.ReLU(), nn.Linear(dim // 4, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        for layer in (*self.channel, *self.spatial):
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C). H and W must be even."""
        gated = (x * self.channel(x.mean((1, 2)))[:, None, None]).permute(0, 3, 1, 2)  # (B, C, H, W)
        maps = self.multiply_spatial(gated) if is_small_on_cpu(x) else self.spatial(gated)
        return self.norm(x + maps.permute(0, 2, 3, 1))  # the residual path carries the input before the gate

    def multiply_spatial(self, x: Tensor) -> Tensor:
        """Computes `spatial` as two matrix products: (B, C, H, W) -> (B, C, H, W).

        The products use the weights in their layout in memory. Convolutions on CPUs would copy them first.
        """
        down, _, up, _ = self.spatial
        assert isinstance(down, nn.Conv2d) and isinstance(up, nn.ConvTranspose2d)
        patches = F.unfold(x, kernel_size=3, padding=1, stride=2).mT.flatten(0, 1)
        small = F.relu(patches @ down.weight.flatten(1).T)  # (B * H/2 * W/2, C)
        patches = (small @ up.weight.flatten(1)).unflatten(0, (len(x), -1)).mT
        return F.relu(F.fold(patches, x.shape[2:], kernel_size=4, padding=1, stride=2))


def is_small_on_cpu(x: Tensor) -> bool:
    """Returns whether `x`, (B, H, W, C), is so small that copying the weights takes most of a convolution's time."""
    return x.device.type == "cpu" and x.shape[:3].numel() <= 1024 and not torch.compiler.is_compiling()


class SamMLP(nn.Module):
    """Two linear layers with an activation between them: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(x)))


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of each pixel: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
