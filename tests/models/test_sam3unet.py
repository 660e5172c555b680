"""SAM3-UNet: its numbers, its rotations, stochastic depth, and the file that its weights come from."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

import sam2unet
from benchmarks import released
from sam2unet.families.load import load_model, save_checkpoint
from sam2unet.families.table import FAMILIES
from sam2unet.layers.sam3_vit import make_rotations
from sam2unet.losses import structure_loss
from sam2unet.masks.prediction.faster import fold_, pack_
from sam2unet.masks.step import mask_step
from sam2unet.recipe import Recipe
from sam2unet.runtime.processes import Processes
from sam2unet.training.speed import Speed
from sam2unet.training.trainer import Trainer, build_optimizer
from sam2unet.weights.formats import save_state
from sam2unet.weights.weight_files import WeightFile
from tests.conftest import ROOT, write_pairs

FAMILY = FAMILIES["sam3unet"]
CPU = torch.device("cpu")
TRUNK = "detector.backbone.vision_backbone.trunk."  # in sam3.pt


def close(ours, expected, atol):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def golden(reference):
    return np.load(reference / "sam3unet_forward.npz")


@pytest.fixture(scope="module")
def steps(reference):
    return np.load(reference / "sam3unet_train.npz")


@pytest.fixture(scope="module")
def large(fill):
    """The released size with generated weights; not to be changed."""
    with torch.device("meta"):
        model = sam2unet.create_model("sam3unet")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0), assign=True)
    return model.eval()


@pytest.fixture
def small(fill):
    model = sam2unet.create_model("sam3unet", encoder="micro").eval()
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    return model


# Numbers of the released system


def follow(model, image) -> dict[str, torch.Tensor]:
    """The maps (B, C, h, w) on the way to the logits, by the names of the reference."""
    maps, trunk = {}, model.sam3_vit
    parts = {"tokens": trunk.ln_pre, "trunk": trunk, "head": model.head}
    parts |= {f"block{number}": trunk.blocks[number] for number in (0, 6, 7, 8, 15, 23, 31)}
    parts |= {name: part for name, part in model.named_children() if name[:-1] in ("reduce", "up")}
    hooks = [
        part.register_forward_hook(lambda part, inputs, output, name=name: maps.update({name: output}))
        for name, part in parts.items()
    ]
    with torch.inference_mode():
        maps["out"] = model(image)[0]
    for hook in hooks:
        hook.remove()
    for name in maps:
        if name == "tokens" or name.startswith("block"):
            maps[name] = maps[name].permute(0, 3, 1, 2)
    return maps


@pytest.mark.parametrize(
    "case", ["112x112_batch2", *(pytest.param(case, marks=pytest.mark.slow) for case in ("336x336", "448x448"))]
)  # at 112 and 448, windows have padding; at 112 and 336, the decoder crops
def test_forward_agrees_with_the_released_system(case, large, golden, fill):
    side, count = int(case.split("x")[0]), 2 if case.endswith("batch2") else 1
    maps = follow(large, fill.fill_input((count, 3, side, side), 0))
    assert len(maps) == 19
    for name, value in maps.items():
        channels = {"out": 1, "head": 1, "trunk": 16, "tokens": 64}.get(name, 64 if "block" in name else 8)
        step = 8 if name == "out" else max(1, value.shape[-1] // (20 if name == "head" else 8))
        assert list(value.shape) == golden[f"{case}/{name}.shape"].tolist()
        # Rounding alone gives 4e-6 on maps that spread over 0.4 to 2.
        close(value[:, ::channels, ::step, ::step], golden[f"{case}/{name}"], 1e-4)
        moments = torch.stack([value.double().mean(), value.double().std(correction=0)])
        close(moments, golden[f"{case}/{name}.mean_std"], 1e-5)


@pytest.mark.parametrize("side", [112, 336, 448, 504])
def test_rotations_are_the_released_ones(side, golden):
    cos, sin = make_rotations(side // 14, side // 14, 64, CPU).flatten(1, 2)
    close(cos[::37], golden[f"rope/{side}.cos"], 1e-6)
    close(sin[::37], golden[f"rope/{side}.sin"], 1e-6)


@pytest.mark.slow
def test_a_forward_pass_in_training_drops_the_same_branches(large, steps, fill, monkeypatch):
    close(large.sam3_vit.drop_rates, steps["drop_path/rates"], 1e-8)
    kept = torch.ones(32, 2, 2, dtype=torch.bool)
    kept[1:] = torch.from_numpy(steps["drop_path/kept"])
    factors = kept / (1 - torch.from_numpy(steps["drop_path/rates"])).view(-1, 1, 1)
    monkeypatch.setattr(large.sam3_vit, "draw_factors", lambda count: factors[..., None, None, None].float())
    with torch.no_grad():
        out = copy.deepcopy(large).train()(fill.fill_input((2, 3, 112, 112), 0))[0]
    close(out[..., ::8, ::8], steps["drop_path/out"], 1e-4)
    loss = structure_loss(out, fill.fill_mask((2, 1, 112, 112), 0)).item()
    assert loss == pytest.approx(float(steps["drop_path/loss"]), rel=1e-6)


@pytest.mark.slow
def test_three_steps_in_float64_agree_with_the_released_system(large, steps, fill):
    model, recipe = copy.deepcopy(large).double().train(), Recipe.read(model="sam3unet")
    model.sam3_vit.drop_rates = [0.0] * 32
    model.sam3_vit.checkpointing = True
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = {group: [] for group in steps["groups"]}
    for name, parameter in trained.items():
        groups["adapters" if "prompt_learn" in name else name.split(".")[0]].append(parameter)
    before = {group: [p.detach().clone() for p in parameters] for group, parameters in groups.items()}
    optimizer, schedule = build_optimizer(trained.values(), recipe)
    for step in range(3):
        image, mask = fill.fill_input((2, 3, 112, 112), 100 + step), fill.fill_mask((2, 1, 112, 112), 100 + step)
        loss = structure_loss(model(image.double())[0], mask.double())
        optimizer.zero_grad()
        loss.backward()
        assert loss.item() == pytest.approx(steps["loss"][step], abs=2e-8)
        assert [norm(p.grad for p in group) for group in groups.values()] == pytest.approx(steps["grad_norm"][step])
        optimizer.step()
    schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(steps["lr"][3])
    assert [norm(group) for group in groups.values()] == pytest.approx(steps["param_norm"])
    changes = [norm(p - old for p, old in zip(groups[name], before[name], strict=True)) for name in groups]
    assert changes == pytest.approx(steps["param_change_norm"])
    for kind in ("mean", "var"):
        buffers = [[b for n, b in model.named_buffers() if n.startswith(up) and kind in n] for up in steps["bn_groups"]]
        assert [norm(group) for group in buffers] == pytest.approx(steps[f"bn_{kind}_norm"])
    with torch.inference_mode():
        out = model.eval()(fill.fill_input((1, 3, 112, 112), 7).double())[0]
    close(out[..., ::8, ::8], steps["eval/out"], 1e-6)


def norm(tensors) -> float:
    return float(sum(t.detach().square().sum() for t in tensors).sqrt())


# Attention and sizes


@pytest.mark.parametrize("height, width", [(70, 70), (350, 350), (84, 364)])
def test_attention_without_padded_queries_equals_the_released_order(height, width, small, fill):
    """One window with padding; four windows of 25 x 25 tokens; a grid that is no square."""
    image = fill.fill_input((1, 3, height, width), 0).double()
    plain, padded = small.double(), released.use_released_order_(copy.deepcopy(small).double())
    with torch.inference_mode():
        ours, theirs = plain(image)[0], padded(image)[0]
    assert theirs.std() > 0.05 and ours.shape == (1, 1, height, width)
    close(ours, theirs, 1e-6)  # rotations have float32 precision in both


def test_pixels_beyond_the_last_patch_are_not_seen_and_small_sides_are_named(small):
    image = torch.randn(1, 3, 90, 70)
    changed = image.clone()
    changed[:, :, 84:] = 0
    with torch.inference_mode():
        assert torch.equal(small(image)[0], small(changed)[0])
    with pytest.raises(sam2unet.UserError, match="31x70 pixels .*: both sides must be at least 32$"):
        small(image[:, :, :31])


def test_fast_layers_give_the_same_logits(small, fill):
    image = fill.fill_input((1, 3, 84, 84), 0)
    fast = pack_(fold_(copy.deepcopy(small)))
    assert not any(isinstance(module, (nn.BatchNorm2d, nn.Linear)) for module in fast.modules())
    with torch.inference_mode():
        close(fast(image)[0], small(image)[0], 1e-5)


# Stochastic depth


def test_branches_are_dropped_for_single_images_and_their_mean_stays(small):
    trunk = small.sam3_vit
    assert trunk.drop_rates == pytest.approx([0, 0.05, 0.1])
    factors = trunk.draw_factors(4000)
    assert factors.shape == (3, 2, 4000, 1, 1, 1)
    assert factors.unique().tolist() == pytest.approx([0, 1, 1 / 0.95, 1 / 0.9])
    close((factors == 0).float().mean(2).flatten(1), [[0, 0], [0.05, 0.05], [0.1, 0.1]], 0.02)
    assert not torch.equal(factors[2, 0], factors[2, 1])
    block, x = trunk.blocks[2].block, torch.randn(2, 5, 5, 32)
    rotations = make_rotations(24, 24, 16, CPU)
    drop_all, keep_second = torch.zeros(2, 2, 1, 1, 1), torch.tensor([[0.0, 1], [0, 1]]).view(2, 2, 1, 1, 1)
    with torch.no_grad():
        assert torch.equal(block(x, rotations, drop_all), x)
        mixed = block(x, rotations, keep_second)
        assert torch.equal(mixed[0], x[0]) and not torch.equal(mixed[1], x[1])
        close(mixed[1], block(x, rotations)[1], 1e-6)


@pytest.mark.parametrize("options", [{}, {"grad_checkpointing": True}])
def test_what_is_dropped_depends_on_seed_and_step_alone(options, small, fill):
    """Other draws between two steps, as by a loader after a resume, change nothing."""
    batch = fill.fill_input((2, 3, 84, 84), 0), fill.fill_mask((2, 1, 84, 84), 0)
    small.sam3_vit.drop_rates = [0.5] * 3  # so that two steps differ
    losses = []
    for draws in (0, 7):
        recipe = Recipe.read(model="sam3unet", size=84, lr=1e-30)
        model = copy.deepcopy(small).train()
        trainer = Trainer(FAMILY, mask_step, model, recipe, Speed(**options), CPU, Processes())
        for _ in range(2):
            torch.rand(draws)
            losses.append(trainer.update([batch], [1.0])[0][0]["total"].item())
    assert losses[:2] == losses[2:] and losses[0] != losses[1]


# Files


def test_rotations_are_written_as_released_and_never_read(small, tmp_path):
    name, rotations = "sam3_vit.blocks.1.block.attn.freqs_cis", make_rotations(24, 24, 16, CPU).flatten(1, 2)
    save_checkpoint(small, tmp_path / "SAM3-UNet-20.pth")
    state = torch.load(tmp_path / "SAM3-UNet-20.pth", weights_only=True)
    assert torch.equal(state[name], torch.complex(*rotations))
    others = {key: t for key, t in state.items() if "freqs_cis" not in key}
    for number, table in enumerate((torch.zeros(5184, 8, dtype=torch.complex64), torch.zeros(3), None)):
        save_state(others if table is None else state | {name: table}, tmp_path / f"{number}.pth")
        loaded = load_model(tmp_path / f"{number}.pth", "cpu")
        assert torch.equal(loaded.state_dict()[name], state[name])
        assert torch.equal(loaded(torch.ones(1, 3, 84, 84))[0], small(torch.ones(1, 3, 84, 84))[0])
    small.load_state_dict(others, strict=True)
    assert not any("freqs_cis" in key for key, _ in small.named_buffers())


def test_a_trunk_arrives_from_sam3_pt_and_its_licence_is_stated_once(sam3_micro, small, capsys, tmp_path):
    state = torch.load(sam3_micro)
    rotations = torch.zeros(5184, 8, dtype=torch.complex64)
    torch.save({"model": state | {f"{TRUNK}blocks.1.attn.freqs_cis": rotations}}, tmp_path / "sam3.pt")
    for path in (sam3_micro, tmp_path / "sam3.pt"):  # flat, and as SAM 3's own reader accepts too
        capsys.readouterr()
        model = sam2unet.create_model("sam3unet", sam3_path=path)
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("weights: sam3.pt, SAM 3 micro, SHA-256 ")
        assert second.startswith("licence: SAM 3 is under Meta's SAM License, and so is each checkpoint")
        ours = model.state_dict()
        for name, value in state.items():
            if name.startswith(TRUNK) and "freqs_cis" not in name:
                name = re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.block.", name.removeprefix(TRUNK))
                assert torch.equal(ours[f"sam3_vit.{name}"], value)


@pytest.mark.parametrize(
    "names, words",
    [
        (["tracker.weight"], "is an unknown kind of checkpoint (its first name is tracker.weight); --sam3_path takes"),
        (["image_encoder.trunk.pos_embed"], "is a SAM 2 checkpoint, which belongs to --hiera_path of train.py; --sam3"),
        (["vision_encoder.backbone.layer_norm.weight"], "is the copy of SAM 3 for transformers, with other names; --"),
        ([f"{TRUNK}pos_embed"], "a SAM 3 checkpoint of none of the sizes large, micro"),
        ([], "does not fit Sam3ViT: 1 names are missing, 1 are unknown, 0 have another shape; first: ln_pre.bias"),
    ],
)
def test_another_file_is_one_line(names, words, sam3_micro, tmp_path, train_py):
    state = {name: torch.zeros(1) for name in names} or torch.load(sam3_micro)
    if not names:
        state[f"{TRUNK}x"] = state.pop(f"{TRUNK}ln_pre.bias")
    torch.save(state, tmp_path / "x.pt")
    images, masks = write_pairs(tmp_path)
    folders = ["--train_image_path", images, "--train_mask_path", masks, "--save_path", tmp_path / "run"]
    ended = train_py("--model", "sam3unet", "--sam3_path", tmp_path / "x.pt", *folders)
    assert ended.is_refusal(words) and "x.pt" in ended.err[0], ended
    assert not (tmp_path / "run").exists()


def test_the_released_recipe_is_its_own():
    recipe = Recipe.read(model="sam3unet")
    assert (recipe.size, recipe.batch_size, recipe.lr, recipe.epoch) == (336, 12, 2e-4, 20)
    assert recipe == Recipe.read(ROOT / "configs/sam3unet.yaml")


def test_11_megabytes_are_trained(tmp_path):
    with torch.device("meta"):
        model = sam2unet.create_model("sam3unet")
    zeros = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in model.state_dict().items()}
    assert 1.80e9 < sum(t.nbytes for t in zeros.values()) < 1.81e9
    save_checkpoint(model, tmp_path / "x.safetensors", {"sam3_path": WeightFile("sam3.pt", "3f")}, zeros)
    assert 11e6 < (tmp_path / "x.safetensors").stat().st_size < 11.3e6
