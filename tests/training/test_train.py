"""Training: the released optimiser's steps, and train.py as a process."""

import re

import pytest
import torch
import yaml

import sam2unet
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.training.trainer import build_optimizer
from tests.conftest import write_pairs


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def test_three_released_steps_train_adapters_and_decoder_alone(fill):
    model = sam2unet.create_model("sam2unet", encoder="micro").train()
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer, _ = build_optimizer(trained(model), Recipe())
    for seed in range(3):
        batch = fill.fill_input((2, 3, 64, 64), seed), fill.fill_mask((2, 1, 64, 64), seed)
        for losses in mask_step(model, batch, Recipe()):
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    same = {name for name, t in model.state_dict().items() if torch.equal(t, before[name])}
    frozen = {name for name in before if name.startswith("encoder.") and "prompt_learn" not in name}
    assert same == frozen | {name for name in before if name.startswith("up4.")}


def test_steps_equal_the_released_script_s(fill):
    """AdamW over every parameter and the loss written out, as the released script has it."""
    ours, theirs = (sam2unet.create_model("sam2unet", encoder="micro").double() for _ in range(2))
    for model in (ours, theirs):
        model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    optimizer, schedule = build_optimizer(trained(ours), Recipe(epoch=2))
    released = torch.optim.AdamW([{"params": theirs.parameters(), "initia_lr": 0.001}], lr=0.001, weight_decay=5e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(released, 2, eta_min=1.0e-7)
    for seed in range(2):
        image = fill.fill_input((2, 3, 64, 64), seed).double()
        mask = fill.fill_mask((2, 1, 64, 64), seed).double()
        (losses,) = mask_step(ours, (image, mask), Recipe())
        loss = sum(losses.values())
        main, side1, side2 = theirs(image)
        total = sum(sam2unet.structure_loss(out, mask) for out in (main, side1, side2))
        assert loss.item() == pytest.approx(total.item(), rel=1e-12)
        for objective, steps in ((loss, (optimizer, schedule)), (total, (released, cosine))):
            steps[0].zero_grad()
            objective.backward()
            for step in steps:
                step.step()
    for mine, released_weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, released_weight)


def test_the_learning_rate_falls_along_a_cosine_to_1e_7():
    model = torch.nn.Linear(1, 1)
    optimizer, schedule = build_optimizer(trained(model), Recipe(epoch=20))
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 1e-3 and rates[10] == pytest.approx((1e-3 + 1e-7) / 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-7)


def run(script, folder, name, *flags):
    images, masks = write_pairs(folder, count=5)
    small = ["--encoder", "micro", "--size", 64, "--batch_size", 2, "--save_path", folder / name]
    result = script("train.py", "--train_image_path", images, "--train_mask_path", f"{masks}/", *small, *flags)
    assert result.returncode == 0, result.stderr
    return result


def test_a_run_says_what_it_does_and_leaves_the_released_files(script, tmp_path):
    result = run(script, tmp_path, "run", "--epoch", 6)
    files = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert files == {"SAM2-UNet-5.pth", "SAM2-UNet-6.pth", "last.pt", "metrics.jsonl", "recipe.yaml", "run.json"}
    assert "whole network trains from random" in result.stdout
    assert re.search(r"trunk +63,552  trained\nadapters +4,288  trained\ndecoder +2,013,379  trained", result.stdout)
    assert "data: 5 pairs at 64x64, batch 2, on" in result.stdout
    assert len(re.findall(r"^epoch \d/6  loss \d\.\d{4}  [\d.]+ images/s$", result.stdout, re.M)) == 6
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["size"] == 64 and recipe["encoder"] == "micro" and recipe["lr"] == 1e-3
    first, last = (sam2unet.load_model(tmp_path / f"run/SAM2-UNet-{n}.pth", "cpu").state_dict() for n in (5, 6))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"encoder", *(f"rfb{i}" for i in (1, 2, 3, 4)), "up1", "up2", "up3", "side1", "side2", "head"}


def test_upstream_s_command_line_is_read_as_upstream_reads_it():
    import train

    line = "--hiera_path h.pt --train_image_path i/ --train_mask_path m/ --save_path s --epoch 20 --lr 0.001"
    args = train.parser().parse_args([*line.split(), "--batch_size", "12", "--weight_decay", "5e-4"])
    flags = {name: getattr(args, name) for name in ("epoch", "lr", "batch_size", "weight_decay")}
    assert Recipe.read(args.config, **flags) == Recipe() == Recipe.read()
    assert Recipe() == Recipe(size=352, epoch=20, batch_size=12, lr=1e-3, weight_decay=5e-4)


def test_a_recipe_is_defaults_then_file_then_flags(tmp_path):
    (tmp_path / "r.yaml").write_text("lr: 2e-4\nepoch: 50\nsize: 1024\n")
    recipe = Recipe.read(tmp_path / "r.yaml", epoch=3, size=None)
    assert (recipe.lr, recipe.epoch, recipe.size, recipe.batch_size) == (2e-4, 3, 1024, 12)
    recipe.write(tmp_path / "copy.yaml")
    assert Recipe.read(tmp_path / "copy.yaml") == recipe
