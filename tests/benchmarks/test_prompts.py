"""The benchmark of prompts: the released way does the same work as ours. No time is asserted."""

import numpy as np
import pytest
import torch

from benchmarks import harness
from benchmarks.__main__ import parser, run
from benchmarks.released import prompts as released
from sam2unet.errors import UserError
from sam2unet.prompts.framing import Framing, normalise_square
from sam2unet.prompts.lists import ImageMasks, write_train_list
from tests.conftest import save, tiny_sam_med2d


@pytest.fixture
def small():
    model = tiny_sam_med2d()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.double()


def test_the_released_order_computes_the_same_and_is_undone(small):
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    points = torch.tensor([[[5.0, 9]], [[40, 41]]]).double(), torch.tensor([[1], [0]])
    masks = torch.rand(2, 1, 16, 16, dtype=torch.float64)

    def found():
        embedding = small.image_encoder(images)
        low, quality = small.decode(embedding, points, masks=masks)
        small.zero_grad()
        (low.square().mean() + quality.sum()).backward()
        return [low, quality, *(p.grad for p in small.parameters() if p.grad is not None)]

    ours = [t.detach().clone() for t in found()]
    with released.released_order(small):
        theirs = [t.detach().clone() for t in found()]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert not any("forward" in vars(module) for module in small.modules())


@pytest.mark.parametrize("size", [(50, 40), (50, 90), (128, 100)])
def test_the_released_reading_frames_as_ours(size, tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / "a.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    mask = np.zeros(size, np.uint8)
    mask[10:30, 5:35] = 255
    save(tmp_path / "m.png", mask)
    image, labels, boxes, points, point_labels = released.read_item(
        ImageMasks(tmp_path / "a.png", (tmp_path / "m.png",)), 64, 3, rng
    )
    square, frame = Framing(64).image(tmp_path / "a.png")
    assert torch.equal(image, normalise_square(square[None], [frame]))
    assert torch.equal(labels[0, 0] > 0, torch.from_numpy(Framing(64).label(tmp_path / "m.png", frame)[0]))
    x, y = points[0, 0].int().tolist()
    assert labels.shape == (3, 1, 64, 64) and boxes.shape == (3, 1, 4) and labels[0, 0, y, x] == point_labels[0, 0] == 1


def test_both_ways_train_the_same_parts(small, tmp_path):
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    mask = np.zeros((50, 40), np.uint8)
    mask[10:30, 5:35] = 255
    save(tmp_path / "m.png", mask)
    items = [ImageMasks(tmp_path / "a.png", (tmp_path / "m.png",))]
    write_train_list(tmp_path, items)
    rng = np.random.default_rng(1)
    batch = tuple(part.double() for part in released.read_item(items[0], 64, 3, rng))
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    with released.released_order(small):
        loss = released.train_on_batch(small, released.build_released_adam(small, 1e-3), batch, 8, rng)
    moved = {name.split(".")[0] for name, p in small.named_parameters() if not torch.equal(p, before[name])}
    assert loss > 0 and moved == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert torch.equal(small.image_encoder.blocks[0].mlp.lin1.weight, before["image_encoder.blocks.0.mlp.lin1.weight"])


def test_a_row_that_there_is_not_is_refused_and_ratios_are_speeds(tmp_path):
    with pytest.raises(UserError, match="^no row quick; there are released, ours"):
        run(parser().parse_args(["prompts", "--data_path", str(tmp_path), "--rows", "quick"]))
    text = harness.format_speeds("click, ms", {"released": {"rate": 50.0}, "ours": {"rate": 100.0}}, 1e3)
    assert text.splitlines()[2:] == ["| released | 20.0 | 1.00 |", "| ours | 10.0 | 2.00 |"]
    text = harness.format_speeds("images/s", {"released": {"rate": 2.0}, "ours": {"rate": 3.0}})
    assert text.splitlines()[3] == "| ours | 3.00 | 1.50 |"
