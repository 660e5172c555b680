"""Hiera, the image encoder of SAM 2, without its neck. Parameter names are those of SAM 2's checkpoints.

Letters: B batch, H W token grid, C channels, N heads, w window side. Tokens are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Blocks per stage, which blocks attend globally, the side of the background position map, window side per stage.
SIZES = {
    "tiny": dict(dim=96, heads=1, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9), grid=7, windows=(8, 4, 14, 7)),
    "small": dict(dim=96, heads=1, depths=(1, 2, 11, 2), global_blocks=(7, 10, 13), grid=7, windows=(8, 4, 14, 7)),
    "base_plus": dict(
        dim=112, heads=2, depths=(2, 3, 16, 3), global_blocks=(12, 16, 20), grid=14, windows=(8, 4, 14, 7)
    ),
    "large": dict(dim=144, heads=2, depths=(2, 6, 36, 4), global_blocks=(23, 33, 43), grid=7, windows=(8, 4, 16, 8)),
}


def hiera(size: str) -> Hiera:
    """One of `SIZES`, with PyTorch's default initialisation."""
    return Hiera(**SIZES[size])


def size_of(state: Mapping[str, Tensor]) -> str | None:
    """Which of `SIZES` a trunk's state dict is of, adapted or not, or that of its adapters alone; None if of none."""
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    known = state.get("pos_embed", state.get("blocks.0.prompt_learn.0.weight"))
    dim = known.shape[1] if known is not None and known.ndim > 1 else 0
    fits = (size for size, facts in SIZES.items() if (facts["dim"], sum(facts["depths"])) == (dim, depth))
    return next(fits, None)


class Hiera(nn.Module):
    """Four stages of transformer blocks; width doubles and the grid halves between stages.

    Attributes:
        channels: width of each of the four outputs.
        checkpointing: compute each block again for its gradients instead of keeping what they need (arXiv 1604.06174).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        depths: tuple[int, ...],
        global_blocks: tuple[int, ...],
        grid: int,
        windows: tuple[int, ...],
    ):
        super().__init__()
        self.channels = tuple(dim * 2**stage for stage in range(len(depths)))
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, grid, grid))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, windows[0], windows[0]))

        blocks, self.stage_ends = [], []
        for stage, depth in enumerate(depths):
            for i in range(depth):
                pools = stage > 0 and i == 0
                window = windows[stage - 1] if pools else windows[stage]  # a pooling block keeps the finer stage's
                blocks.append(
                    Block(
                        dim_in=self.channels[stage - 1] if pools else self.channels[stage],
                        dim_out=self.channels[stage],
                        heads=heads * 2**stage,
                        window=0 if len(blocks) in global_blocks else window,
                        pools=pools,
                    )
                )
            self.stage_ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.checkpointing = False

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, S, S'), sides divisible by 32 -> four maps (B, C_i, h_i, w_i) at strides 4, 8, 16, 32."""
        x = self.patch_embed(image)
        x = x + self.position(*x.shape[1:3])
        maps = []
        for i, block in enumerate(self.blocks):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in self.stage_ends:
                maps.append(x.permute(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)
        return maps

    def position(self, height: int, width: int) -> Tensor:
        """(1, H, W, C): one smooth map over the whole grid plus one that repeats in every window."""
        smooth = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        tiled = self.pos_embed_window.tile(1, 1, height // side, width // side)
        return (smooth + tiled).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S') -> (B, S/4, S'/4, C)"""
        return self.proj(image).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention and an MLP, each after a norm and beside a residual path. With `pools` the grid halves."""

    def __init__(self, dim_in: int, dim_out: int, heads: int, window: int, pools: bool):
        super().__init__()
        self.dim_in = dim_in
        self.pools = pools
        self.norm1 = nn.LayerNorm(dim_in, eps=1e-6)
        self.attn = WindowAttention(dim_in, dim_out, heads, window, pools)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP(dim_out)
        if dim_in != dim_out:
            self.proj = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim_in) -> (B, H, W, dim_out), or (B, H/2, W/2, dim_out) with `pools`."""
        normed = self.norm1(x)
        if self.pools:
            x = max_pool(self.proj(normed))  # the residual path starts behind the norm where the width changes
        x = x + self.attn(normed)
        return x + self.mlp(self.norm2(x))


class MLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](F.gelu(self.layers[0](x)))


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens, over the whole grid where `window` is 0.

    The grid is padded at the bottom and right to whole windows, and padded tokens take part as keys. They are zero
    behind the norm, so their keys and values are the bias of `qkv` alone: `qkv` and `proj` run on real tokens only.
    Queries are pooled before windows are cut, which is the same as after: windows and grids are even.
    """

    def __init__(self, dim_in: int, dim_out: int, heads: int, window: int, pools: bool):
        super().__init__()
        self.heads = heads
        self.window = window
        self.pools = pools
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim_in), normed -> (B, H, W, dim_out), or (B, H/2, W/2, dim_out) with `pools`."""
        qkv = self.qkv(x)
        dim = qkv.shape[-1] // 3
        queries, keys_values = qkv.split([dim, 2 * dim], dim=-1)  # backward in one piece, which slices are not
        if self.pools:
            queries = max_pool(queries)
        batch, height, width, _ = queries.shape

        key_window = (self.window, self.window) if self.window else tuple(x.shape[1:3])
        query_window = tuple(side // 2 for side in key_window) if self.pools else key_window
        q = cut_windows(queries, query_window, queries.new_zeros(dim))  # what padded queries see is cut off below
        k, v = cut_windows(keys_values, key_window, self.qkv.bias[dim:]).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(self.by_head(q), self.by_head(k), self.by_head(v))
        out = out.transpose(1, 2).flatten(2)  # (windows, N, tokens, head width) -> (windows, tokens, C)
        return self.proj(join_windows(out, query_window, (batch, height, width)).contiguous())

    def by_head(self, x: Tensor) -> Tensor:
        """(windows, tokens, C) -> (windows, N, tokens, head width)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def max_pool(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, H/2, W/2, C)"""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def cut_windows(x: Tensor, window: tuple[int, int], padding: Tensor) -> Tensor:
    """(B, H, W, C) -> (B * windows, tokens of a window, C), padded at the bottom and right with `padding`, (C,)."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window[0]), -(-width // window[1])
    if (rows * window[0], columns * window[1]) != (height, width):
        padded = padding.to(x.dtype).expand(batch, rows * window[0], columns * window[1], channels).clone()
        padded[:, :height, :width] = x
        x = padded
    x = x.reshape(batch, rows, window[0], columns, window[1], channels)
    return x.transpose(2, 3).reshape(-1, window[0] * window[1], channels)


def join_windows(x: Tensor, window: tuple[int, int], grid: tuple[int, int, int]) -> Tensor:
    """(B * windows, tokens of a window, C) -> (B, H, W, C) for `grid` (B, H, W); what was padded is cut off."""
    batch, height, width = grid
    rows, columns = -(-height // window[0]), -(-width // window[1])
    x = x.reshape(batch, rows, columns, window[0], window[1], -1).transpose(2, 3)
    return x.reshape(batch, rows * window[0], columns * window[1], -1)[:, :height, :width]
