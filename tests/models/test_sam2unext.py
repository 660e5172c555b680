"""SAM2-UNeXT: names, numbers, where its weights come from, and its way through the scripts that all models take."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sam2unet
from benchmarks import released
from sam2unet.families.load import load_model, read_checkpoint, save_checkpoint, start_model
from sam2unet.families.shape import NetworkShape
from sam2unet.families.table import FAMILIES
from sam2unet.layers.dino import SIDE, SIZES, Dino
from sam2unet.losses import structure_loss
from sam2unet.recipe import Recipe
from sam2unet.weights.formats import read_state_dict, same_bits, save_state
from sam2unet.weights.weight_files import WeightFile
from tests.conftest import ROOT, write_pairs

FAMILY = FAMILIES["sam2unext"]
SMALL = ["--model", "sam2unext", "--encoder", "micro"]


def meta_model(**sizes):
    with torch.device("meta"):
        return sam2unet.create_model("sam2unext", **sizes)


@pytest.fixture(scope="module")
def small(fill):
    """The smallest pair, with generated weights."""
    model = sam2unet.create_model("sam2unext", encoder="micro", dino="micro")
    model.load_state_dict(fill.fill_state_dict(model.state_dict(), 0))
    return model.eval()


@pytest.fixture(scope="module")
def dino_file(fill, tmp_path_factory):
    """A file as timm publishes it, of the small DINOv2 at 518x518."""
    import timm

    with torch.device("meta"):
        shapes = timm.create_model(SIZES["small"], num_classes=0).state_dict()
    path = tmp_path_factory.mktemp("dino") / "model.safetensors"
    save_file(fill.fill_state_dict(shapes, 1), path)
    return path


@pytest.fixture(scope="module")
def files(sam2_micro, dino_file, tmp_path_factory):
    """sam2.pt; d.pth, a DINOv2 as Meta publishes it; r.pth, one with registers."""
    folder = tmp_path_factory.mktemp("files")
    state = read_state_dict(dino_file) | {"mask_token": torch.zeros(1, 384)}
    torch.save(state, folder / "d.pth")
    torch.save(state | {"register_tokens": torch.zeros(1, 4, 384)}, folder / "r.pth")
    (folder / "sam2.pt").symlink_to(sam2_micro)
    return folder


def test_its_parts_have_the_released_numbers_of_parameters(reference):
    model = meta_model()
    counts = {part: sum(p.numel() for p in parameters) for part, parameters in FAMILY.parts(model).items()}
    expected = json.loads((reference / "parameter_counts.json").read_text())["sam2unext"]
    assert {part: counts[part] for part in ("adapters", "dino")} == {
        part: expected["by_group"][part] for part in ("adapters", "dino")
    }
    assert counts["trunk"] == expected["by_group"]["sam"]
    assert counts["adapters"] + counts["decoder"] == expected["parameters_trainable"]


@pytest.mark.parametrize("encoder, dino, channels", [("small", "base", 768), ("base_plus", "v3_small", 384)])
def test_every_trunk_goes_with_every_dino(encoder, dino, channels):
    model = meta_model(encoder=encoder, dino=dino).to("meta")  # with the positions of DINOv3, which are computed
    assert model.align1.in_channels == model.align4.in_channels == channels
    assert FAMILY.find_shape(model.state_dict()) == NetworkShape(encoder, dino)
    with torch.inference_mode():
        assert model(torch.empty(1, 3, 96, 64, device="meta"))[0].shape == (1, 1, 96, 64)


def test_dino_sees_the_image_at_448_without_its_last_norm(fill):
    """Against timm's own way to a list of feature maps."""
    import timm

    ours = Dino("small")
    theirs = timm.create_model(SIZES["small"], features_only=True, img_size=(SIDE, SIDE))
    state = fill.fill_state_dict(ours.state_dict(), 0)
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    image = fill.fill_input((1, 3, SIDE, SIDE), 0)
    with torch.inference_mode():
        assert torch.equal(ours(image), theirs(image)[-1])
        assert ours(image[..., ::2, ::3]).shape == (1, 384, 32, 32)


def test_published_weights_arrive_as_timm_itself_would_load_them(dino_file, fill, files):
    import timm

    own = dict(pretrained=True, pretrained_cfg_overlay={"file": str(dino_file)})
    theirs = timm.create_model(SIZES["small"], num_classes=0, img_size=SIDE, **own)
    model = sam2unet.create_model("sam2unext", encoder="micro", dinov2_path=str(dino_file))
    image = fill.fill_input((1, 3, SIDE, SIDE), 0)
    with torch.inference_mode():
        (expected,) = theirs.get_intermediate_layers(image, n=1, reshape=True)
        torch.testing.assert_close(model.dino(image), expected, rtol=0, atol=1e-5)
    # Meta's file of the same weights has one more tensor and is a PyTorch file.
    metas = sam2unet.create_model("sam2unext", encoder="micro", dinov2_path=files / "d.pth")
    assert all(same_bits(a, b) for a, b in zip(metas.dino.parameters(), model.dino.parameters(), strict=True))


def test_dinov3_computes_its_positions_also_when_loaded(fill, tmp_path):
    import timm

    with torch.device("meta"):
        shapes = timm.create_model(SIZES["v3_small"], num_classes=0).state_dict()
    save_file(fill.fill_state_dict(shapes, 1), tmp_path / "v3.safetensors")
    model = sam2unet.create_model("sam2unext", encoder="micro", dinov2_path=tmp_path / "v3.safetensors")
    save_state(model.state_dict(), tmp_path / "SAM2-UNeXT-1.pth")
    again = load_model(tmp_path / "SAM2-UNeXT-1.pth", "cpu")
    image = fill.fill_input((1, 3, 64, 64), 0)
    with torch.inference_mode():
        assert torch.equal(again(image)[0], model.eval()(image)[0])
        assert again.dino(image).shape == (1, 384, 28, 28)


def test_adapters_start_near_zero_and_dino_is_outside_autograd(small):
    torch.manual_seed(0)
    model = sam2unet.create_model("sam2unext", encoder="micro", dino="micro")
    linears = [m for block in model.sam.blocks for m in block.prompt_learn if isinstance(m, nn.Linear)]
    weights = torch.cat([linear.weight.flatten() for linear in linears])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02) and weights.mean().abs() < 1e-3
    assert not any(linear.bias.any() for linear in linears)
    seen = []
    model.dino.register_forward_hook(lambda module, given, made: seen.append(made))
    structure_loss(model(torch.randn(1, 3, 64, 64))[0], torch.rand(1, 1, 64, 64)).backward()
    assert seen[0].grad_fn is None
    named = dict(model.named_parameters())
    frozen = {name for name, p in named.items() if p.grad is None}
    assert frozen == {name for name in named if name.startswith(("sam.", "dino.")) and "prompt_learn" not in name}


def test_the_glue_equals_the_released_order_in_float64(small):
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    model = sam2unet.create_model("sam2unext", encoder="micro", dino="micro").double().eval()
    model.load_state_dict(small.state_dict())
    ours = model(image)[0]
    theirs = released.use_released_order_(model)(image)[0]
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_the_released_recipe_is_its_own():
    recipe = Recipe.read(model="sam2unext")
    assert (recipe.size, recipe.batch_size, recipe.lr, recipe.epoch) == (1024, 1, 2e-4, 20)
    assert recipe == Recipe.read(ROOT / "configs/sam2unext.yaml")
    assert Recipe.read(model="sam2unext", size=352).size == 352


def test_24_megabytes_are_trained(tmp_path):
    model = meta_model()
    zeros = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in model.state_dict().items()}
    assert 2.08e9 < sum(t.nbytes for t in zeros.values()) < 2.1e9
    weight_files = {
        "hiera_path": WeightFile("sam2_hiera_large.pt", "3f"),
        "dinov2_path": WeightFile("model.safetensors", "4e"),
    }
    save_checkpoint(model, tmp_path / "x.safetensors", weight_files, zeros)
    assert 23.5e6 < (tmp_path / "x.safetensors").stat().st_size < 24.5e6


def test_trained_weights_alone_need_both_files_again(sam2_micro, dino_micro, tmp_path):
    weight_paths = {"hiera_path": sam2_micro, "dinov2_path": dino_micro}
    model, weight_files = start_model("sam2unext", NetworkShape(), weight_paths)
    path = tmp_path / "trained.safetensors"
    save_checkpoint(model, path, weight_files)
    assert read_checkpoint(path).shape == NetworkShape("micro", "micro")
    again = load_model(str(path), "cpu", **{flag: str(file) for flag, file in weight_paths.items()})
    assert all(same_bits(t, again.state_dict()[name]) for name, t in model.state_dict().items())
    with pytest.raises(sam2unet.UserError, match="give --dinov2_path FILE, the weights .* model.safetensors, SHA"):
        load_model(path, "cpu", hiera_path=sam2_micro)
    with pytest.raises(sam2unet.UserError, match="give --hiera_path FILE --dinov2_path FILE"):
        load_model(path, "cpu")
    # What is not given stays in the file.
    _, only_dino = start_model("sam2unext", NetworkShape("micro"), {"dinov2_path": dino_micro})
    save_checkpoint(model, tmp_path / "half.safetensors", only_dino)
    assert path.stat().st_size + 0.8 * sam2_micro.stat().st_size < (tmp_path / "half.safetensors").stat().st_size
    half = load_model(tmp_path / "half.safetensors", "cpu", dinov2_path=dino_micro)
    assert all(same_bits(t, half.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--model", "sam2unet", "--dino", "small"], "SAM2-UNet takes no --dino; it takes --encoder"),
        ([*SMALL, "--dino", "giant"], "no dino named giant; there are small, base, large, v3_small"),
        ([*SMALL, "--dinov2_path", "sam2.pt"], "is a SAM 2 checkpoint, which belongs to --hiera_path"),
        (["--model", "sam2unext", "--hiera_path", "d.pth"], "is a DINOv2 checkpoint, which belongs to --dinov2_path"),
        ([*SMALL, "--dinov2_path", "d.pth", "--dino", "base"], "d.pth is DINOv2 small, but the req"),
        ([*SMALL, "--dinov2_path", "r.pth"], "r.pth is DINOv2 with registers; give the"),
    ],
)
def test_what_does_not_fit_is_one_line(flags, line, train_py, files, tmp_path, monkeypatch):
    images, masks = write_pairs(tmp_path)
    monkeypatch.chdir(files)
    folders = ["--train_image_path", images, "--train_mask_path", masks, "--save_path", tmp_path / "run"]
    ended = train_py(*folders, *flags)
    assert ended.is_refusal(line), ended
    assert not (tmp_path / "run").exists()


def test_the_three_scripts_take_it_as_they_take_the_other(train_py, test_py, eval_py, sam2_micro, dino_micro, tmp_path):
    images, masks = write_pairs(tmp_path, count=3)
    weight_paths = ["--hiera_path", sam2_micro, "--dinov2_path", dino_micro]
    folders = ["--train_image_path", images, "--train_mask_path", masks, "--save_path", tmp_path / "run"]
    fast = ["--epoch", 1, "--size", 64, "--workers", 0, "--grad_checkpointing", "--amp", "bf16", "--device", "cpu"]
    ended = train_py("--model", "sam2unext", *weight_paths, *folders, *fast, "--save", "trainable")
    assert ended.status == 0, ended.err
    assert "3 pairs at 64x64, batch 1" in ended.out
    recipe = Recipe.read(tmp_path / "run/recipe.yaml")
    assert (recipe.model, recipe.lr, recipe.batch_size) == ("sam2unext", 2e-4, 1)
    losses = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert losses and all("side1" not in line for line in losses)
    checkpoint = ["--checkpoint", tmp_path / "run/SAM2-UNeXT-1.safetensors", *weight_paths]
    ended = test_py(*checkpoint, "--test_image_path", images, "--save_path", tmp_path / "maps", "--fast")
    assert ended.status == 0, ended.err
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.png")) == ["a.png", "b.png", "c.png"]
    assert "3 images at 64x64" in ended.out
    assert Image.open(tmp_path / "maps/a.png").size == (60, 50)
    ended = eval_py("--dataset_name", "X", "--pred_path", tmp_path / "maps", "--gt_path", masks)
    assert ended.status == 0 and "MAE" in ended.out
