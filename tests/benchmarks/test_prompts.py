"""The benchmark of prompts: the released way does the same work as ours. No time is asserted."""

import numpy as np
import pytest
import torch

from benchmarks.__main__ import parser, run
from benchmarks.harness import prepare_process
from benchmarks.released import prompts as released
from sam2unet.errors import UserError
from sam2unet.prompts.clicks import Points
from sam2unet.prompts.dataset import PromptTensors
from sam2unet.prompts.framing import Framing, normalise_square
from sam2unet.prompts.lists import ImageMasks, write_train_list
from sam2unet.recipe import Recipe
from tests.benchmarks.here import Here
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
    image, labels, boxes, *points = released.read_item(items[0], 64, 3, np.random.default_rng(1))
    generator = torch.Generator().manual_seed(1)
    parts = image.double(), labels.double(), boxes.double(), Points(*points)
    batch, recipe = PromptTensors(*parts, generator, generator), Recipe.read(model="sam_med2d", size=64)
    before = {name: p.detach().clone() for name, p in small.named_parameters()}
    loss = released.train_on_batch(small, torch.optim.Adam(small.parameters(), lr=1e-3), batch, recipe)
    moved = {name.split(".")[0] for name, p in small.named_parameters() if not torch.equal(p, before[name])}
    assert loss > 0 and moved == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert torch.equal(small.image_encoder.blocks[0].mlp.lin1.weight, before["image_encoder.blocks.0.mlp.lin1.weight"])


def test_the_tables_have_speeds_as_ratios(lists, tmp_path, capsys):
    with pytest.raises(UserError, match="^no row quick; there are released, and ours"):
        run(parser().parse_args(["prompts", "--data_path", str(tmp_path), "--rows", "quick"]))
    write_train_list(tmp_path, lists)
    prepare_process(None)
    flags = "--encoder micro --size 64 --rounds 1 --steps 1 --device cpu --rows released ours".split()
    args = parser().parse_args(["prompts", "--data_path", str(tmp_path), *flags])
    args.alone = Here()
    run(args)
    tables = [part for part in capsys.readouterr().out.split("\n\n") if part.startswith("|")]
    rows = [[line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")] for table in tables]
    assert [table[0] for table in rows] == [
        ["row", "encoder, ms", "ratio"],
        ["row", "click, ms", "ratio"],
        ["row", "training, images/s", "ratio"],
    ]
    assert [[row for row, *_ in table[2:]] for table in rows] == [["released", "ours", "ours+bf16"]] + 2 * [
        ["released", "ours"]
    ]
    released, ours = (float(row[1]) for row in rows[1][2:])
    assert float(rows[1][3][2]) == pytest.approx(released / ours, rel=0.02)
