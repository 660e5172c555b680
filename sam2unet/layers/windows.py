"""Attention within windows of a token grid, as in Hiera, the image encoder of SAM 2.

Letters: B batch, H W token grid, C channels, N heads, D head width. Tokens are channels-last, (B, H, W, C).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens. If `window` is 0, over the whole grid.

    The result equals that of SAM 2, with less work:

    - SAM 2 pads the grid with zero tokens at the bottom and right until it holds whole windows. Padded tokens are not
      masked. Their keys and values equal the bias of `qkv`, so `qkv` and `proj` run on real tokens only, and the bias
      is put in afterwards.
    - SAM 2 pools queries after it cuts the windows. Here queries are pooled before. The order makes no difference,
      because the sides of windows and grids are even.
    """

    def __init__(self, dim_in: int, dim_out: int, heads: int, window: int, pools: bool):
        super().__init__()
        self.heads = heads
        self.window = window
        self.pools = pools
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens after the norm (B, H, W, dim_in) -> (B, H, W, dim_out), or (B, H/2, W/2, dim_out) with `pools`."""
        qkv = self.qkv(x)
        dim = qkv.shape[-1] // 3
        queries, keys_values = qkv.split([dim, 2 * dim], dim=-1)  # its backward pass is one concatenation
        if self.pools:
            queries = max_pool(queries)
        batch, height, width, _ = queries.shape

        key_window = (self.window, self.window) if self.window else tuple(x.shape[1:3])
        query_window = tuple(side // 2 for side in key_window) if self.pools else key_window
        q = cut_windows(queries, query_window, queries.new_zeros(dim))  # `join_windows` drops the padded ones
        k, v = cut_windows(keys_values, key_window, self.qkv.bias[dim:]).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(self.split_heads(q), self.split_heads(k), self.split_heads(v))
        out = out.transpose(1, 2).flatten(2)  # (B * windows, N, tokens, D) -> (B * windows, tokens, C)
        return self.proj(join_windows(out, query_window, (batch, height, width)).contiguous())

    def split_heads(self, x: Tensor) -> Tensor:
        """(B * windows, tokens, C) -> (B * windows, N, tokens, D)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def max_pool(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, H/2, W/2, C), sides rounded down"""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def cut_windows(x: Tensor, window: tuple[int, int], padding: Tensor) -> Tensor:
    """(B, H, W, C) -> (B * windows, tokens per window, C).

    Args:
        window: rows and columns of a window, in tokens.
        padding: (C,), the value of the tokens that fill up the last windows at the bottom and right.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // window[0]), -(-width // window[1])
    if (rows * window[0], columns * window[1]) != (height, width):
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
