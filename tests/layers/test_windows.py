"""Attention within windows equals its formula."""

import pytest
import torch
import torch.nn.functional as F

from sam2unet.layers.windows import WindowAttention


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("window", [0, 4, 14])
def test_attention_on_real_tokens_equals_attention_on_padded_windows(window, pools):
    torch.manual_seed(0)
    attention = WindowAttention(6, 8, heads=2, window=window, pools=pools).double()
    x = torch.randn(2, 10, 22, 6, dtype=torch.float64)  # 10 x 22 fills no window of 4 or 14
    torch.testing.assert_close(attention(x), direct_attention(attention, x), rtol=0, atol=1e-13)


def direct_attention(attention, x):
    """Pad the tokens, cut windows, then everything on every token of a window, and cut the padding off at last."""
    batch, height, width, _ = x.shape
    rows, columns = (attention.window,) * 2 if attention.window else (height, width)
    x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
    windows = [
        (i, j, x[:, i : i + rows, j : j + columns])
        for i in range(0, x.shape[1], rows)
        for j in range(0, x.shape[2], columns)
    ]
    step = 2 if attention.pools else 1
    out = torch.zeros(batch, x.shape[1] // step, x.shape[2] // step, attention.proj.out_features, dtype=x.dtype)
    for i, j, window in windows:
        q, k, v = attention.qkv(window).chunk(3, dim=-1)
        if attention.pools:
            q = torch.stack([q[:, a::2, b::2] for a in (0, 1) for b in (0, 1)]).amax(0)
        shape = q.shape
        q, k, v = (t.reshape(batch, -1, attention.heads, t.shape[-1] // attention.heads) for t in (q, k, v))
        weights = torch.einsum("bqnd,bknd->bnqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        seen = torch.einsum("bnqk,bknd->bqnd", weights, v).reshape(shape)
        out[:, i // step : (i + rows) // step, j // step : (j + columns) // step] = attention.proj(seen)
    return out[:, : height // step, : width // step]
