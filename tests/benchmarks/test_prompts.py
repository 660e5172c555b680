"""The benchmark of prompts: the released way does the same work as ours. No time is asserted."""

import numpy as np
import pytest
import torch

from benchmarks import released
from benchmarks.__main__ import parser, run
from sam2unet.data.batches import Draw
from sam2unet.errors import UserError
from sam2unet.prompts.framing import Framing, normalise_square
from sam2unet.prompts.lists import ImageMasks, write_train_list
from sam2unet.recipe import Recipe
from tests.benchmarks.here import run_here
from tests.conftest import save, tiny_sam_med2d


@pytest.fixture
def small():
    model = tiny_sam_med2d()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model.double()


def test_the_released_order_computes_the_same(small):
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
    released.use_released_order_(small)
    theirs = [t.detach().clone() for t in found()]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(50, 40), (50, 90), (128, 100)])
def test_the_released_reading_frames_as_ours(size, tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / "a.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    mask = np.zeros(size, np.uint8)
    mask[10:30, 5:35] = 255
    save(tmp_path / "m.png", mask)
    items = [ImageMasks(tmp_path / "a.png", (tmp_path / "m.png",))]
    folder = released.ReleasedPromptFolder(items, Recipe.read(model="sam_med2d", size=64, mask_num=3))
    image, labels, boxes, points, point_labels = folder[Draw(0, False, False)]
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
    recipe = Recipe.read(model="sam_med2d", size=64, mask_num=3)
    folder = released.ReleasedPromptFolder(items, recipe)
    batch = [part.double() for part in folder.collate([folder[Draw(0, False, False)]])]
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    (loss,) = released.take_updates(small, released.released_prompt_step, recipe, torch.device("cpu"), [batch])
    moved = {name.split(".")[0] for name, p in small.named_parameters() if not torch.equal(p, before[name])}
    assert loss > 0 and moved == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert torch.equal(small.image_encoder.blocks[0].mlp.lin1.weight, before["image_encoder.blocks.0.mlp.lin1.weight"])


def test_the_tables_have_speeds_as_ratios(lists, tmp_path):
    with pytest.raises(UserError, match="^no row quick; there are released, and ours"):
        run(parser().parse_args(["prompts", "--data_path", str(tmp_path), "--rows", "quick"]))
    write_train_list(tmp_path, lists)
    flags = "--encoder micro --size 64 --rounds 1 --device cpu".split()
    rows = run_here(["prompts", "--data_path", str(tmp_path), *flags, "--rows", "released", "ours"])
    assert [list(table) for table in rows.values()] == 2 * [["released", "ours"]]
    click = rows["SAM-Med2D: click, ms"]
    released_ms, ours_ms = (float(click[row]["click, ms"]) for row in ("released", "ours"))
    assert float(click["ours"]["ratio"]) == pytest.approx(released_ms / ours_ms, rel=0.02)
    assert float(rows["SAM-Med2D: encoder, ms"]["ours"]["encoder, ms"]) > 0


def test_training_on_prompts_is_measured(lists, tmp_path):
    write_train_list(tmp_path, lists)
    flags = "--model sam_med2d --encoder micro --size 64 --rounds 1 --device cpu --steps 1 --warm_up 1 --workers 0"
    rows = run_here(["train", "--data_path", str(tmp_path), *flags.split(), "--rows", "released", "ours"])
    table = rows["training of SAM-Med2D micro at 64x64, batch 2"]
    assert float(table["released"]["images/s"]) > 0 and table["ours"]["of device's peak"] == ""
    assert float(table["ours"]["loss 1"]) > 0
