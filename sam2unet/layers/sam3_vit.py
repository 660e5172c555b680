"""SAM 3's image encoder without its neck: a plain vision transformer whose positions are rotations.

The names of the parameters are those of SAM 3's checkpoints.

Letters: B batch, H W token grid (a token is 14 x 14 pixels), C channels, N heads, D head width, K tokens of a window.
Tokens are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .trunk import Trunk
from .windows import attend_in_padded_windows

# hidden: channels inside an MLP. global_blocks: indices of the blocks that attend over the whole grid.
SIZES: dict[str, dict[str, Any]] = {
    "large": dict(dim=1024, depth=32, heads=16, hidden=4736, global_blocks=(7, 15, 23, 31))
}
PATCH = 14  # side of a patch, in pixels
WINDOW = 24  # side of a window and of the position map, in tokens
DROP = 0.1  # in training, the probability that a branch of the last block is dropped
TABLE = "freqs_cis"  # the name of the rotations in released checkpoints


def sam3_vit(size: str) -> Sam3ViT:
    """Returns a new trunk. `size` is a key of `SIZES`. Weights have PyTorch's default initialisation."""
    return Sam3ViT(**SIZES[size])


def find_sam3_size(state: Mapping[str, Tensor]) -> str | None:
    """Returns the key of `SIZES` that a trunk's state dict belongs to, or None if no size fits."""
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    position = state.get("pos_embed")
    dim = position.shape[-1] if position is not None and position.ndim == 3 else 0
    return next((size for size, shape in SIZES.items() if (shape["dim"], shape["depth"]) == (dim, depth)), None)


class Sam3ViT(Trunk):
    """A plain vision transformer in which most blocks attend within windows of 24 x 24 tokens.

    In training, branches of the blocks are dropped at random (stochastic depth, arXiv 1603.09382).

    Attributes:
        channels: the number of channels of the output.
        drop_rates: the probability that a branch is dropped, for each block.
    """

    def __init__(self, dim: int, depth: int, heads: int, hidden: int, global_blocks: tuple[int, ...]):
        super().__init__()
        self.channels, self.head_width, self.global_blocks = dim, dim // heads, global_blocks
        self.drop_rates = [DROP * i / max(1, depth - 1) for i in range(depth)]
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + WINDOW**2, dim))  # the first entry is of a class token
        self.patch_embed = Sam3PatchEmbed(dim)
        self.blocks = nn.ModuleList(Sam3Block(dim, heads, hidden) for _ in range(depth))
        self.ln_pre = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (B, 3, height, width) -> a map (B, C, height/14, width/14), sides rounded down."""
        x = self.patch_embed(image)
        rows, columns = x.shape[1:3]
        x = self.ln_pre(x + self.position(rows, columns))
        windows = make_rotations(WINDOW, WINDOW, self.head_width, x.device)
        whole = make_rotations(rows, columns, self.head_width, x.device)
        factors = self.draw_factors(len(x)).to(x, non_blocking=True) if self.training else [None] * len(self.blocks)
        for i, block in enumerate(self.blocks):
            x = self.run_block(block, x, whole if i in self.global_blocks else windows, factors[i])
        return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)

    def position(self, height: int, width: int) -> Tensor:
        """Returns position embeddings (1, H, W, C): a map of 24 x 24 tokens that repeats. It is not resized."""
        tile = self.pos_embed[:, 1:].unflatten(1, (WINDOW, WINDOW))
        return tile.tile(1, -(-height // WINDOW), -(-width // WINDOW), 1)[:, :height, :width]

    # Compiled code has another generator. `torch.compiler.disable` does the same, but imports the compiler here.
    @torch._disable_dynamo
    def draw_factors(self, count: int) -> Tensor:
        """Draws which branches are dropped for each of `count` images, independently.

        Returns (blocks, 2, count, 1, 1, 1), the factors of the outputs of attention and MLP. A factor is 0 or, so that
        the mean is 1, 1 / (1 - rate). It is drawn on the CPU, so that all devices draw the same.
        """
        kept = 1 - torch.tensor(self.drop_rates).view(-1, 1, 1, 1, 1, 1)
        return (torch.rand(len(kept), 2, count, 1, 1, 1) < kept) / kept


class Sam3PatchEmbed(nn.Module):
    """Turns pixels into tokens: one token per patch of 14 x 14 pixels."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, H, W, C). A rest at the right or bottom is not seen."""
        return self.proj(image).permute(0, 2, 3, 1)


class Sam3Block(nn.Module):
    """A transformer block: attention, then an MLP. Each has a norm before it and a residual path around it."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.dim_in = dim
        self.norm1 = nn.LayerNorm(dim)
        self.attn = RotaryAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        layers = {"fc1": nn.Linear(dim, hidden), "act": nn.GELU(), "fc2": nn.Linear(hidden, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, rotations: Tensor, factors: Tensor | None = None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)

        Args:
            rotations: of the tokens of a window, see `make_rotations`.
            factors: (2, B, 1, 1, 1), for the outputs of attention and MLP, see `Sam3ViT.draw_factors`.
        """
        attended = self.attn(self.norm1(x), rotations)
        x = x + (attended if factors is None else attended * factors[0])
        mixed = self.mlp(self.norm2(x))
        return x + (mixed if factors is None else mixed * factors[1])


class RotaryAttention(nn.Module):
    """Multi-head attention within windows, with rotary positions (arXiv 2104.09864).

    A window can be the whole grid. SAM 3 pads the grid with zero tokens, see `attend_in_padded_windows`.

    Released checkpoints contain the rotations as complex numbers. The state dict has them too, for windows of 24 x 24
    tokens, which is the whole grid of an image of 336 x 336 pixels. They are computed, so loading ignores them.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.head_width = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Tokens after the norm (B, H, W, C) -> (B, H, W, C). `rotations` has the size of a window."""
        window = (rotations.shape[1], rotations.shape[2])

        def attend(qkv: Tensor, rows: int, columns: int) -> Tensor:
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 times (B * windows, N, K, D)
            q = q.unflatten(2, window)[:, :, :rows, :columns].flatten(2, 3)
            q, k = rotate(q, rotations[:, :rows, :columns]), rotate(k, rotations)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

        return self.proj(attend_in_padded_windows(self.qkv(x), self.qkv.bias, window, attend))

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        cos, sin = make_rotations(WINDOW, WINDOW, self.head_width, torch.device("cpu"))
        destination[prefix + TABLE] = torch.complex(cos, sin).flatten(0, 1)  # (576, D/2)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        state_dict.pop(prefix + TABLE, None)
        super()._load_from_state_dict(state_dict, prefix, *others)


def make_rotations(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Returns cosines and sines of the rotations of a grid, float32 (2, rows, columns, D/2).

    The first half of the angles grows from left to right, the second half from top to bottom. A grid of another side
    than 24 is scaled to 24, so that the angles have the range that SAM 3 was trained with.

    Args:
        width: D, a multiple of 4.
    """
    frequencies = 1 / 10000 ** (torch.arange(0, width, 4, dtype=torch.float32, device=device) / width)
    x, y = (
        torch.arange(side, dtype=torch.float32, device=device)[:, None] * (WINDOW / side) * frequencies
        for side in (columns, rows)
    )
    angles = torch.cat([x.expand(rows, -1, -1), y[:, None].expand(-1, columns, -1)], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotates each pair of neighbouring elements: (B, N, tokens, D) -> (B, N, tokens, D).

    Computes in float32 for each type of `x`, as SAM 3.

    Args:
        rotations: (2, rows, columns, D/2), with rows * columns tokens.
    """
    cos, sin = rotations.flatten(1, 2)
    pairs = x.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():  # exported graphs have no complex numbers, which take a tenth of the time
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2).to(x.dtype)
    real, imaginary = pairs.unbind(-1)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2).to(x.dtype)
