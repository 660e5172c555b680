"""SAM-Med2D: names, numbers of every part, losses, scores."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from sam2unet.errors import UserError
from sam2unet.families.build import build_sam_med2d
from sam2unet.families.shape import NetworkShape
from sam2unet.layers.sam_prompt import PromptEncoder
from sam2unet.layers.sam_vit import SIZES, LayerNorm2d, RelativePositionAttention, SamViT
from sam2unet.layers.windows import cut_windows
from sam2unet.losses import dice_loss, focal_loss, prompt_losses, quality_loss
from sam2unet.models.sam_med2d import resize_logits, select_best
from sam2unet.prompts.framing import Frame
from sam2unet.prompts.scores import iou_and_dice
from tests.conftest import tiny_sam_med2d

CASES = ["point1", "point3", "box", "box_point", "mask_point", "mask_only", "point_ignored", "batch2_points"]


def meta_model(encoder="vit_b", **options):
    with torch.device("meta"):
        return build_sam_med2d(NetworkShape(encoder, **options), {})[0]


def close(ours, expected, atol):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "sammed2d_forward.npz")


@pytest.fixture(scope="module")
def model(sam_med2d_b):
    return sam_med2d_b


@pytest.fixture(scope="module")
def seen(model, fill):
    """What the encoder makes of the generated image, and on the way there, by name."""
    kept = {}
    blocks = model.image_encoder.blocks
    parts = {"patch_embed": model.image_encoder.patch_embed, "block00_attn": blocks[0].attn}
    parts |= {"block00_adapter": blocks[0].Adapter, "block00": blocks[0], "block02": blocks[2], "block11": blocks[11]}
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, part in parts.items():
            hook = part.register_forward_hook(lambda part, given, made, name=name: kept.update({name: made}))
            hooks.callback(hook.remove)
        kept["embedding"] = model.image_encoder(fill.fill_input((1, 3, 256, 256), 0))
    return kept


def prompts(golden, case):
    """Of a stored case, as `decode` takes them."""
    coords, labels, boxes, masks = (
        torch.from_numpy(golden[f"{case}.{name}"]) if f"{case}.{name}" in golden else None
        for name in ("coords", "labels", "boxes", "mask_input")
    )
    return {"points": None if coords is None else (coords, labels), "boxes": boxes, "masks": masks}


def test_its_parts_have_the_released_numbers_of_parameters():
    model = meta_model()
    plain = meta_model(encoder_adapter=False)
    assert list(plain.state_dict()) == [name for name in model.state_dict() if ".Adapter." not in name]
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count == {"image_encoder": 267_177_216, "prompt_encoder": 6_220, "mask_decoder": 4_058_340}
    assert sum(".Adapter." in name for name, _ in model.named_parameters()) == 72
    assert sum(p.numel() for name, p in model.named_parameters() if ".Adapter." in name) == 180_504_576


@pytest.mark.parametrize("size, millions", [("vit_b", 94), ("vit_l", 312), ("vit_h", 641)])
def test_every_size_is_that_of_sam(size, millions):
    model = meta_model(size, size=1024, encoder_adapter=False)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    encoder = model.image_encoder
    assert len(encoder.blocks) == SIZES[size]["depth"] and encoder.pos_embed.shape == (1, 64, 64, SIZES[size]["dim"])
    rows = [len(block.attn.rel_pos_h) for block in encoder.blocks]
    assert {i for i, count in enumerate(rows) if count == 127} == set(SIZES[size]["global_blocks"])


def test_the_norms_have_the_released_constants():
    """Most of them move outputs by less than rounding does."""
    norms = {n: m for n, m in meta_model().named_modules() if isinstance(m, nn.LayerNorm)}
    assert len(norms) == 12 * 3 + 2 + 2 + 2 * 4 + 1 + 1
    for name, norm in norms.items():
        fine = isinstance(norm, LayerNorm2d) or (name.startswith("image_encoder.") and ".Adapter." not in name)
        assert norm.eps == (1e-6 if fine else 1e-5), name


def test_the_parts_of_the_encoder_agree_with_the_released_ones(seen, golden):
    for name in ("patch_embed", "block00_adapter", "block00", "block02", "block11"):
        close(seen[name][:, ::4, ::4, ::32], golden[f"encoder.{name}"], 2e-5)


def test_windows_agree_with_the_released_ones(seen, golden):
    """The stored windows are padded; what they hold for padding is never used and not computed here."""
    ours = seen["block00_attn"]
    windows, real = (cut_windows(x, (14, 14), x.new_zeros(768)) for x in (ours, torch.ones_like(ours)))
    windows, real = (x.unflatten(1, (14, 14))[:, ::4, ::4, ::32].numpy() for x in (windows, real))
    assert real.sum() == 24 * (16 + 4 + 4 + 1)
    close(windows, golden["encoder.block00_attn_windows"] * real, 2e-5)


def test_without_adapters_it_is_sam(model, fill, golden):
    plain = meta_model(encoder_adapter=False)
    weights = {name: t for name, t in model.state_dict().items() if ".Adapter." not in name}
    plain.load_state_dict(weights, assign=True)
    with torch.no_grad():
        embedding = plain.image_encoder(fill.fill_input((1, 3, 256, 256), 0))
    close(embedding[:, ::8], golden["noadapter.embedding_c8"], 2e-5)


@pytest.mark.parametrize("case", CASES)
def test_prompts_give_the_released_answers(case, model, seen, golden):
    given = prompts(golden, case)
    with torch.no_grad():
        sparse, dense = model.prompt_encoder(**given)
        masks, quality = model.decode(seen["embedding"], **given)
        single, single_quality = model.decode(seen["embedding"], **given, multimask=False)
        selected, selected_quality = select_best(masks, quality)
    assert sparse.shape == golden[f"{case}.sparse"].shape
    close(sparse, golden[f"{case}.sparse"], 1e-5)
    close(dense.detach()[:, ::8, ::2, ::2], golden[f"{case}.dense_c8"], 1e-5)
    assert masks.shape[1:] == (3, 64, 64) and single.shape[1:] == (1, 64, 64)
    close(masks[..., ::4, ::4], golden[f"{case}.lowres_multi_s4"], 1e-5)
    close(quality, golden[f"{case}.iou_multi"], 1e-5)
    close(single[..., ::4, ::4], golden[f"{case}.lowres_single_s4"], 1e-5)
    close(single_quality, golden[f"{case}.iou_single"], 1e-5)
    assert quality.argmax(1).tolist() == golden[f"{case}.best_index"].tolist()
    close(resize_logits(selected, 256)[..., ::8, ::8], golden[f"{case}.selected_256_s8"], 1e-5)
    close(selected_quality, golden[f"{case}.selected_iou"], 1e-5)


def test_the_parts_are_called_as_in_segment_anything(model, seen, golden):
    close(model.prompt_encoder.get_dense_pe()[:, ::8], golden["dense_pe_c8"], 1e-5)
    with torch.no_grad():
        sparse, dense = model.prompt_encoder(points=None, boxes=torch.tensor([[40, 52, 180, 201]]), masks=None)
        masks, quality = model.mask_decoder(
            image_embeddings=seen["embedding"],
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    close(masks[..., ::4, ::4], golden["box.lowres_multi_s4"], 1e-5)
    close(quality, golden["box.iou_multi"], 1e-5)


def test_its_own_forward_gives_masks_at_the_original_size(model, fill, golden):
    batch = {
        "image": fill.fill_input((1, 3, 256, 256), 0),
        "point_coords": torch.tensor([[[120, 97]]]),  # whole numbers are as good
        "point_labels": torch.tensor([[1]]),
        "original_size": (300, 200),
    }
    with torch.no_grad():
        out = model(batch)
    assert list(out["masks"].shape) == golden["sam_forward.masks_shape"].tolist()
    close(out["masks"][..., ::16, ::16], golden["sam_forward.masks_s16"], 1e-5)
    close(out["low_res_logits"][..., ::4, ::4], golden["point1.lowres_multi_s4"], 1e-5)
    close(out["iou_predictions"], golden["point1.iou_multi"], 1e-5)


@pytest.mark.parametrize("case", ["pad", "pad_odd", "resize_one_small", "equal", "large"])
def test_masks_go_back_to_the_original_size(case, model, seen, golden):
    with torch.no_grad():
        low, _ = model.decode(seen["embedding"], **prompts(golden, "box"))
    height, width = golden[f"postprocess.{case}.size"].tolist()
    ours = Frame(height, width, 256).restore(low[:, :1])
    assert ours.shape == (1, 1, height, width)
    close(ours[..., ::8, ::8], golden[f"postprocess.{case}.masks_s8"], 1e-5)


def test_the_first_of_equals_is_selected():
    masks = torch.arange(6.0).reshape(2, 3, 1, 1)
    chosen, quality = select_best(masks, torch.tensor([[1.0, 7.0, 7.0], [2.0, 1.0, 0.0]]))
    assert chosen.flatten().tolist() == [1, 3] and quality.tolist() == [[7], [2]]


@pytest.fixture(scope="module")
def small():
    return tiny_sam_med2d().double()


def test_images_of_another_size_are_refused(small):
    for height, width in ((63, 64), (64, 65), (128, 128)):  # the convolution would crop 65 pixels to 64
        with pytest.raises(UserError, match=f"an image of {height}x{width} pixels .* takes 64x64 only"):
            small.image_encoder(torch.zeros(1, 3, height, width, dtype=torch.float64))
        with pytest.raises(UserError, match="takes 64x64 only"):
            small({"image": torch.zeros(1, 3, height, width, dtype=torch.float64)})


def test_prompts_of_a_batch_do_not_meet(small):
    """On one image, and on images repeated for them."""
    embedding = small.image_encoder(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    points = torch.tensor([[[3, 4], [50, 9]], [[60, 2], [7, 7]]])
    labels = torch.tensor([[1, 0], [-1, 1]])
    masks = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    one = small.decode(embedding[:1], (points, labels), masks=masks)
    each = small.decode(embedding, (points, labels), masks=masks)
    for i in range(2):
        alone = points[i : i + 1], labels[i : i + 1]
        for together, image in ((one, embedding[:1]), (each, embedding[i : i + 1])):
            expected = small.decode(image, alone, masks=masks[i : i + 1])
            for ours, theirs in zip(together, expected, strict=True):
                torch.testing.assert_close(ours[i : i + 1], theirs, rtol=0, atol=1e-12)
    assert (one[0][1] - each[0][1]).abs().max() > 1e-3


def test_half_precision_leaves_places_alone():
    encoder = PromptEncoder(side=64, grid=4)
    points = torch.tensor([[[3, 4], [50, 9]]]), torch.tensor([[1, 0]])
    expected = encoder(points)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(points)[0], expected)


def test_no_prompt_and_boxes_of_any_shape(small):
    encoder = small.prompt_encoder
    sparse, dense = encoder()
    assert sparse.shape == (1, 0, 256) and dense.shape == (1, 256, 4, 4)
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0], [5.0, 6.0, 7.0, 8.0]])
    assert torch.equal(encoder(boxes=boxes)[0], encoder(boxes=boxes[:, None])[0])
    points = torch.zeros(2, 1, 2), torch.tensor([[0], [-1]])
    alone, beside = encoder(points)[0], encoder(points, boxes)[0]
    nothing = encoder.not_a_point_embed.weight[0]
    assert alone.shape == (2, 2, 256) and beside.shape == (2, 3, 256)
    assert torch.equal(alone[0, 1], nothing) and torch.equal(alone[1], nothing.expand(2, -1))
    assert torch.equal(beside[:, 1:], encoder(boxes=boxes)[0])


@pytest.mark.parametrize("window, side", [(0, 6), (4, 6), (14, 4)])
def test_attention_equals_its_formula(window, side):
    """Token by token, on a grid that is padded first."""
    torch.manual_seed(0)
    attention = RelativePositionAttention(6, heads=2, window=window, grid=side).double()
    nn.init.normal_(attention.rel_pos_h)
    nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(2, side, side, 6, dtype=torch.float64)
    area = window or side
    padded = nn.functional.pad(x, (0, 0, 0, -side % area, 0, -side % area))
    expected = torch.zeros_like(padded)
    with torch.no_grad():
        for i in range(0, padded.shape[1], area):
            for j in range(0, padded.shape[2], area):
                window_of = padded[:, i : i + area, j : j + area]
                expected[:, i : i + area, j : j + area] = direct_attention(attention, window_of)
        torch.testing.assert_close(attention(x), expected[:, :side, :side], rtol=0, atol=1e-12)


def direct_attention(attention, window):
    batch, side, _, dim = window.shape
    qkv = attention.qkv(window).reshape(batch, side, side, 3, attention.heads, -1)
    out = torch.zeros_like(qkv[:, :, :, 0])
    offset = side - 1
    for h in range(side):
        for w in range(side):
            q = qkv[:, h, w, 0]
            scores = torch.zeros(batch, attention.heads, side, side, dtype=window.dtype)
            for a in range(side):
                for b in range(side):
                    place = attention.rel_pos_h[h - a + offset] + attention.rel_pos_w[w - b + offset]
                    scores[:, :, a, b] = (q * qkv[:, a, b, 1]).sum(-1) / q.shape[-1] ** 0.5 + (q * place).sum(-1)
            weights = scores.flatten(2).softmax(-1).unflatten(2, (side, side))
            out[:, h, w] = torch.einsum("bnhw,bhwnd->bnd", weights, qkv[:, :, :, 2])
    return attention.proj(out.reshape(batch, side, side, dim))


def test_adapters_begin_as_released():
    torch.manual_seed(0)
    adapter = SamViT(dim=256, depth=1, heads=2, global_blocks=(), side=64, adapters=True).blocks[0].Adapter
    # Kaiming: the square root of 2 / fan-out, which for convolutions counts the kernel.
    for layer, fan_out in ((adapter.channel[0], 64), (adapter.channel[2], 256), (adapter.spatial[0], 9 * 256)):
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
    assert adapter.spatial[2].weight.std().item() == pytest.approx((2 / (16 * 256)) ** 0.5, rel=0.03)
    assert adapter.norm.weight.eq(1).all() and not adapter.norm.bias.any()


def test_an_adapter_of_few_tokens_computes_the_same_by_products():
    adapter = SamViT(dim=32, depth=1, heads=2, global_blocks=(), side=64, adapters=True).blocks[0].Adapter.double()
    x = torch.randn(70, 4, 4, 32, dtype=torch.float64)  # so many that it takes convolutions
    weight = torch.randn(70, 4, 4, 32, dtype=torch.float64)

    def found(parts):
        adapter.zero_grad()
        out = torch.cat([adapter(part) for part in x.split(parts)])
        (out * weight).sum().backward()
        return [out.detach(), *(p.grad.clone() for p in adapter.parameters())]

    for ours, expected in zip(found(7), found(70), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_every_trained_weight_learns_and_no_other(small):
    """With a point pass and a box pass; masks come in without gradients, so that their branch has none."""
    small.zero_grad()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    mask = (torch.rand(1, 1, 64, 64) > 0.5).double()
    points = torch.tensor([[[3, 4], [50, 9], [0, 0]]]), torch.tensor([[1, 0, -1]])
    for given in ({"points": points}, {"boxes": torch.tensor([[4, 4, 20, 30]])}):
        low, quality = select_best(*small.decode(small.image_encoder(image), **given))
        sum(prompt_losses(resize_logits(low, 64), mask, quality).values()).backward()
    learns = {name for name, p in small.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {name for name, p in small.named_parameters() if p.requires_grad}
    idle = {name for name in trained - learns if "mask_downscaling" not in name}
    # The first mask is never chosen among three, nor are those that are expected to be worse.
    assert learns < trained and all("output_hypernetworks_mlps" in name for name in idle)
    assert any("Adapter" in name for name in learns)


@pytest.mark.parametrize("case", ["smooth", "saturated", "empty_mask"])
def test_losses_and_their_gradients_are_the_released_ones(case, golden):
    logits, mask, quality = (torch.from_numpy(golden[f"loss.{case}.{name}"]) for name in ("pred", "mask", "pred_iou"))
    logits.requires_grad_()
    quality.requires_grad_()
    mask = mask.float()
    losses = prompt_losses(logits, mask, quality)
    total = sum(losses.values())
    total.backward()
    ours = [focal_loss(logits, mask), dice_loss(logits, mask), quality_loss(logits, mask, quality), total]
    np.testing.assert_allclose([t.item() for t in ours], golden[f"loss.{case}.focal_dice_iou_total"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, golden[f"loss.{case}.grad_pred"], rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(quality.grad, golden[f"loss.{case}.grad_pred_iou"], rtol=1e-5, atol=1e-9)
    assert list(losses) == ["focal", "dice", "iou"]


@pytest.mark.parametrize("case", ["logits", "all_positive_logits", "empty_both", "empty_target"])
def test_scores_are_the_released_ones(case, golden):
    logits, mask = (torch.from_numpy(golden[f"metric.{case}.{name}"]) for name in ("pred", "target"))
    if case == "all_positive_logits":  # the released code takes these for probabilities
        logits = logits - 0.5
    iou, dice = iou_and_dice(logits, mask)
    np.testing.assert_allclose(iou, golden[f"metric.{case}.iou"], rtol=1e-6)
    np.testing.assert_allclose(dice, golden[f"metric.{case}.dice"], rtol=1e-6)
