"""SAM2-UNet: its attention, its side outputs, and the sides of its input."""

import pytest
import torch
import torch.nn.functional as F

import sam2unet
from sam2unet.layers.hiera import WindowAttention, check_sides
from sam2unet.models.sam2unet import SAM2UNet


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


def test_up4_has_weights_but_no_part_in_the_result():
    torch.manual_seed(0)
    model = sam2unet.create_model("sam2unet", encoder="tiny").eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model(image)[0]
        for parameter in model.up4.parameters():
            parameter.fill_(torch.nan)
        assert torch.equal(model(image)[0], before)


@pytest.mark.parametrize(
    "height, width, advice",
    [
        (100, 100, "100x100 pixels .* multiples of 32; instead of 100, give 96 or 128$"),
        (64, 90, "64x90 pixels .* instead of 90, give 64 or 96$"),
        (20, 353, "instead of 20, give 32; instead of 353, give 352 or 384$"),
    ],
)
def test_sides_that_do_not_fit_are_named_with_those_that_do(height, width, advice):
    with torch.device("meta"):
        models = (
            sam2unet.create_model("sam2unet", encoder="tiny"),
            sam2unet.create_model("sam2unext", encoder="tiny", dino="small"),
        )
    for model in models:
        with pytest.raises(sam2unet.UserError, match=advice):
            model(torch.zeros(1, 3, height, width, device="meta"))
    for side in (32, 349, 352):  # the patch embedding rounds up to multiples of 4, as the released model does
        check_sides(torch.zeros(1, 3, side, side, device="meta"))


def test_models_are_listed_and_unknown_ones_named():
    assert sam2unet.list_models() == ["sam2unet", "sam2unext", "sam_med2d"]
    with torch.device("meta"):
        assert isinstance(sam2unet.create_model("sam2unet"), SAM2UNet)
    with pytest.raises(sam2unet.UserError, match="no model named sam3unet; there are sam2unet, sam2unext"):
        sam2unet.create_model("sam3unet")
    with pytest.raises(sam2unet.UserError, match="no encoder named huge"):
        sam2unet.create_model("sam2unet", encoder="huge")
