"""SAM's image encoder (arXiv 2304.02643) with SAM-Med2D's adapters (arXiv 2308.16184). Names are the checkpoints'.

Letters: B batch, H W token grid, C channels, N heads, D head width, K side of the area that a token attends to.
Tokens are channels-last, (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .hiera import cut_windows, join_windows

SIZES = {
    "vit_b": dict(dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": dict(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": dict(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}
PATCH = 16  # pixels on a side
WINDOW = 14  # tokens on a side
WIDTH = 256  # channels of the embedding, and of prompts and tokens that meet it


def sam_vit(size: str, side: int, adapters: bool) -> SamViT:
    """One of `SIZES` for images of `side` x `side` pixels, with the released code's initialisation."""
    return SamViT(**SIZES[size], side=side, adapters=adapters)


def size_of(weights: Mapping[str, Tensor]) -> str | None:
    """Which of `SIZES` an encoder's state dict is of; None if of none."""
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    position = weights.get("pos_embed")
    dim = position.shape[-1] if position is not None and position.ndim == 4 else 0
    return next((size for size, facts in SIZES.items() if (facts["dim"], facts["depth"]) == (dim, depth)), None)


def resampled(weights: Mapping[str, Tensor], size: str, grid: int) -> dict[str, Tensor]:
    """An encoder's state dict with its position tables made those of another grid.

    Bilinear without aligned corners or antialiasing: the positions over the grid, the tables of global blocks along
    their rows. Blocks with windows keep theirs, which do not depend on the grid. Tables may be absent.
    """
    changed = {}
    if "pos_embed" in weights:
        changed["pos_embed"] = resized(weights["pos_embed"].permute(0, 3, 1, 2), (grid, grid)).permute(0, 2, 3, 1)
    for block in SIZES[size]["global_blocks"]:
        for name in (f"blocks.{block}.attn.rel_pos_h", f"blocks.{block}.attn.rel_pos_w"):
            if name in weights and weights[name].ndim == 2:
                table = weights[name]
                changed[name] = resized(table[None, None], (2 * grid - 1, table.shape[-1]))[0, 0]
    return weights | changed


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size); the same tensor where nothing changes or it is empty."""
    if tuple(maps.shape[2:]) == size or not maps.numel():
        return maps
    return F.interpolate(maps, size=size, mode="bilinear")


class SamViT(nn.Module):
    """A plain vision transformer; most blocks attend within windows. Sees images of one size only.

    Attributes:
        img_size: their side in pixels, under SAM's name.
        grid: the side of the token grid.
        checkpointing: compute each block again for its gradients instead of keeping what they need (arXiv 1604.06174).
    """

    def __init__(self, dim: int, depth: int, heads: int, global_blocks: tuple[int, ...], side: int, adapters: bool):
        super().__init__()
        self.img_size = side
        self.grid = side // PATCH
        self.checkpointing = False
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid, self.grid, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, 0 if i in global_blocks else WINDOW, self.grid, adapters) for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, WIDTH, kernel_size=1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, img_size, img_size), normalised -> the embedding (B, 256, grid, grid)."""
        x = self.patch_embed(image) + self.pos_embed
        again = self.checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, S/16, S/16, C)"""
        return self.proj(image).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Attention, then an MLP, each after a norm and beside a residual path; the adapter is parallel to the MLP."""

    def __init__(self, dim: int, heads: int, window: int, grid: int, adapters: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlacedAttention(dim, heads, window, grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, 4 * dim, F.gelu)
        self.Adapter = Adapter(dim) if adapters else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)"""
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        changed = x + self.mlp(normed)
        return changed if self.Adapter is None else changed + self.Adapter(normed)


class PlacedAttention(nn.Module):
    """Attention whose scores also depend on how far apart two tokens are, in rows and in columns.

    Within windows of `window` x `window` tokens, or over the whole grid where `window` is 0. The grid is padded at the
    bottom and right to whole windows, and padded tokens take part unmasked. They are zero behind the norm, so that
    what `qkv` makes of them is its bias: `qkv` and `proj` run on real tokens only.
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
        """(B, H, W, C), normed -> (B, H, W, C)"""
        window = (self.side, self.side)
        qkv = cut_windows(self.qkv(x), window, self.qkv.bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (windows, tokens, 3, N, D) -> 3 times (windows, N, tokens, D)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias_of(q))
        out = out.transpose(1, 2).flatten(2)  # (windows, N, tokens, D) -> (windows, tokens, C)
        return self.proj(join_windows(out, window, tuple(x.shape[:3])))

    def bias_of(self, q: Tensor) -> Tensor:
        """What a query's distance to each key adds to its score; the queries come as they are, not scaled.

        (windows, N, K * K, D) -> (windows, N, K * K, K * K)
        """
        q = q.unflatten(2, (self.side, self.side))
        places = torch.arange(self.side, device=q.device)
        distance = places[:, None] - places + self.side - 1  # of the query's row h to the key's row k
        rows = torch.einsum("bnhwd,hkd->bnhwk", q, self.rel_pos_h[distance])
        columns = torch.einsum("bnhwd,wkd->bnhwk", q, self.rel_pos_w[distance])
        return (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)


class Adapter(nn.Module):
    """SAM-Med2D's adapter: a gate per channel, then convolutions at half the grid (arXiv 2308.16184).

    It ends in a norm, so that a new one is neither an identity nor zero.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)  # as released, unlike the block's norms
        self.channel = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False), nn.ReLU(), nn.Linear(dim // 4, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        for layer in (self.channel[0], self.channel[2], self.spatial[0], self.spatial[2]):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C), H and W even -> (B, H, W, C)"""
        gated = (x * self.channel(x.mean((1, 2)))[:, None, None]).permute(0, 3, 1, 2)
        seen = self.by_products(gated) if few_on_cpu(x) else self.spatial(gated)
        return self.norm(x + seen.permute(0, 2, 3, 1))  # the input as it was before the gate

    def by_products(self, x: Tensor) -> Tensor:
        """`spatial` as two products with the weights as they lie in memory; (B, C, H, W) -> (B, C, H, W)"""
        down, _, up, _ = self.spatial
        patches = F.unfold(x, down.kernel_size, padding=down.padding, stride=down.stride).mT.flatten(0, 1)
        small = F.relu(patches @ down.weight.flatten(1).T)  # (B * H/2 * W/2, C)
        patches = (small @ up.weight.flatten(1)).unflatten(0, (len(x), -1)).mT
        return F.relu(F.fold(patches, x.shape[2:], up.kernel_size, padding=up.padding, stride=up.stride))


def few_on_cpu(x: Tensor) -> bool:
    """Whether convolutions of (B, H, W, C) would spend their time on bringing weights into another layout."""
    return x.device.type == "cpu" and x.shape[:3].numel() <= 1024 and not torch.compiler.is_compiling()


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(x)))


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of each pixel of (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
