"""Attention within windows: it equals its formula, and attention without padding equals attention with padding."""

import copy
import io
import math

import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from sam2unet.export.graph import write_graph
from sam2unet.layers.hiera import SIZES, Hiera
from sam2unet.layers.windows import WindowAttention, add_coordinates, use_padded_windows_

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}
WINDOWS = sorted({side for size in SIZES.values() for side in size["windows"]})


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


@pytest.fixture
def always(monkeypatch):
    """Padding is left out for every grid, also where that is slower."""
    monkeypatch.setattr(WindowAttention, "can_save_work", lambda self, *sides: self.window and not self.pools)


def attention_pair(window, dtype=torch.float32):
    """The same weights without and with padding."""
    attention = WindowAttention(12, 16, heads=2, window=window, pools=False).to(dtype)
    return attention, use_padded_windows_(copy.deepcopy(attention))


def run_both_ways(module, x):
    """The outputs, then the gradients of the input and of the parameters."""
    x = x.clone().requires_grad_()
    outputs = module(x)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(out.square().mean() for out in outputs).backward()
    return *outputs, x.grad, *(parameter.grad for parameter in module.parameters())


def check_agreement(modules, x, tolerance):
    for ours, padded in zip(*(run_both_ways(module, x) for module in modules), strict=True):
        torch.testing.assert_close(ours, padded, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("window", WINDOWS)
def test_one_key_equals_all_padded_keys(window, dtype, always):
    modules = attention_pair(window, dtype)
    # four shapes of windows; one shape, smaller than a window; only an edge at the right; no padding
    for height, width in ((window + 3, 2 * window + 1), (3, 2), (window, window + 1), (window, 2 * window)):
        check_agreement(modules, torch.randn(2, height, width, 12, dtype=dtype), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", SIZES)
def test_trunks_without_padding_equal_trunks_with_padding(size, dtype, always):
    shape = SIZES[size]
    shape = shape | dict(dim=8 * shape["heads"], depths=(1, 1, 3, 2), global_blocks=(4,))
    trunk = Hiera(**shape).to(dtype)
    modules = trunk, use_padded_windows_(copy.deepcopy(trunk))
    check_agreement(modules, torch.randn(1, 3, 288, 352, dtype=dtype), TOLERANCES[dtype])


def test_padding_is_left_out_only_where_that_saves_time():
    def shapes(window, pools=False):
        attention = WindowAttention(6, 6, heads=2, window=window, pools=pools)
        return [side for side in range(2, 34) if attention.can_save_work(side, side)]

    assert 22 in shapes(16) and 22 in shapes(14) and 11 in shapes(8)  # sides of the grid at 352
    assert not {16, 31, 32} & set(shapes(16)) and not {14, 26, 28} & set(shapes(14)) and not {8, 15} & set(shapes(8))
    assert shapes(0) == shapes(4) == shapes(16, pools=True) == []


def test_padded_windows_keep_their_bits():
    attention, padded = attention_pair(14)
    x = torch.randn(2, 22, 22, 12)
    assert torch.equal(padded(x), attention.proj(attention.attend_at_once(x)))
    assert not torch.equal(padded(x), attention(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_new_coordinates_add_the_logarithm_of_the_number_of_padded_tokens(dtype):
    for padded in range(1, 256):
        q, k, _ = (t.double() for t in add_coordinates(*torch.zeros(3, 1, 1, 3, 72, dtype=dtype), padded))
        logits = torch.einsum("bnqd,bnkd->bnqk", q, k) / 72**0.5
        assert (logits[..., :2] == 0).all()
        assert logits[..., 2].sub(math.log(padded)).abs().max() < 2e-4


def test_compiled_code_gives_the_same_values_and_gradients():
    attention, _ = attention_pair(16)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 22, 18, 12)
    check_agreement((compiled, copy.deepcopy(attention)), x, 1e-6)


def test_half_precision_is_as_close_as_with_padding():
    modules = attention_pair(16)
    x = torch.randn(2, 22, 22, 12) * 3
    with torch.no_grad():
        wanted = modules[0](x)
        with torch.autocast("cpu", torch.bfloat16):
            ours, padded = ((module(x) - wanted).abs().mean() for module in modules)
    assert ours < 1.1 * padded


def test_checkpointing_gives_the_same_gradients():
    shape = dict(dim=8, heads=1, depths=(1, 1, 2, 1), global_blocks=(), grid=7, windows=(8, 4, 14, 7))
    trunk = Hiera(**shape)
    again = copy.deepcopy(trunk)
    again.checkpointing = True
    check_agreement((trunk, again), torch.randn(1, 3, 96, 160), 0)


@pytest.mark.slow  # the contract test exports a whole model with windows
def test_onnx_takes_any_number_of_images():
    attention = attention_pair(16)[0].eval()
    x, file = torch.randn(3, 6, 18, 12), io.BytesIO()
    with torch.no_grad():
        wanted = attention(x)
        write_graph(attention, (x[:2],), ["x"], ["y"], ({0: torch.export.Dim("batch")},), {}, file)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (found,) = session.run(None, {"x": x[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted[:count], rtol=0, atol=1e-5)
