"""Hiera, the image encoder of SAM 2 (arXiv 2306.00989, arXiv 2408.00714), without the neck that SAM 2 adds to it.

The names of the parameters are those of SAM 2's checkpoints.

Letters: B batch, H W token grid (a token is 4 x 4 pixels in the first stage), C channels, N heads, D head width.
Images are (B, 3, height, width). Tokens are channels-last, (B, H, W, C).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .trunk import Trunk
from .windows import WindowAttention, max_pool

# dim, heads: channels and attention heads of the first stage. Both double at each later stage.
# depths: blocks per stage. global_blocks: indices of the blocks that attend over the whole grid.
# grid: side of the position map that is resized to the whole grid. windows: side of a window per stage, in tokens.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(dim=96, heads=1, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9), grid=7, windows=(8, 4, 14, 7)),
    "small": dict(dim=96, heads=1, depths=(1, 2, 11, 2), global_blocks=(7, 10, 13), grid=7, windows=(8, 4, 14, 7)),
    "base_plus": dict(
        dim=112, heads=2, depths=(2, 3, 16, 3), global_blocks=(12, 16, 20), grid=14, windows=(8, 4, 14, 7)
    ),
    "large": dict(dim=144, heads=2, depths=(2, 6, 36, 4), global_blocks=(23, 33, 43), grid=7, windows=(8, 4, 16, 8)),
}
STRIDE = 32  # in pixels. The last stage has one token per 32 x 32 pixels.


def hiera(size: str) -> Hiera:
    """Returns a new trunk. `size` is a key of `SIZES`. Weights have PyTorch's default initialisation."""
    return Hiera(**SIZES[size])


def find_hiera_size(state: Mapping[str, Tensor]) -> str | None:
    """Returns the key of `SIZES` that a trunk's state dict belongs to, or None if no size fits.

    The state dict may be of a trunk, of a trunk with adapters, or of the adapters alone.
    """
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    weight = state.get("pos_embed", state.get("blocks.0.prompt_learn.0.weight"))
    dim = weight.shape[1] if weight is not None and weight.ndim > 1 else 0
    sizes = (size for size, shape in SIZES.items() if (shape["dim"], sum(shape["depths"])) == (dim, depth))
    return next(sizes, None)


def check_sides(image: Tensor) -> None:
    """Raises UserError if the trunk cannot take the sides of `image`, (B, 3, height, width).

    Both sides must be multiples of 32 pixels: then the grid holds whole windows of 8 x 8 tokens and can halve three
    times. The patch embedding rounds a side up to a multiple of 4, so 349 to 351 pixels pass like 352, as in the
    released models.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return  # the sides may be symbols here, and a comparison would fix their values in the graph
    height, width = image.shape[-2:]
    wrong = dict.fromkeys(side for side in (height, width) if -(-side // 4) % 8)
    if wrong:
        below = [side // STRIDE * STRIDE for side in wrong]
        advice = [
            f"instead of {side}, give " + (f"{low} or {low + STRIDE}" if low else f"{STRIDE}")
            for side, low in zip(wrong, below, strict=True)
        ]
        raise UserError(
            f"the model cannot take an image of {height}x{width} pixels (height x width): both sides must be "
            f"multiples of {STRIDE}; {'; '.join(advice)}"
        )


class Hiera(Trunk):
    """Four stages of transformer blocks. Between two stages the channels double and the sides of the grid halve.

    Attributes:
        channels: the number of channels of each of the four outputs.
        stage_ends: the index of the last block of each stage.
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
        self.patch_embed = HieraPatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, grid, grid))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, windows[0], windows[0]))

        blocks: list[HieraBlock] = []
        self.stage_ends: list[int] = []
        for stage, depth in enumerate(depths):
            for i in range(depth):
                pools = stage > 0 and i == 0
                # A pooling block cuts its windows from the grid before pooling, so it has the previous stage's side.
                window = windows[stage - 1] if pools else windows[stage]
                blocks.append(
                    HieraBlock(
                        dim_in=self.channels[stage - 1] if pools else self.channels[stage],
                        dim_out=self.channels[stage],
                        heads=heads * 2**stage,
                        window=0 if len(blocks) in global_blocks else window,
                        pools=pools,
                    )
                )
            self.stage_ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, height, width) -> four maps (B, C, H, W), at strides 4, 8, 16 and 32.

        Raises:
            UserError: the sides are not multiples of 32.
        """
        check_sides(image)
        x = self.patch_embed(image)
        x = x + self.position(*x.shape[1:3])
        maps = []
        for i, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            if i in self.stage_ends:
                maps.append(x.permute(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)
        return maps

    def position(self, height: int, width: int) -> Tensor:
        """Returns position embeddings (1, H, W, C) for a grid of `height` x `width` tokens.

        They are the sum of a map that is resized to the whole grid and a map that repeats in every window.
        """
        resize = functools.partial(F.interpolate, size=(height, width), mode="bicubic")
        if self.pos_embed.is_cuda and torch.are_deterministic_algorithms_enabled():  # a GPU lacks such a gradient
            smooth = resize(self.pos_embed.cpu()).to(self.pos_embed.device)
        else:
            smooth = resize(self.pos_embed)
        side = self.pos_embed_window.shape[-1]
        tiled = self.pos_embed_window.tile(1, 1, height // side, width // side)
        return (smooth + tiled).permute(0, 2, 3, 1)


class HieraPatchEmbed(nn.Module):
    """Turns pixels into tokens. Neighbouring patches overlap."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=7, stride=4, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, height/4, width/4, C), sides rounded up"""
        return self.proj(image).permute(0, 2, 3, 1)


class HieraBlock(nn.Module):
    """A transformer block: attention, then an MLP. Each has a norm before it and a residual path around it.

    With `pools`, the first block of a stage, the sides of the grid halve and the channels change.
    """

    def __init__(self, dim_in: int, dim_out: int, heads: int, window: int, pools: bool):
        super().__init__()
        self.dim_in = dim_in
        self.pools = pools
        self.norm1 = nn.LayerNorm(dim_in, eps=1e-6)
        self.attn = WindowAttention(dim_in, dim_out, heads, window, pools)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = HieraMLP(dim_out)
        if dim_in != dim_out:
            self.proj = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim_in) -> (B, H, W, dim_out), or (B, H/2, W/2, dim_out) with `pools`."""
        normed = self.norm1(x)
        if self.pools:
            x = max_pool(self.proj(normed))  # as in SAM 2: here the residual path starts after the norm, not before
        x = x + self.attn(normed)
        return x + self.mlp(self.norm2(x))


class HieraMLP(nn.Module):
    """Two linear layers with a GELU between them and four times as many channels inside: (..., C) -> (..., C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](F.gelu(self.layers[0](x)))
