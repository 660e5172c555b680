"""Attention within windows of a token grid, as in Hiera, the image encoder of SAM 2.

Letters: B batch, H W token grid, C channels, N heads, D head width. Tokens are channels-last, (B, H, W, C).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXTRA_WIDTH = 8  # fast kernels need head widths that are multiples of 8


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens. If `window` is 0, over the whole grid.

    SAM 2 pads the grid with zero tokens at the bottom and right until it holds whole windows. Padded tokens are not
    masked. The key of each padded token is the bias of `qkv`, and so is its value. `attend_by_shape` computes one zero
    token instead of all m padded tokens of a window, because m exp(q k) = exp(q k + log m). It computes no queries of
    padded tokens. Its result equals that of `attend_at_once` up to rounding.

    SAM 2 pools queries after it cuts the windows. Here queries are pooled before. The order makes no difference,
    because the sides of windows and grids are even.

    Attributes:
        pads: always pad the grid. This is slower and gives the same bits as SAM 2.
    """

    def __init__(self, dim_in: int, dim_out: int, heads: int, window: int, pools: bool):
        super().__init__()
        self.heads = heads
        self.window = window
        self.pools = pools
        self.pads = False
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens after the norm (B, H, W, dim_in) -> (B, H, W, dim_out), or (B, H/2, W/2, dim_out) with `pools`."""
        attend = self.attend_at_once if self.pads or not self.can_save_work(*x.shape[1:3]) else self.attend_by_shape
        return self.proj(attend(x))

    def can_save_work(self, height: int, width: int) -> bool:
        """Returns whether `attend_by_shape` is faster for this grid.

        Its copies take the time of about 64 products of a query and a key, for each token. Blocks that pool have a
        quarter of the queries, so nothing is gained there.
        """
        if self.pools or not self.window:
            return False
        whole = -(-height // self.window) * -(-width // self.window) * self.window**4
        rows, columns = (side // self.window * self.window**2 + (side % self.window) ** 2 for side in (height, width))
        return whole - rows * columns >= 64 * height * width

    def attend_at_once(self, x: Tensor) -> Tensor:
        """Attends in all windows in one call. Pads the grid if necessary. Shapes are those of `forward`.

        `qkv` runs on real tokens only. Its bias is put in afterwards.
        """
        qkv = self.qkv(x)
        dim = qkv.shape[-1] // 3
        queries, keys_values = qkv.split([dim, 2 * dim], dim=-1)  # its backward pass is one concatenation
        if self.pools:
            queries = max_pool(queries)
        batch, height, width, _ = queries.shape

        key_window = (self.window, self.window) if self.window else (x.shape[1], x.shape[2])
        query_window = (key_window[0] // 2, key_window[1] // 2) if self.pools else key_window
        q = cut_windows(queries, query_window, queries.new_zeros(dim))  # `join_windows` drops the padded ones
        k, v = cut_windows(keys_values, key_window, self.qkv.bias[dim:]).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(self.split_heads(q), self.split_heads(k), self.split_heads(v))
        out = out.transpose(1, 2).flatten(2)  # (B * windows, N, tokens, D) -> (B * windows, tokens, C)
        return join_windows(out, query_window, (batch, height, width)).contiguous()

    def split_heads(self, x: Tensor) -> Tensor:
        """(B * windows, tokens, C) -> (B * windows, N, tokens, D)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend_by_shape(self, x: Tensor) -> Tensor:
        """Attends in one call for each shape of a window, without padding. Shapes are those of `forward`.

        A grid has at most four regions: the whole windows, and the smaller windows at the right, at the bottom and in
        the corner. `qkv` runs once, on the tokens of all regions.
        """
        bands = split_grid(x, self.window)
        regions = [region for band in bands for region in band]
        tokens = [self.take_tokens(region) for region in regions]
        qkv = self.qkv(torch.cat(tokens, dim=1)).split([part.shape[1] for part in tokens], dim=1)
        maps = iter([self.attend_in_region(*parts) for parts in zip(qkv, regions, strict=True)])
        return torch.cat([torch.cat([next(maps) for _ in band], dim=2) for band in bands], dim=1)

    def fit_window(self, region: Tensor) -> tuple[int, int, int]:
        """Returns the rows and columns of a window in a region (B, h, w, C), and the number of its padded tokens."""
        rows, columns = (min(self.window, side) for side in region.shape[1:3])
        return rows, columns, self.window**2 - rows * columns

    def take_tokens(self, region: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, tokens, C), window by window. A zero token at the end of a window stands for padding."""
        rows, columns, padded = self.fit_window(region)
        tokens = cut_windows(region, (rows, columns))
        if padded:
            tokens = F.pad(tokens, (0, 0, 0, 1))
        # `len(region)` would fix the number of images in an exported graph
        return tokens.reshape(region.shape[0], -1, tokens.shape[-1])

    def attend_in_region(self, qkv: Tensor, region: Tensor) -> Tensor:
        """Attends in the windows of a region (B, h, w, dim_in) -> (B, h, w, dim_out), before `proj`.

        Args:
            qkv: (B, tokens, 3 dim_out), for the tokens from `take_tokens`.
        """
        rows, columns, padded = self.fit_window(region)
        tokens = rows * columns
        qkv = qkv.reshape(-1, tokens + (padded > 0), 3, self.heads, qkv.shape[-1] // 3 // self.heads)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # 3 times (B * windows, N, tokens, D)
        width = q.shape[-1]
        if padded:
            q, k, v = add_coordinates(q[:, :, :tokens], k, v, padded)
        out = F.scaled_dot_product_attention(q, k, v, scale=width**-0.5)[..., :width]
        out = out.transpose(1, 2).flatten(2)  # (B * windows, N, tokens, D) -> (B * windows, tokens, C)
        batch, height, width, _ = region.shape
        return join_windows(out, (rows, columns), (batch, height, width))


def attend_in_padded_windows(
    qkv: Tensor, padding: Tensor, window: tuple[int, int], attend: Callable[[Tensor, int, int], Tensor]
) -> Tensor:
    """Attends within windows whose padded tokens count, for models in which attention depends on the positions.

    The grid is padded at the bottom and right until it holds whole windows. Keys and values of a padded token equal the
    bias of the linear layer, so this layer runs on real tokens only. Padded queries are not computed. Padded keys
    differ in their positions, so one key cannot replace them, unlike in `WindowAttention`.

    Args:
        qkv: (B, H, W, 3 C), queries, keys and values of the real tokens.
        padding: (3 C,), those of a padded token.
        window: rows and columns of a window, in tokens.
        attend: takes padded windows (B * windows, K, 3 C) and the numbers of rows and columns with real tokens. Returns
            (B * windows, rows * columns, C), the output for these tokens.

    Returns:
        (B, H, W, C)
    """
    rows, columns = (list_spans(side, length) for side, length in zip(qkv.shape[1:3], window, strict=True))
    row_counts, column_counts = ([count for _, count in spans] for spans in (rows, columns))
    windows = cut_windows(qkv, window, padding).unflatten(0, (-1, sum(row_counts), sum(column_counts)))
    bands = []
    for (height, down), band in zip(rows, windows.split(row_counts, dim=1), strict=True):
        parts = []
        for (width, right), part in zip(columns, band.split(column_counts, dim=2), strict=True):
            out = attend(part.flatten(0, 2), height, width)
            parts.append(join_windows(out, (height, width), (qkv.shape[0], down * height, right * width)))
        bands.append(torch.cat(parts, dim=2))
    return torch.cat(bands, dim=1)


def use_padded_windows_(model: nn.Module) -> nn.Module:
    """Makes Hiera pad its windows, which gives the same bits as SAM 2 and is slower. Returns `model`."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.pads = True
    return model


def add_coordinates(q: Tensor, k: Tensor, v: Tensor, padded: int) -> tuple[Tensor, Tensor, Tensor]:
    """Adds coordinates to the heads that multiply the weight of the last key by `padded`.

    (B * windows, N, tokens, D) -> (B * windows, N, tokens, D + 8), for queries, keys and values.

    The new coordinates are 1 in queries and 0 in keys. In the last key they have the sum log(padded) sqrt(D), so that
    the logit of this key grows by log(padded). The sum has a whole part and a fraction, because one coordinate would
    lose digits in half precision. A mask could add log(padded) too. It takes the same time on a CPU, but the flash
    kernel of CUDA accepts no mask.
    """
    bias = math.log(padded) * k.shape[-1] ** 0.5
    parts = [k.new_full((1, 1), part) for part in (round(bias), bias - round(bias))]
    extra = F.pad(torch.cat(parts, dim=1), (0, EXTRA_WIDTH - 2, k.shape[2] - 1, 0))  # zeros above the last row
    k = torch.cat([k, extra.expand(k.shape[0], k.shape[1], -1, -1)], dim=-1)
    return F.pad(q, (0, EXTRA_WIDTH), value=1.0), k, F.pad(v, (0, EXTRA_WIDTH))


def max_pool(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, H/2, W/2, C), sides rounded down"""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def list_spans(side: int, window: int) -> list[tuple[int, int]]:
    """Returns the lengths of windows along a side without padding, each with the number of such windows."""
    return [(length, count) for length, count in ((window, side // window), (side % window, 1)) if length * count]


def split_grid(x: Tensor, window: int) -> list[tuple[Tensor, ...]]:
    """Splits tokens (B, H, W, C) into regions, row by row. All windows of a region have the same shape.

    The first region of a row has whole windows, and the second one the columns that are left. The same holds for rows.
    """
    rows, columns = ([length * count for length, count in list_spans(side, window)] for side in x.shape[1:3])
    return [band.split(columns, dim=2) for band in x.split(rows, dim=1)]


def cut_windows(x: Tensor, window: tuple[int, int], padding: Tensor | None = None) -> Tensor:
    """(B, H, W, C) -> (B * windows, tokens per window, C).

    Args:
        window: rows and columns of a window, in tokens.
        padding: (C,), the value of the tokens that fill up the last windows at the bottom and right. A grid that holds
            whole windows needs none.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window[0]), -(-width // window[1])
    if (rows * window[0], columns * window[1]) != (height, width):
        assert padding is not None
        padded = padding.to(x.dtype).expand(batch, rows * window[0], columns * window[1], channels).clone()
        padded[:, :height, :width] = x
        x = padded
    x = x.reshape(batch, rows, window[0], columns, window[1], channels)
    return x.transpose(2, 3).reshape(-1, window[0] * window[1], channels)


def join_windows(x: Tensor, window: tuple[int, int], grid: tuple[int, int, int]) -> Tensor:
    """The inverse of `cut_windows`: (B * windows, tokens per window, C) -> (B, H, W, C). Drops padded tokens.

    Args:
        window: rows and columns of a window, in tokens.
        grid: (B, H, W).
    """
    batch, height, width = grid
    rows, columns = -(-height // window[0]), -(-width // window[1])
    x = x.reshape(batch, rows, columns, window[0], window[1], -1).transpose(2, 3)
    return x.reshape(batch, rows * window[0], columns * window[1], -1)[:, :height, :width]
